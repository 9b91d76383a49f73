"""Tasks for recipes of ESPnet3, whose YAML names one, with the options of methods in its block ``model``::

    task: espnet_kd.tasks.espnet3.ASRTask
    model: {..., teacher: {exp: DIRECTORY}, criteria: {ctc: {type: kl, tap: ctc.ctc_lo}}}

See docs/espnet3.md.
"""

import argparse
import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from espnet2.tasks.abs_task import AbsTask

from espnet_kd.errors import UserError
from espnet_kd.methods import METHODS, OF_TEACHERS, active
from espnet_kd.methods.distillation import AUTO
from espnet_kd.tasks.asr import ASRDistillationTask, TransducerDistillationTask, WithMethods

# Entry points of Lightning, one of which is of tasks/lightning.py.
CALLBACKS = "lightning.pytorch.callbacks_factory"
# Options of ESPnet2's trainer that ESPnet3 reads, too, or that ESPnet's defaults change themselves.
READ = {"freeze_param", "optim_conf", "ngpu", "required"}
# What ESPnet3 offers no way for, by key of a configuration: the task builds neither optimizers nor batches.
OUT_OF_REACH = {
    "mutual": "peers with optimizers of their own",
    "share_per_batch": "batches of the task's choice",
    "nbest": "hypotheses in the batches",
}


class InESPnet3(WithMethods):
    """A task that ESPnet3 asks for options and for a model, and for nothing else."""

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> Any:
        """Build the model with the methods that are used.

        Raises:
            UserError: an option needs what ESPnet3 does not ask the task for.
        """
        args.ngpu = 0  # ESPnet's defaults lack it; Lightning moves the model
        refuse_unread(args, vars(cls.get_parser().parse_args([])))
        registered = (point.value.startswith("espnet_kd.") for point in entry_points(group=CALLBACKS))
        if active(vars(args)) and not any(registered):
            raise UserError(
                "espnet_kd is on the path, but not installed, so that Lightning does not keep the parameters "
                "of criteria in its checkpoints: pip install its checkout"
            )
        for key, reason in OUT_OF_REACH.items():
            if getattr(args, key):
                raise UserError(f"{key} needs {reason}, which ESPnet3 does not have: use a recipe of ESPnet2")
        views = args.consistency
        if views and isinstance(views, Mapping) and views.get("split_batches") is not False:
            raise UserError(
                "consistency: split_batches: ESPnet3 makes the batches itself: write `split_batches: false`, "
                "and give the block `dataloader` smaller batches"
            )
        if isinstance(args.teacher, dict) and args.teacher.get("store"):
            raise UserError(
                "teacher: store: ESPnet3 does not tell a model which utterances a batch has, by which stored "
                "targets are found: use `teacher: {exp: DIRECTORY}`, or a recipe of ESPnet2"
            )
        if args.targets in ("soft", AUTO):
            raise UserError(
                f"targets: {args.targets}: pseudo-labels are left out of the task loss by the names of "
                "utterances, which ESPnet3 does not tell a model: write `targets: both` or `hard`, or use a "
                "recipe of ESPnet2"
            )
        for method in active(vars(args)):
            if method.preprocess(args, True, None) is not None:
                raise UserError(
                    "teacher and student prepare their speech differently (speech_volume_normalize, "
                    "noise_scp, ...), for which ESPnet3 has one preprocessor: give these options to "
                    "`dataset: preprocessor`, for both, or use a recipe of ESPnet2"
                )
        return super().build_model(args)


def refuse_unread(args: argparse.Namespace, known: Mapping[str, Any]) -> None:
    """Refuse options in the block `model` that nothing reads: ESPnet3 takes any key there.

    Args:
        args: ESPnet's defaults, changed by the block.
        known: all options of the task, with their defaults.

    Raises:
        UserError: names an option of ESPnet2's trainer, or one that is like one of ours.
    """
    of_trainer = vars(AbsTask.get_parser().parse_args([])).keys() - READ | {"config_ngpu"}
    for key in sorted(of_trainer & vars(args).keys()):
        if getattr(args, key) != known[key]:
            raise UserError(
                f"model: {key} is an option of ESPnet2's trainer, which ESPnet3 does not read: leave it out, "
                "and use the blocks trainer, optimizer and dataloader; a student begins with a teacher's "
                "parameters by init_from_teacher"
            )
    ours = [*(key for keys in METHODS.values() for key in keys), *OF_TEACHERS]
    for key in vars(args).keys() - known.keys():
        if near := difflib.get_close_matches(key, ours, n=1, cutoff=0.8):
            raise UserError(f"model: unknown key {key}; did you mean {near[0]}?")


class ASRTask(InESPnet3, ASRDistillationTask):
    """Models with CTC, attention or both."""


class TransducerTask(InESPnet3, TransducerDistillationTask):
    """Transducers."""
