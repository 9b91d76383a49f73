"""ESPnet's trainer, which continues exactly where it was killed."""

import fcntl
import logging
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from espnet2.train.trainer import Trainer
from torch import Tensor

from espnet_kd.config import read_config
from espnet_kd.environment import Account, describe
from espnet_kd.errors import UserError
from espnet_kd.files import LOCK, atomic_path, point_link
from espnet_kd.host.outputs import (
    CHECKPOINT,
    LATEST,
    OWN_PREFIX,
    average_file,
    best_file,
    epoch_file,
    epoch_files,
    interval_suffix,
)
from espnet_kd.host.training import (
    Reporter,
    SubReporter,
    average,
    follows_validation,
    reported_by,
    stats_with_values,
)
from espnet_kd.methods import SCHEDULED, registered
from espnet_kd.methods.method import SavedModel
from espnet_kd.methods.own import keep_apart, load_own, own_tensors, saved_tensors, without_own
from espnet_kd.schedule import unreached
from espnet_kd.teachers.checkpoint import load_checkpoint, load_tensors, not_finite
from espnet_kd.teachers.short import TrackedBatches

BACKUP = "checkpoint.previous.pth"
# How long a training waits for another one in its directory. After a kill the processes that load data live
# on for seconds, and the lock of a machine that is lost for minutes.
PATIENCE = 300.0  # seconds
LEFT_OVER = re.compile(r"\.(checkpoint(\.previous)?|latest|\d+epoch|\w+\.\w+\.best)\.pth(\.\w+\.pth)?")


class ResumableTrainer(Trainer):
    """Stock training that continues from the last whole epoch after an interruption at any moment.

    ESPnet writes ``checkpoint.pth``, then ``<N>epoch.pth`` and its links, in place. Before each epoch the
    checkpoint is copied, and before training the files that an interruption left half written are repaired.
    ESPnet writes the student; models that a method trains beside it (peers) are written from the checkpoint
    to folders of their own, in the same layout. After each epoch, run.json gets the environment and the CPU
    time of the training.
    """

    account: Account  # of the training that runs in this process; one process trains one model
    reported: set[tuple[str, str]]  # phases of the last epoch, and their statistics that have a value
    follows: bool  # a scheduler of the learning rate follows a statistic of the validation

    @classmethod
    def run(
        cls, model: Any, *, optimizers: Any, trainer_options: Any, distributed_option: Any, **kwargs: Any
    ) -> None:
        """Repair the directory, then train.

        Raises:
            UserError: several processes would each train another model.
        """
        if distributed_option.distributed and trainer_options.grad_noise:
            raise UserError(
                "grad_noise: each of several processes adds noise of its own, so that they train different "
                "models: leave it out, or train on one GPU"
            )
        for method in getattr(model, "kd_methods", ()):  # a stock model has none
            method.before_training(model, optimizers, trainer_options)
        keep_apart(model, optimizers, with_gradients=True)
        directory = Path(trainer_options.output_dir)
        first = _is_first(distributed_option)
        cls.follows = follows_validation(kwargs["schedulers"])
        resumed = cls._prepare(trainer_options, distributed_option)
        cls.account = Account(directory, _environment(trainer_options, distributed_option), resumed)
        super().run(
            model=model,
            optimizers=optimizers,
            trainer_options=trainer_options,
            distributed_option=distributed_option,
            **kwargs,
        )
        cls._record(distributed_option)
        if first:
            if others(own_tensors(model)):
                _save_others(trainer_options, finished=True)
            check_averages(directory, trainer_options.best_model_criterion)
            (directory / BACKUP).unlink(missing_ok=True)

    @classmethod
    def _prepare(cls, options: Any, distributed_option: Any) -> bool:
        """Repair the directory; return whether the training continues an earlier one."""
        directory, first = Path(options.output_dir), _is_first(distributed_option)
        if first and options.resume:
            repair(directory, options.best_model_criterion, options.keep_nbest_models)
        if distributed_option.distributed:
            torch.distributed.barrier()
        if not (options.resume and (directory / CHECKPOINT).exists()):
            return False
        reporter = reported_by(load_checkpoint(directory / CHECKPOINT))
        check_selection(options, stats_of(reporter), cls.follows)
        if first:  # the average follows the checkpoint, and may be missing
            _average_interval(directory, reporter, options)
        return True

    @staticmethod
    def resume(checkpoint: Path, model: Any, optimizers: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint; criteria may have been added or removed since.

        Raises:
            UserError: it is of another model.
        """
        states = load_checkpoint(Path(checkpoint))
        try:
            load_own(model, saved_tensors(states))
            Trainer.resume(checkpoint=checkpoint, model=model, optimizers=optimizers, **kwargs)
        except (RuntimeError, ValueError) as e:
            reason = " ".join(str(e).split())
            raise UserError(
                f"{checkpoint} does not fit the configuration: {reason[:300]}: resume with the configuration "
                "that it was trained with, or give the training another --output_dir"
            ) from None
        if (kwargs["scaler"] is None) != (states.get("scaler") is None):
            # Gradients that wait for more batches have the factor of use_amp, or lack it: they are left out.
            model.zero_grad()

    @classmethod
    def train_one_epoch(
        cls, model: Any, *, iterator: Any, options: Any, distributed_option: Any, **kwargs: Any
    ) -> bool:
        """Record what the epochs so far have cost, copy the last checkpoint, then train one epoch.

        Raises:
            UserError: it has not updated the model once, or the model diverged.
        """
        cls._record(distributed_option)
        checkpoint = Path(options.output_dir) / CHECKPOINT
        first = _is_first(distributed_option)
        if first and kwargs["reporter"].get_epoch() == 1:
            _warn_of_schedules(Path(options.output_dir), iterator, options.max_epoch)
        if first and checkpoint.exists():
            with atomic_path(checkpoint.with_name(BACKUP)) as temporary:
                shutil.copyfile(checkpoint, temporary)
            if others(own_tensors(getattr(model, "module", model))):
                _save_others(options)
        with TrackedBatches(iterator).naming(model) as batches:
            invalid = super().train_one_epoch(
                model=model,
                iterator=batches,
                options=options,
                distributed_option=distributed_option,
                **kwargs,
            )
        _refuse_diverged(model, kwargs["reporter"].get_epoch(), invalid, options.accum_grad)
        cls.reported = {("train", key) for key in stats_with_values(kwargs["reporter"])}
        return invalid

    @classmethod
    def _record(cls, distributed_option: Any) -> None:
        """Record environment and CPU time; every process of the training must call it."""
        seconds = cls.account.spent()
        if distributed_option.distributed:
            device = "cuda" if distributed_option.ngpu > 0 else "cpu"
            total = torch.tensor(seconds, dtype=torch.float64, device=device)
            torch.distributed.all_reduce(total)
            seconds = total.item()
        if _is_first(distributed_option):
            cls.account.write(seconds)

    @classmethod
    def validate_one_epoch(
        cls, model: Any, *, iterator: Any, reporter: SubReporter, options: Any, **kwargs: Any
    ) -> None:
        """Validate; errors about short utterances name them.

        Raises:
            UserError: no epoch could be chosen, see ``check_selection``.
        """
        with TrackedBatches(iterator).naming(model) as batches:
            super().validate_one_epoch(
                model=model, iterator=batches, reporter=reporter, options=options, **kwargs
            )
        if reporter.get_epoch() == 1 and not options.no_forward_run:
            cls.reported |= {("valid", key) for key in stats_with_values(reporter)}
            check_selection(options, cls.reported, cls.follows)


@contextmanager
def only_training(directory: Path) -> Iterator[None]:
    """Keep a second training out of a directory in the block: the files of both would be mixed.

    Raises:
        UserError: another one has not ended within ``PATIENCE``.
    """
    text, end = f"another training writes {directory}", None
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if end is None:
                    # ESPnet sets up logging later, and does not if it was used before
                    print(f"warning: {text}: waiting for at most {PATIENCE:g} s", file=sys.stderr)
                    end = time.monotonic() + PATIENCE
                if time.monotonic() > end:
                    raise UserError(f"{text}: wait for its end, or stop it") from None
                time.sleep(0.5)
            except OSError:  # some network file systems have no locks
                break
        yield


def check_selection(options: Any, reported: Collection[tuple[str, str]], follows: bool = False) -> None:
    """Leave out criteria by which no epoch can be chosen: ESPnet would take the first epochs.

    Args:
        options: of ESPnet's trainer; those of ``best_model_criterion`` that can be used stay in it.
        reported: phases and statistics that have a value.
        follows: a scheduler follows ``val_scheduler_criterion``; without a value it lowers the learning rate.

    Raises:
        UserError: none can be used, or the one that ends a training early, or is followed, cannot.
    """
    chosen = {"best_model_criterion": options.best_model_criterion}
    if options.patience is not None:
        chosen["early_stopping_criterion"] = [options.early_stopping_criterion]
    if follows:
        chosen["val_scheduler_criterion"] = [options.val_scheduler_criterion]
    for option, criteria in chosen.items():
        usable = _usable(criteria, reported)
        names = ", ".join(".".join(criterion[:2]) for criterion in criteria if criterion not in usable)
        if names and not usable:
            known = ", ".join(sorted(key for phase, key in reported if phase == "valid"))
            raise UserError(
                f"{option}: {names} has no value in this training, so that nothing can depend on it: "
                f"choose of the validation set {known}"
            )
        if names:
            logging.warning(f"{option}: {names} has no value in this training: it is left out")
    options.best_model_criterion = _usable(options.best_model_criterion, reported)


def stats_of(reporter: Reporter) -> set[tuple[str, str]]:
    """Return phases and statistics that have a value in some epoch."""
    return {
        (phase, key)
        for phases in reporter.stats.values()
        for phase, stats in phases.items()
        for key, value in stats.items()
        if value == value  # NaN is not
    }


def _usable(criteria: Collection[Any], reported: Collection[tuple[str, str]]) -> list[Any]:
    return [criterion for criterion in criteria if tuple(criterion[:2]) in reported]


def _is_first(distributed_option: Any) -> bool:
    """Return whether this process writes files: the only one of the training, or that of rank 0."""
    return not distributed_option.distributed or distributed_option.dist_rank == 0


def _environment(options: Any, distributed_option: Any) -> dict[str, Any]:
    """Describe what a training computes with, from ESPnet's options of its trainer."""
    precision = options.train_dtype
    if options.use_amp:
        precision += f", autocast to {'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'}"
    if torch.get_float32_matmul_precision() != "highest":
        precision += ", products in TF32"
    world = distributed_option.dist_world_size if distributed_option.distributed else None
    return describe(precision, processes=world or 1, gpus=options.ngpu and (world or options.ngpu))


def repair(directory: Path, criteria: Collection[Any], keep: Any) -> None:
    """Repair the files that an interruption left half written in an experiment directory.

    Args:
        directory: of the experiment.
        criteria: ESPnet's best_model_criterion, (phase, key, min or max) each.
        keep: ESPnet's keep_nbest_models.
    """
    for path in [*directory.glob(".*.pth"), *directory.glob("*/.*.pth")]:
        if LEFT_OVER.fullmatch(path.name):
            path.unlink()
    states = _last_whole_checkpoint(directory)
    if states is None:
        return
    _write_epoch(directory, without_own(states["model"]), reported_by(states), criteria, keep)
    if any(name.startswith(OWN_PREFIX) for name in states["model"]):
        _convert(directory, others(saved_tensors(states)))
    for other in others(saved_tensors(states)):
        reporter = reported_by(states, other.suffix)
        _write_epoch(directory / other.folder, other.tensors, reporter, criteria, keep)


def others(own: Mapping[str, Tensor]) -> list[SavedModel]:
    """Return the models that a training has beside the student, among the tensors under ``kd_``."""
    return [model for method in registered() for model in method.saved_models(own)]


def _warn_of_schedules(directory: Path, iterator: Any, epochs: int) -> None:
    """Say before hours are spent that a training, of so many epochs, ends before its schedules do."""
    config = read_config(directory / "config.yaml")
    if hasattr(iterator, "__len__"):
        for note in unreached({key: config.get(key) for key in SCHEDULED}, epochs * len(iterator)):
            logging.warning(note)


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
        criteria: ESPnet's best_model_criterion; each model has an average by each of them.

    Raises:
        UserError: an average has such a value.
    """
    for place in (directory, *sorted(directory.glob("*/"))):
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
    point_link(directory / LATEST, epoch_file(epoch))
    count = max(keep, default=1) if isinstance(keep, list | tuple) else keep
    kept = {epoch}
    for phase, key, mode in _usable(criteria, stats_of(reporter)):
        if reporter.has(phase, key):
            best = epoch_file(reporter.get_best_epoch(phase, key, mode))
            point_link(directory / best_file(phase, key), best)
            kept.update(reporter.sort_epochs(phase, key, mode)[:count])
    for path in epoch_files(directory):
        if path.name not in {epoch_file(e) for e in kept}:
            path.unlink()


def _save_others(options: Any, finished: bool = False) -> None:
    """Save the last epoch of the other models as ESPnet saves the student's, and average where it does."""
    directory = Path(options.output_dir)
    states = load_checkpoint(directory / CHECKPOINT)
    criteria, keep = options.best_model_criterion, options.keep_nbest_models
    for other in others(saved_tensors(states)):
        place, reporter = directory / other.folder, reported_by(states, other.suffix)
        _write_epoch(place, other.tensors, reporter, criteria, keep)
        _average_interval(place, reporter, options)
        if finished:
            average(place, reporter, _usable(criteria, stats_of(reporter)), keep, None)


def _average_interval(directory: Path, reporter: Reporter, options: Any) -> None:
    """Average the epochs up to the last one, if ESPnet's nbest_averaging_interval asks for it."""
    epoch, interval = reporter.get_epoch(), options.nbest_averaging_interval
    if interval > 0 and epoch % interval == 0:
        criteria = _usable(options.best_model_criterion, stats_of(reporter))
        average(directory, reporter, criteria, options.keep_nbest_models, interval_suffix(epoch))


def _convert(directory: Path, models: Collection[SavedModel]) -> None:
    """Take what is under ``kd_`` out of the epochs of an older espnet_kd; give other models their files."""
    for path in epoch_files(directory):
        tensors = load_tensors(path)
        for other in others(tensors):
            with atomic_path(directory / other.folder / path.name) as temporary:
                torch.save(other.tensors, temporary)
        with atomic_path(path) as temporary:
            torch.save(without_own(tensors), temporary)
    for model in models:  # the epoch files may be converted already
        for link in directory.glob(f"*{model.suffix}.*.pth"):
            link.unlink()


def _last_whole_checkpoint(directory: Path) -> dict[str, Any] | None:
    """Return the checkpoint or its copy, or None where the first epoch was still being saved."""
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
