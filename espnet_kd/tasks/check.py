"""``espnet-kd check``: find what would stop a training before the teachers are trained that it waits for."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.config import dump_yaml, merge, merge_files
from espnet_kd.errors import UserError
from espnet_kd.tasks.train import TASKS


def main(argv: list[str] | None = None) -> None:
    """Run ``check --config FILE... --token_list FILE [--teacher EXP...]``: build models, read all options."""
    parser = command_parser("check")
    parser.add_argument("--task", choices=list(TASKS), default="asr", help="of the student")
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="merged, a later one wins")
    parser.add_argument("--token_list", type=Path, required=True, help="tokens of the student")
    parser.add_argument("--args", default="", help='options of the training, such as "--max_epoch 10"')
    text = "directories of the teachers, which may be untrained: the one of the configuration is replaced"
    parser.add_argument("--teacher", nargs="+", default=[], help=text)
    text = "training configurations of untrained teachers, whose layers are checked"
    parser.add_argument("--teacher_config", nargs="+", type=Path, default=[], help=text)
    parser.add_argument("--teacher_args", default="", help="options of their training")
    text = "the training set has pseudo-labels"
    parser.add_argument("--pseudo_labels", action="store_true", help=text)
    ours = parser.parse_args(argv)
    if not ours.token_list.is_file():
        raise UserError(f"--token_list {ours.token_list} does not exist")
    config = merge_files(ours.config)
    if ours.teacher:
        config = merge(config, {"teacher": {"exp": ours.teacher}})
    module, name = TASKS[ours.task]
    task = getattr(importlib.import_module(module), name)
    args = training_options(task, config, ours.token_list, ours.args)
    student = check_methods(task, args)
    teachers = [
        task.build_stock(training_options(task, merge_files([file]), ours.token_list, ours.teacher_args))
        for file in ours.teacher_config
    ]
    check_criteria(student, args, teachers, ours.pseudo_labels)
    print(f"{' + '.join(map(str, ours.config))}: the options can be used")


def training_options(task: Any, config: dict[str, Any], tokens: Path, words: str) -> argparse.Namespace:
    """Return the options of a training, as ESPnet reads them, with a normalisation that has no statistics."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "train.yaml"
        path.write_text(dump_yaml(config), encoding="utf-8")
        options = ["--config", str(path), "--token_list", str(tokens), *words.split()]  # as kd.sh splits them
        parsed: argparse.Namespace = task.get_parser().parse_args([*options, "--normalize", "utterance_mvn"])
    return parsed


def check_methods(task: Any, args: argparse.Namespace) -> Any:
    """Build the student's model, let every method check its options, and return the model.

    Raises:
        UserError: what a method refuses.
    """
    from espnet_kd.methods import registered

    model = task.build_stock(args)
    for method in registered():
        method.check(args, len(model.token_list))
    return model


def check_criteria(
    student: Any, args: argparse.Namespace, teachers: Sequence[Any], pseudo_labels: bool
) -> None:
    """Check that the criteria can be built, and that student and teachers have their layers.

    Raises:
        UserError: what the training would refuse.
    """
    from espnet_kd.methods.attach import refuse_time_warp, refuse_unused_teacher
    from espnet_kd.methods.distillation import refuse_soft
    from espnet_kd.teachers.options import teacher_options, term_options
    from espnet_kd.teachers.taps import Taps

    if not args.teacher:
        if args.criteria:
            raise UserError("criteria: there is no teacher: write `teacher: {exp: DIRECTORY}`")
        return
    teacher_options(args.teacher)
    refuse_unused_teacher(args)
    if pseudo_labels and args.targets == "soft":
        refuse_soft(lattice="joint_network" in dict(student.named_children()))
    terms = [] if args.targets == "hard" else term_options(args.criteria)
    for term in terms:
        if term.options.get("delay") == "auto":
            term.options["delay"] = 0  # by the time that it is built it is a number
    refuse_time_warp(args, terms)
    Taps(student, [term.term.student_tap for term in terms], "the student")
    for number, teacher in enumerate(teachers, 1):
        owner = f"teacher {number}" if len(teachers) > 1 else "the teacher"
        Taps(teacher.eval(), [term.term.teacher_tap for term in terms], owner)
