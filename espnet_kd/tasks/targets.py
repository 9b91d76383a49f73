"""What a student learns from its teacher: posteriors, hypotheses or both."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
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


def settle_targets(args: argparse.Namespace) -> str:
    """Put the choice in the place of ``auto``, and log it with its reason.

    Raises:
        UserError: no such choice, or ``auto`` without a teacher.
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
    logging.info(f"targets: {args.targets}: {CHOICES[args.targets]}; {reason}")
    return args.targets


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
    """A part of a configuration without what changes no shape of a tensor: dropout."""
    if isinstance(value, Mapping):
        return {key: _shape(item) for key, item in value.items() if "dropout" not in key}
    if isinstance(value, list | tuple):
        return [_shape(item) for item in value]
    return value or None
