"""Choose what a student learns from its teacher: posteriors, hypotheses or both."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_kd.data.dump import are_hypotheses
from espnet_kd.errors import UserError
from espnet_kd.files import read_table, table_files
from espnet_kd.schedule import build_schedule
from espnet_kd.teachers.experiment import read_config

# What each choice uses; a transcript counts in all of them.
CHOICES = {
    "soft": "the criteria on all speech, pseudo-labels only as their paths through the lattice",
    "hard": "the task loss on transcripts and pseudo-labels; no criteria, and task_weight does not count",
    "both": "the task loss on transcripts and pseudo-labels, and the criteria on all speech",
}
AUTO = "auto"
ARCHITECTURE = ("encoder", "encoder_conf", "decoder", "decoder_conf", "joint_network_conf")
STREAMING = "dynamic_chunk_training"
SOURCE = "Hwang et al. 2022, arXiv:2210.05793"


def choose_targets(args: argparse.Namespace, lattice: bool = True) -> str:
    """Put the choice in the place of ``auto``, and log it with its reason.

    Args:
        lattice: the student is a transducer, which can learn a hypothesis as a path, but not as a text.

    Raises:
        UserError: no such choice, ``auto`` without a teacher, or ``soft`` for what the student cannot do.
    """
    if args.targets is None:
        return "both"
    if args.targets not in (*CHOICES, AUTO):
        raise UserError(f"targets: {args.targets!r} is none of {AUTO}, {', '.join(CHOICES)}")
    reason = "the configuration says so"
    if args.targets == AUTO:
        exp = (args.teacher or {}).get("exp")
        if not exp:
            raise UserError("targets: auto compares student and teacher: give `teacher: {exp: DIRECTORY}`")
        teachers = [exp] if isinstance(exp, str) else exp
        found = {rule(vars(args), read_config(Path(teacher))) for teacher in teachers}
        args.targets, reason = min(found)  # hard is before soft: one teacher of another kind decides
        if args.targets == "soft" and not lattice and has_hypotheses(args):
            args.targets, reason = (
                "both",
                f"{reason}; only transducers can leave pseudo-labels out of their loss",
            )
    elif args.targets == "soft" and not lattice and has_hypotheses(args):
        raise UserError(
            "targets: soft leaves pseudo-labels out of the task loss, which only transducers "
            "(--task asr_transducer) can: use both, or hard"
        )
    logging.info(f"targets: {args.targets}: {CHOICES[args.targets]}; {reason}")
    return args.targets


def has_hypotheses(args: argparse.Namespace) -> bool:
    """True if there are pseudo-labels in the training set."""
    return any(
        any(are_hypotheses(list(read_table(file))))
        for shapes in args.train_shape_file[:1]
        for file in table_files(shapes)
    )


def rule(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> tuple[str, str]:
    """The choice for two configurations, and the reason.

    Source:
        The abstract of Hwang et al. 2022, arXiv:2210.05793: hard targets are better where the architectures
        differ, such as those of a large teacher and a small streaming student; soft ones for self-training.
    """
    streaming = [bool(_encoder(c).get(STREAMING)) for c in (student, teacher)]
    if streaming == [True, False]:
        return "hard", f"the student streams, the teacher does not ({SOURCE})"
    differing = [key for key in ARCHITECTURE if _shape(student.get(key)) != _shape(teacher.get(key))]
    if differing:
        return "hard", f"{differing[0]} of student and teacher differ ({SOURCE})"
    return "soft", f"student and teacher have one architecture ({SOURCE})"


def _encoder(config: Mapping[str, Any]) -> Mapping[str, Any]:
    conf = config.get("encoder_conf") or {}
    return conf.get("main_conf") or conf


def _shape(value: Any) -> Any:
    """A part of a configuration without what changes no shape of a tensor: dropout, what is off or empty."""
    if isinstance(value, Mapping):
        parts = {key: _shape(item) for key, item in value.items() if "dropout" not in key}
        return {key: part for key, part in parts.items() if part is not None} or None
    if isinstance(value, list | tuple):
        return [_shape(item) for item in value]
    return value or None


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
