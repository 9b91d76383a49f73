"""ESPnet's trainer, safe against being killed while it saves."""

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import Trainer

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.models.mutual import MutualLearning
from espnet_kd.models.short import Batches
from espnet_kd.tasks.mutual import train_apart
from espnet_kd.teachers.checkpoint import load_checkpoint

CHECKPOINT = "checkpoint.pth"
BACKUP = "checkpoint.previous.pth"


class ResumableTrainer(Trainer):
    """Stock training that continues from the last whole epoch after an interruption at any moment.

    ESPnet writes ``checkpoint.pth``, then ``<N>epoch.pth`` and its links, in place. Before each epoch the
    checkpoint is copied, and before training whatever an interruption left half done is put right.
    """

    @classmethod
    def run(
        cls, model: Any, *, optimizers: Any, trainer_options: Any, distributed_option: Any, **kwargs: Any
    ) -> None:
        """Repair the directory, then train."""
        if isinstance(model, MutualLearning):
            train_apart(model, optimizers, trainer_options)
        directory = Path(trainer_options.output_dir)
        first = not distributed_option.distributed or distributed_option.dist_rank == 0
        if first and trainer_options.resume:
            repair(directory, trainer_options.best_model_criterion, trainer_options.keep_nbest_models)
        if distributed_option.distributed:
            torch.distributed.barrier()
        super().run(
            model=model,
            optimizers=optimizers,
            trainer_options=trainer_options,
            distributed_option=distributed_option,
            **kwargs,
        )
        if first:
            (directory / BACKUP).unlink(missing_ok=True)

    @classmethod
    def train_one_epoch(
        cls, model: Any, *, iterator: Any, options: Any, distributed_option: Any, **kwargs: Any
    ) -> bool:
        """Copy the last epoch's checkpoint, then train one epoch."""
        checkpoint = Path(options.output_dir) / CHECKPOINT
        first = not distributed_option.distributed or distributed_option.dist_rank == 0
        if first and checkpoint.exists():
            with atomic_path(checkpoint.with_name(BACKUP)) as temporary:
                shutil.copyfile(checkpoint, temporary)
        with Batches(iterator).naming(model) as batches:
            return super().train_one_epoch(
                model=model,
                iterator=batches,
                options=options,
                distributed_option=distributed_option,
                **kwargs,
            )

    @classmethod
    def validate_one_epoch(cls, model: Any, *, iterator: Any, **kwargs: Any) -> None:
        """Validate, with the names of utterances that are too short."""
        with Batches(iterator).naming(model) as batches:
            super().validate_one_epoch(model=model, iterator=batches, **kwargs)


def repair(directory: Path, criteria: Collection[Any], keep: Any) -> None:
    """Put right what an interruption left in an experiment directory.

    Args:
        directory: of the experiment.
        criteria: ESPnet's best_model_criterion, (phase, key, min or max) each.
        keep: ESPnet's keep_nbest_models.
    """
    for left_over in directory.glob(".*.pth"):
        left_over.unlink()
    state = _last_whole_checkpoint(directory)
    if state is None:
        return
    reporter = Reporter()
    reporter.load_state_dict(state["reporter"])
    epoch = reporter.get_epoch()
    with atomic_path(directory / f"{epoch}epoch.pth") as temporary:
        torch.save(state["model"], temporary)
    _link(directory / "latest.pth", epoch)
    count = max(keep) if isinstance(keep, list | tuple) else keep
    kept = {epoch}
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            _link(directory / f"{phase}.{key}.best.pth", reporter.get_best_epoch(phase, key, mode))
            kept.update(reporter.sort_epochs(phase, key, mode)[:count])
    for path in directory.glob("*epoch.pth"):
        if path.name not in {f"{e}epoch.pth" for e in kept}:
            path.unlink()


def _last_whole_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The checkpoint, else its copy, else None where the first epoch was still being saved."""
    checkpoint, backup = directory / CHECKPOINT, directory / BACKUP
    if not checkpoint.exists() and not backup.exists():
        return None
    try:
        return load_checkpoint(checkpoint)
    except UserError as e:
        if backup.exists():
            logging.warning(f"{e}; going back one epoch to {backup.name}")
        elif len(list(directory.glob("*epoch.pth"))) <= 1:
            logging.warning(f"{e}; starting again")
            checkpoint.unlink()
            return None
        else:
            raise
    state = load_checkpoint(backup)
    with atomic_path(checkpoint) as temporary:
        shutil.copyfile(backup, temporary)
    return state


def _link(path: Path, epoch: int) -> None:
    """Point a link at an epoch's model, as ESPnet does."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"{epoch}epoch.pth")
    os.replace(temporary, path)
