"""The distillation options of an ESPnet configuration, checked."""

import argparse
from collections.abc import Mapping
from typing import Any

import yaml

from espnet_kd.command_line import example
from espnet_kd.config import parse_yaml, with_numbers
from espnet_kd.errors import UserError
from espnet_kd.host.options import NestedDictAction, str2bool
from espnet_kd.methods.target_choice import AUTO, CHOICES
from espnet_kd.schedule import Schedule, build_schedule
from espnet_kd.teachers.options import TEACHER_KEYS, TERM_KEYS, check_k, teacher_options, term_options


class StrictDictAction(NestedDictAction):
    """ESPnet's action for mappings on the command line, KEY=YAML or a whole mapping, read strictly."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: str, option_strings: str | None = None
    ) -> None:
        """Check, then do what ESPnet's does."""
        parse_yaml(values.partition("=")[2] if "=" in values else values, f"--{self.dest} {values!r}")
        try:
            super().__call__(parser, namespace, values, option_strings)
        except yaml.YAMLError:  # the parser in Python takes no tabs
            raise UserError(f"--{self.dest} {values!r}: not YAML") from None


def read_numbers(args: argparse.Namespace) -> None:
    """Make numbers of texts like 1e-3 in ESPnet's mappings (``optim_conf``), as it does elsewhere."""
    for key, value in vars(args).items():
        if key.endswith("_conf"):
            setattr(args, key, with_numbers(value))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add our options to ESPnet's parser."""
    parser.prog, parser.epilog = "espnet-kd train", f"example: {example('train')}"
    group = parser.add_argument_group("Distillation")
    for name, text in (
        (
            "teacher",
            f"Trained experiment(s), a mapping with {', '.join(TEACHER_KEYS)}; exp is a directory or a list, "
            "store a directory of targets written before",
        ),
        (
            "criteria",
            f"Name to a mapping with {', '.join(TERM_KEYS)} and the options of that type of criterion",
        ),
        (
            "init_from_teacher",
            "Parts of the student to copy: path to true, a teacher path or a list of layers",
        ),
        ("mutual", "Train several models together: a mapping, see espnet_kd/tasks/mutual.py"),
        ("scheduled_sampling", "Train the Transformer decoder on its own predictions: {probability: 0.2}"),
    ):
        group.add_argument(f"--{name}", action=StrictDictAction, default={}, help=text)
    group.add_argument(
        "--targets",
        help="What counts of the teacher: soft (criteria), hard (pseudo-labels), both (default), or auto",
    )
    group.add_argument("--delay_student", help="Trained student that `delay: auto` measures; a directory")
    group.add_argument(
        "--share_per_batch",
        type=str2bool,
        help="Give every batch the training set's share of pseudo-labelled speech",
    )
    group.add_argument(
        "--task_weight", type=parse_yaml, default=1.0, help="Weight of the task loss, or its schedule"
    )


def check_options(args: argparse.Namespace, classes: int) -> None:
    """Refuse what would be found at the first batch, or would do nothing.

    Args:
        classes: tokens of the model.

    Raises:
        UserError: it is there.
    """
    if args.targets not in (None, AUTO, *CHOICES):
        raise UserError(f"targets: {args.targets!r} is none of {AUTO}, {', '.join(CHOICES)}")
    task_weight = build_schedule(args.task_weight, "task_weight")
    alone = not args.criteria and not args.mutual
    if alone and args.targets != "hard" and task_weight != Schedule(1.0, 1.0):
        raise UserError(
            f"task_weight is {args.task_weight}, but there are no criteria beside the task: give some, or "
            "leave it out"
        )
    if alone and (args.targets == "soft" or (args.targets == AUTO and not args.teacher)):
        raise UserError(f"targets: {args.targets} is about criteria, of which there are none: leave it out")
    mutual = args.mutual.get("criteria") if isinstance(args.mutual, Mapping) else None
    for option, criteria in (("criteria", args.criteria), ("mutual: criteria", mutual or {})):
        check_k(term_options(criteria), classes, option)
    k = teacher_options(args.teacher).k if args.teacher else None
    if k is not None and k > classes:
        raise UserError(f"teacher: k is {k}, but the model has {classes} classes")
