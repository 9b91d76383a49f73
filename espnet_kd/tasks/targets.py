"""What a student learns from its teacher: posteriors, hypotheses or both."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import read_table, table_files
from espnet_kd.models.hypotheses import are_hypotheses
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


def settle_targets(args: argparse.Namespace, lattice: bool = True) -> str:
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
