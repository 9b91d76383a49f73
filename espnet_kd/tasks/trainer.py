"""ESPnet's trainer, safe against being killed while it saves."""

import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from espnet2.train.trainer import Trainer
from torch import Tensor

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.host.outputs import (
    CHECKPOINT,
    LATEST,
    average_file,
    best_file,
    epoch_file,
    epoch_files,
    interval_suffix,
)
from espnet_kd.host.training import Reporter, average, reported_by
from espnet_kd.methods.mutual import MutualLearning, suffix
from espnet_kd.methods.mutual_options import OF_ANOTHER_PEER, peer_files, train_apart
from espnet_kd.methods.own import keep_apart, load_own, peer_models, saved_tensors, without_own
from espnet_kd.teachers.checkpoint import OWN_PREFIX, load_checkpoint, load_tensors, not_finite
from espnet_kd.teachers.short import TrackedBatches

BACKUP = "checkpoint.previous.pth"
LEFT_OVER = re.compile(r"\.(checkpoint(\.previous)?|latest|\d+epoch|\w+\.\w+\.best)\.pth(\.\w+\.pth)?")


class ResumableTrainer(Trainer):
    """Stock training that continues from the last whole epoch after an interruption at any moment.

    ESPnet writes ``checkpoint.pth``, then ``<N>epoch.pth`` and its links, in place. Before each epoch the
    checkpoint is copied, and before training whatever an interruption left half done is put right. What
    ESPnet writes is peer 1's; the other peers' epochs are written from the checkpoint, in the same layout, to
    ``peer2``, ``peer3``, ... beside it.
    """

    @classmethod
    def run(
        cls, model: Any, *, optimizers: Any, trainer_options: Any, distributed_option: Any, **kwargs: Any
    ) -> None:
        """Repair the directory, then train."""
        if isinstance(model, MutualLearning):
            train_apart(model, optimizers, trainer_options)
        keep_apart(model, optimizers)
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
            if isinstance(model, MutualLearning):
                _save_peers(trainer_options, finished=True)
            check_averages(directory, trainer_options.best_model_criterion)
            (directory / BACKUP).unlink(missing_ok=True)

    @staticmethod
    def resume(checkpoint: Path, model: Any, optimizers: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint, with criteria that have come or gone since.

        Raises:
            UserError: it is of another model.
        """
        try:
            load_own(model, saved_tensors(load_checkpoint(Path(checkpoint))))
            Trainer.resume(checkpoint=checkpoint, model=model, optimizers=optimizers, **kwargs)
        except (RuntimeError, ValueError) as e:
            reason = " ".join(str(e).split())
            raise UserError(
                f"{checkpoint} does not fit the configuration: {reason[:300]}: resume with the configuration "
                "that it was trained with, or give the training another --output_dir"
            ) from None

    @classmethod
    def train_one_epoch(
        cls, model: Any, *, iterator: Any, options: Any, distributed_option: Any, **kwargs: Any
    ) -> bool:
        """Copy the last epoch's checkpoint, then train one epoch.

        Raises:
            UserError: it has not updated the model once, or the model diverged.
        """
        checkpoint = Path(options.output_dir) / CHECKPOINT
        first = not distributed_option.distributed or distributed_option.dist_rank == 0
        if first and checkpoint.exists():
            with atomic_path(checkpoint.with_name(BACKUP)) as temporary:
                shutil.copyfile(checkpoint, temporary)
            if isinstance(getattr(model, "module", model), MutualLearning):
                _save_peers(options)
        with TrackedBatches(iterator).naming(model) as batches:
            invalid = super().train_one_epoch(
                model=model,
                iterator=batches,
                options=options,
                distributed_option=distributed_option,
                **kwargs,
            )
        _refuse_diverged(model, kwargs["reporter"].get_epoch(), invalid, options.accum_grad)
        return invalid

    @classmethod
    def validate_one_epoch(cls, model: Any, *, iterator: Any, **kwargs: Any) -> None:
        """Validate, with the names of utterances that are too short."""
        with TrackedBatches(iterator).naming(model) as batches:
            super().validate_one_epoch(model=model, iterator=batches, **kwargs)


def repair(directory: Path, criteria: Collection[Any], keep: Any) -> None:
    """Put right what an interruption left in an experiment directory.

    Args:
        directory: of the experiment.
        criteria: ESPnet's best_model_criterion, (phase, key, min or max) each.
        keep: ESPnet's keep_nbest_models.
    """
    for place in (directory, *directory.glob("peer*")):
        for path in place.glob(".*.pth"):
            if LEFT_OVER.fullmatch(path.name):
                path.unlink()
    states = _last_whole_checkpoint(directory)
    if states is None:
        return
    _write_epoch(directory, without_own(states["model"]), reported_by(states), criteria, keep)
    if any(name.startswith(OWN_PREFIX) for name in states["model"]):
        _convert(directory)
    for number, tensors in peer_models(saved_tensors(states)).items():
        own = reported_by(states, suffix(number))
        _write_epoch(peer_files(directory, number), tensors, own, criteria, keep)


def _refuse_diverged(model: torch.nn.Module, epoch: int, invalid: bool, accum_grad: int) -> None:
    """Stop before ESPnet saves the epoch; it would end the training there and call it finished."""
    if invalid:
        raise UserError(
            f"epoch {epoch} had no valid update: the gradient of every step was infinite or NaN, or there "
            f"are fewer batches than accum_grad ({accum_grad}): lower the learning rate, or look for a wrong "
            "initial model or wrong data; nothing of this epoch was saved"
        )
    whole = getattr(model, "module", model)
    if found := not_finite({**dict(whole.named_parameters()), **dict(whole.named_buffers())}):
        raise UserError(
            f"the model is not finite after epoch {epoch} ({_some(found)}): its training diverged: lower the "
            "learning rate, or train for fewer epochs; nothing of this epoch was saved"
        )


def check_averages(directory: Path, criteria: Collection[Any]) -> None:
    """Refuse a training that ends with a model that is not finite.

    Args:
        directory: of the experiment.
        criteria: ESPnet's best_model_criterion; each has an average, and one of each peer.

    Raises:
        UserError: an average has such a value.
    """
    for place in (directory, *sorted(directory.glob("peer*"))):
        for path in sorted({(place / average_file(phase, key)).resolve() for phase, key, _ in criteria}):
            if path.exists() and (found := not_finite(load_tensors(path))):
                raise UserError(
                    f"{path} is not finite ({_some(found)}): the training diverged: lower the learning rate, "
                    "or train for fewer epochs"
                )


def _some(names: Collection[str]) -> str:
    first = next(iter(names))
    return f"{first} and {len(names) - 1} more" if len(names) > 1 else first


def _write_epoch(
    directory: Path, model: Mapping[str, Tensor], reporter: Reporter, criteria: Collection[Any], keep: Any
) -> None:
    """Save a model as ESPnet does after an epoch: its file and the links; remove what is not needed."""
    epoch = reporter.get_epoch()
    with atomic_path(directory / epoch_file(epoch)) as temporary:
        torch.save(model, temporary)
    _link(directory / LATEST, epoch)
    count = max(keep, default=1) if isinstance(keep, list | tuple) else keep
    kept = {epoch}
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            _link(directory / best_file(phase, key), reporter.get_best_epoch(phase, key, mode))
            kept.update(reporter.sort_epochs(phase, key, mode)[:count])
    for path in epoch_files(directory):
        if path.name not in {epoch_file(e) for e in kept}:
            path.unlink()


def _save_peers(options: Any, finished: bool = False) -> None:
    """Save the last epoch of peers 2, 3, ... as ESPnet saves peer 1's, and average where it does."""
    directory = Path(options.output_dir)
    states = load_checkpoint(directory / CHECKPOINT)
    criteria, keep, interval = (
        options.best_model_criterion,
        options.keep_nbest_models,
        options.nbest_averaging_interval,
    )
    for number, tensors in peer_models(saved_tensors(states)).items():
        own, reporter = peer_files(directory, number), reported_by(states, suffix(number))
        _write_epoch(own, tensors, reporter, criteria, keep)
        epoch = reporter.get_epoch()
        suffixes = [interval_suffix(epoch)] if interval > 0 and epoch % interval == 0 else []
        for end in [*suffixes, *([None] if finished else [])]:
            average(own, reporter, criteria, keep, end)


def _convert(directory: Path) -> None:
    """Take out of the epochs of an older espnet_kd what is under ``kd_``; peers get files of their own."""
    for path in epoch_files(directory):
        tensors = load_tensors(path)
        for number, model in peer_models(tensors).items():
            with atomic_path(peer_files(directory, number) / path.name) as temporary:
                torch.save(model, temporary)
        with atomic_path(path) as temporary:
            torch.save(without_own(tensors), temporary)
    for path in directory.glob("*_peer*.pth"):
        if OF_ANOTHER_PEER.fullmatch(path.name):
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
        elif len(epoch_files(directory)) <= 1:
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
    temporary.symlink_to(epoch_file(epoch))
    os.replace(temporary, path)
