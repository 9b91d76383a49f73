"""Training on speech without transcripts: what allows it."""

import argparse
from collections.abc import Mapping
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.models.schedule import build_schedule

TAPS = ("tap", "student_tap", "teacher_tap")
READERS = ("decoder", "joint_network")  # parts of a model that text goes into


def obstacle(task_weight: object, criteria: Mapping[str, Any]) -> str | None:
    """What looks at transcripts, for the message of an error; None if nothing does."""
    if not build_schedule(task_weight, "task_weight").is_zero:
        return f"task_weight is {task_weight}, not 0"
    for name, entry in criteria.items():
        taps = [str(entry[key]) for key in TAPS if key in entry] if isinstance(entry, Mapping) else []
        readers = [tap for tap in taps if tap.split(".")[0] in READERS]
        if readers or not taps:
            return f"criterion {name} has {'the tap ' + readers[0] if readers else 'no tap'}"
    return None if criteria else "there are no criteria"


def check_transcripts(args: argparse.Namespace) -> None:
    """Refuse training data without text for a training that needs it.

    Raises:
        UserError: it does.
    """
    data = args.train_data_path_and_name_and_type or []
    if not data or any(name == "text" for _, name, _ in data):
        return
    reason = "statistics are collected" if args.collect_stats else obstacle(args.task_weight, args.criteria)
    if reason is not None:
        raise UserError(
            f"{data[0][0]} comes without text, but {reason}: give a `text`, or use `task_weight: 0` and "
            "criteria on the encoder alone"
        )
