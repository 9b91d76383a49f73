"""``espnet-kd check``: find what would stop a training before the teachers are trained that it waits for."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from espnet_kd.command_line import command_parser
from espnet_kd.config import dump_yaml, merge, merge_files, read_config
from espnet_kd.errors import UserError
from espnet_kd.tasks.train import TASKS, load_task, refuse_unknown_keys, unknown_keys
from espnet_kd.teachers.named import with_teachers

if TYPE_CHECKING:
    from espnet_kd.teachers.experiment import Experiment


def main(argv: list[str] | None = None) -> None:
    """Run ``check --config FILE... --token_list FILE [--teacher EXP...]``: build models, read all options."""
    parser = command_parser("check")
    parser.add_argument("--task", choices=list(TASKS), default="asr", help="of the student")
    parser.add_argument("--config", nargs="+", type=Path, required=True, help="merged, a later one wins")
    parser.add_argument("--token_list", type=Path, required=True, help="tokens of the student")
    parser.add_argument("--args", default="", help='options of the training, such as "--max_epoch 10"')
    text = "directories of the teachers, which may be untrained"
    parser.add_argument("--teacher", nargs="+", default=[], help=text)
    text = "from 2 on, teachers replace that of the configuration (default: 1)"
    parser.add_argument("--generation", type=int, default=1, help=text)
    text = "training configurations of untrained teachers, whose layers are checked"
    parser.add_argument("--teacher_config", nargs="+", type=Path, default=[], help=text)
    parser.add_argument("--teacher_args", default="", help="options of their training")
    text = "the training set has pseudo-labels"
    parser.add_argument("--pseudo_labels", action="store_true", help=text)
    ours = parser.parse_args(argv)
    if not ours.token_list.is_file():
        raise UserError(f"--token_list {ours.token_list} does not exist")
    more = with_teachers(merge_files(ours.config), ours.teacher, ours.generation)
    task = load_task(ours.task)
    args = training_options(task, ours.config, ours.token_list, ours.args, more)
    teachers = [
        _untrained(_task_of(file, ours.task), file, ours.token_list, ours.teacher_args)
        for file in ours.teacher_config
    ]
    check_training(task.build_stock(args), args, teachers, ours.pseudo_labels)
    print(f"{' + '.join(map(str, ours.config))}: the options can be used")


def _task_of(file: Path, first: str) -> Any:
    """Return the task that has all options of a configuration, if there is one, or else the first."""
    keys = read_config(file)
    tasks = [load_task(first), *(load_task(name) for name in TASKS if name != first)]
    return next((task for task in tasks if not unknown_keys(keys, task.get_parser())), tasks[0])


def training_options(
    task: Any, files: Sequence[Path], tokens: Path, words: str, more: Mapping[str, Any] | None = None
) -> argparse.Namespace:
    """Return the options of a training, as ESPnet reads them, with a normalisation that has no statistics.

    Args:
        task: of the training.
        files: its configuration, merged; a later one wins.
        tokens: its token list.
        words: other options, split as kd.sh does.
        more: wins over the files.

    Raises:
        UserError: a file has a key that is no option.
    """
    parser = task.get_parser()
    for file in files:
        refuse_unknown_keys(str(file), read_config(file), parser)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "train.yaml"
        path.write_text(dump_yaml(merge(merge_files(files), more or {})), encoding="utf-8")
        options = ["--config", str(path), "--token_list", str(tokens), *words.split()]
        parsed: argparse.Namespace = parser.parse_args([*options, "--normalize", "utterance_mvn"])
    return parsed


def _untrained(task: Any, file: Path, tokens: Path, words: str) -> "tuple[Experiment, argparse.Namespace]":
    """Build a teacher of its training's configuration; return it with its options.

    Raises:
        UserError: there is no such model; names the configuration.
    """
    from espnet_kd.host.models import make_deterministic
    from espnet_kd.teachers.experiment import Experiment, input_rate

    args = training_options(task, [file], tokens, words)
    try:
        model = task.build_stock(args).eval().requires_grad_(False)
    except UserError as e:
        raise UserError(f"{file}: {e}") from None
    make_deterministic(model)
    return Experiment(model, file, file, input_rate(vars(args)), args.input_size), args


def check_training(
    student: Any,
    args: argparse.Namespace,
    teachers: "Sequence[tuple[Experiment, argparse.Namespace]]",
    pseudo_labels: bool,
) -> None:
    """Check all that the training would refuse, as far as no trained teacher is needed to see it.

    Args:
        student: as ESPnet builds it; changed.
        args: options of its training.
        teachers: that are to be trained, and the options of their trainings.
        pseudo_labels: the training set has some, and they are still to be made.

    Raises:
        UserError: what the training would refuse.
    """
    from espnet_kd.methods import check_methods
    from espnet_kd.methods.distillation import AUTO, refuse_soft, rule
    from espnet_kd.methods.fit import check_untrained

    if pseudo_labels and args.targets == "soft":
        refuse_soft(lattice="joint_network" in dict(student.named_children()))
    if args.targets == AUTO and teachers:
        args.targets = min(rule(vars(args), vars(options)) for _, options in teachers)[0]
    for method in check_methods(student, args):
        if not pseudo_labels:
            method.check_inputs(args)
    if teachers and args.teacher:
        check_untrained(student, args, [teacher for teacher, _ in teachers])
