"""The distillation options of an ESPnet configuration, checked."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str2bool

from espnet_kd.criteria import CRITERIA, Criterion, build_criterion
from espnet_kd.criteria.options import check_choice, check_positive, check_size
from espnet_kd.criteria.weights import BLANK
from espnet_kd.errors import UserError
from espnet_kd.models.distilled import Term
from espnet_kd.models.schedule import Schedule, build_schedule
from espnet_kd.models.short import warn_once
from espnet_kd.safe_yaml import parse_yaml, with_numbers
from espnet_kd.tasks.targets import AUTO, CHOICES
from espnet_kd.teachers.lattice import LATTICE
from espnet_kd.teachers.online import Mean

TEACHER_KEYS = ("exp", "checkpoint", "weights", "mean", "store", "k")
TERM_KEYS = ("type", "weight", "tap", "student_tap", "teacher_tap", "frame_rate")
FRAME_RATES = ("equal", "resample")


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
    parser.prog = "espnet-kd train"
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


def check_k(terms: Sequence["TermOptions"], classes: int, option: str = "criteria") -> None:
    """Refuse a criterion on the K most probable of fewer classes.

    Raises:
        UserError: there is one; names the option that it is in.
    """
    for t in terms:
        k = getattr(t.build(), "k", None) if t.kind == "topk" else None
        if k is not None and k > classes:
            raise UserError(f"{option}: {t.term.name}: k is {k}, but the model has {classes} classes")


@dataclass(frozen=True)
class TeacherOptions:
    """Where the teachers lie.

    Attributes:
        directories: experiment directories.
        checkpoint: file name in each of them; None for the default.
        weights: in the mean of an ensemble; None for equal ones.
        mean: what is averaged.
        store: directory of stored targets, which stand for the teachers.
        k: how many classes the store keeps; None for as many as the criteria need.
    """

    directories: tuple[str, ...]
    checkpoint: str | None
    weights: tuple[float, ...] | None = None
    mean: Mean = "posteriors"
    store: str | None = None
    k: int | None = None


def teacher_options(teacher: Mapping[str, Any]) -> TeacherOptions:
    """Check the option ``teacher``."""
    if not isinstance(teacher, Mapping):
        raise UserError(f"teacher: {teacher!r} is not a mapping; write `teacher: {{exp: DIRECTORY}}`")
    refuse_unknown("teacher", teacher, TEACHER_KEYS)
    exp, store = teacher.get("exp"), teacher.get("store")
    directories = [exp] if isinstance(exp, str) else exp
    if exp is None and isinstance(store, str) and store:
        directories = []
    elif (
        not directories
        or not isinstance(directories, list)
        or not all(isinstance(d, str) and d for d in directories)
    ):
        raise UserError(
            "teacher: exp is missing: give the directory of a trained experiment, `--teacher exp=DIRECTORY`, "
            "or store=DIRECTORY of targets"
        )
    weights = with_numbers(teacher.get("weights"))
    try:
        mean = check_choice("mean", teacher.get("mean", "posteriors"), Mean)
        k = None if teacher.get("k") is None else check_size("k", teacher["k"])
    except ValueError as e:
        raise UserError(f"teacher: {e}") from None
    if weights is not None:
        weights = _mean_weights(weights, len(directories))
    checkpoint = teacher.get("checkpoint")
    if not isinstance(checkpoint, str | None):
        raise UserError(f"teacher: checkpoint is {checkpoint!r}, not the name of a file")
    return TeacherOptions(tuple(directories), checkpoint, weights, mean, store, k)


def _mean_weights(weights: object, teachers: int) -> tuple[float, ...]:
    try:
        found = tuple(check_positive("weights", w) for w in weights) if isinstance(weights, list) else ()
    except ValueError:
        found = ()
    if not found or len(found) != teachers:
        raise UserError(
            f"teacher: weights is {weights!r}: give one number above 0 for each of {teachers} teachers"
        )
    return found


@dataclass(frozen=True)
class TermOptions:
    """One entry of ``criteria``: the term and what its criterion is made of.

    ``resample``: the teacher's frames are brought to the student's rate, whose ratio the models tell.
    """

    term: Term
    kind: str
    options: dict[str, Any]
    resample: bool = False

    def build(self) -> Criterion:
        """Make the criterion."""
        try:
            return build_criterion(self.kind, **self.options)
        except (ValueError, TypeError) as e:
            raise UserError(f"criteria: {self.term.name}: {e}") from None


def term_options(criteria: Mapping[str, Any]) -> list[TermOptions]:
    """Check the option ``criteria``."""
    if not isinstance(criteria, Mapping):
        raise UserError(f"criteria: {criteria!r} is not a mapping: write `NAME: {{type: ..., tap: ...}}`")
    result = []
    for name, entry in criteria.items():
        if not isinstance(entry, Mapping) or "type" not in entry:
            raise UserError(f"criteria: {name}: write `{name}: {{type: ..., weight: ..., tap: ...}}`")
        if not str(name).isidentifier():
            raise UserError(f"criteria: {name!r} is not a name: use letters, digits and _")
        both = entry.get("tap", LATTICE if on_lattice(entry["type"]) else None)
        student, teacher = entry.get("student_tap", both), entry.get("teacher_tap", both)
        if not (student and isinstance(student, str) and teacher and isinstance(teacher, str)):
            raise UserError(
                f"criteria: {name}: give tap, or student_tap and teacher_tap (such as ctc.ctc_lo or decoder)"
            )
        _check_lattice(name, entry, student, teacher)
        weight = build_schedule(entry.get("weight", 1.0), f"criteria: {name}.weight")
        options = {key: with_numbers(value) for key, value in entry.items() if key not in TERM_KEYS}
        term = Term(str(name), weight, student, teacher)
        result.append(TermOptions(term, entry["type"], options, _resample(term, entry)))
    lattices = [t.term.name for t in result if t.term.student_tap == LATTICE]
    if len(lattices) > 1:
        raise UserError(f"criteria: {lattices[0]} and {lattices[1]} are both on the lattice: choose one")
    return result


def _check_lattice(name: str, entry: Mapping[str, Any], student: str, teacher: str) -> None:
    """Refuse what a criterion on the lattice cannot have, and the lattice for other criteria.

    Raises:
        UserError: type and taps do not fit, or the blank is not that of ESPnet's models.
    """
    taps = {student, teacher}
    if not on_lattice(entry["type"]):
        if LATTICE in taps and entry["type"] in CRITERIA:
            raise UserError(
                f"criteria: {name}: {LATTICE} has a lattice: write `type: transducer`, or choose another tap"
            )
        return
    if taps != {LATTICE}:
        raise UserError(f"criteria: {name}: the type {entry['type']} is on the lattice: leave out its taps")
    if entry.get("blank", BLANK) != BLANK:
        raise UserError(
            f"criteria: {name}: blank is {entry['blank']!r}, but the models have it at token {BLANK}: "
            "leave it out"
        )
    changed = {"mean": "the mean over all nodes of the batch", None: "the sum over the nodes of an utterance"}
    reduction = entry.get("reduction")
    if reduction in changed and not entry.get("normalize"):
        warn_once(  # the options are read more than once
            f"criteria: {name}: reduction {reduction or 'left out'}: {changed[reduction]}; earlier versions "
            "took the mean over the nodes of each utterance: `reduction: utterance` with `normalize: nodes`"
        )


def _resample(term: Term, entry: Mapping[str, Any]) -> bool:
    rate = entry.get("frame_rate", FRAME_RATES[0])
    if rate not in FRAME_RATES:
        raise UserError(f"criteria: {term.name}: frame_rate is {rate!r}; known: {', '.join(FRAME_RATES)}")
    steps = [tap for tap in (term.student_tap, term.teacher_tap) if tap.split(".")[0] in ("decoder", LATTICE)]
    if rate == "resample" and steps:
        raise UserError(f"criteria: {term.name}: `frame_rate: resample` is for frames, not for {steps[0]}")
    return rate == "resample"


def on_lattice(kind: object) -> bool:
    """True for a type of criterion whose only tap is the lattice of a transducer."""
    return isinstance(kind, str) and kind in CRITERIA and CRITERIA[kind].needs == "lattice"


def refuse_unknown(name: str, mapping: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a mapping with other keys than the known ones.

    Raises:
        UserError: it has one.
    """
    unknown = [str(key) for key in mapping if key not in known]
    if unknown:
        raise UserError(f"{name}: unknown key {', '.join(unknown)}; known: {', '.join(known)}")
