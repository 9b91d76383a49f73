"""What we rely on in ESPnet's tasks and trainer, under names of our own.

Besides, ``espnet_kd.tasks`` overrides methods of ``AbsTask`` and ``Trainer``; test/integration/test_host.py
tests their names and arguments.
"""

import argparse
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from espnet_kd.host.installed import check_espnet

check_espnet()  # before anything of ESPnet is imported

from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
from espnet2.tasks.abs_task import AbsTask, optim_classes, scheduler_classes
from espnet2.tasks.asr import ASRTask, encoder_choices, frontend_choices
from espnet2.tasks.asr_transducer import ASRTransducerTask
from espnet2.tasks.asr_transducer import frontend_choices as transducer_frontend_choices
from espnet2.tasks.lm import LMTask
from espnet2.tasks.s2t import S2TTask
from espnet2.tasks.s2t_ctc import S2TTask as S2TCTCTask
from espnet2.train.dataset import ESPnetDataset
from espnet2.train.distributed_utils import get_rank, get_world_size
from espnet2.train.reporter import Reporter, SubReporter

from espnet_kd.host.outputs import task_of

__all__ = ["Reporter", "SubReporter"]

Preprocess = Callable[[str, dict[str, Any]], dict[str, Any]]
TASKS = {"asr": ASRTask, "asr_transducer": ASRTransducerTask, "s2t": S2TTask, "s2t_ctc": S2TCTCTask}


def add_choices(encoders: Mapping[str, type], frontends: Mapping[str, type]) -> None:
    """Let ``encoder`` and ``frontend`` of a configuration name classes of ours, in this process.

    Transducers have encoders of another kind, so that only front ends are added to theirs.

    Relied upon: ``build_model`` of a task reads the globals ``encoder_choices`` and ``frontend_choices`` of
    its module, whose ``classes`` is a dict.
    """
    encoder_choices.classes.update(encoders)
    for choices in (frontend_choices, transducer_frontend_choices):
        choices.classes.update(frontends)


def named_classes(task: type[AbsTask]) -> dict[str, list[str]]:
    """Return the options of a task that choose a class by its name, each with the names that there are.

    Relied upon: a task's ``class_choices_list``, each with ``name`` and a dict ``classes``; the dicts
    ``optim_classes`` and ``scheduler_classes`` of ``abs_task``.
    """
    named = {choice.name: list(choice.classes) for choice in task.class_choices_list}
    return named | {"optim": list(optim_classes), "scheduler": list(scheduler_classes)}


def gpus_of(args: argparse.Namespace) -> int:
    """Return how many GPUs train together, on all nodes; 0 for a training on the CPU.

    Relied upon: ``ngpu`` is 1 in a process of several, and ``get_world_size`` finds their number.
    """
    return args.ngpu * get_world_size(args.dist_world_size, args.dist_launcher) if args.ngpu else 0


def writes_files(args: argparse.Namespace) -> bool:
    """Return whether this process writes the files of a training: the only one, or that of rank 0."""
    return not args.distributed or get_rank(args.dist_rank, args.dist_launcher) == 0


def build_model(config: Mapping[str, Any]) -> Any:
    """Build the model of a config.yaml, with the weights that its seed gives."""
    return TASKS[task_of(config)].build_model(argparse.Namespace(**config))


def language_model_tensors(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict of the language model of a config.yaml; its tensors have shapes only."""
    import torch

    with torch.device("meta"):
        model = LMTask.build_model(argparse.Namespace(**{**config, "init": None}))
    tensors: dict[str, Any] = model.state_dict()
    return tensors


def preprocessing(config: Mapping[str, Any]) -> Preprocess | None:
    """Return ESPnet's preparation of a model's data, without augmentation; None where it does nothing.

    Without a ``token_type`` only speech is prepared.
    """
    found: Preprocess | None = TASKS[task_of(config)].build_preprocess_fn(argparse.Namespace(**config), False)
    return found


def read_utterances(
    files: Sequence[tuple[str, str, str]], preprocess: Preprocess | None, utterances: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Read utterances as a training does.

    Args:
        files: (file, name, type) as ESPnet's options give data.
        preprocess: see ``preprocessing``.
        utterances: ids.

    Returns:
        Name to array, of each utterance.
    """
    dataset = ESPnetDataset(list(files), preprocess=preprocess)
    return (dataset[utt][1] for utt in utterances)


def shape_files(iter_options: Any) -> Sequence[str]:
    """Return the shape files among the options of an iterator factory, that of the speech first."""
    files: Sequence[str] = iter_options.shape_files
    return files


def with_shape_files(iter_options: Any, files: Sequence[str]) -> Any:
    """Return the same with other shape files, whose lengths and order ESPnet makes batches of."""
    return replace(iter_options, shape_files=list(files))


def with_smaller_batches(iter_options: Any, parts: int) -> Any:
    """Return the same with batches that have 1/parts as many utterances, at least one.

    Relied upon: ``batch_size`` and ``batch_bins`` of ESPnet's options, one of which the type of batch uses.
    """
    sizes = {key: max(1, getattr(iter_options, key) // parts) for key in ("batch_size", "batch_bins")}
    return replace(iter_options, **sizes)


def batches_of(factory: Any) -> list[Sequence[str]]:
    """Return the list of batches, of utterance ids, that an iterator factory goes through; changes count."""
    batches: list[Sequence[str]] = factory.sampler.batches
    return batches


def reported_by(checkpoint: Mapping[str, Any], end: str = "") -> Reporter:
    """Return what a training has reported, from the content of its ``checkpoint.pth``.

    Args:
        end: of the names of statistics; those that end so are kept, without it.
    """
    reporter = Reporter()
    reporter.load_state_dict(checkpoint["reporter"])
    if end:
        reporter.stats = {
            epoch: {
                phase: {key.removesuffix(end): value for key, value in stats.items() if key.endswith(end)}
                for phase, stats in phases.items()
            }
            for epoch, phases in reporter.stats.items()
        }
    return reporter


def follows_validation(schedulers: Sequence[Any]) -> bool:
    """Return whether one of the schedulers of a training gets the value of ``val_scheduler_criterion``."""
    return any(isinstance(scheduler, AbsValEpochStepScheduler) for scheduler in schedulers)


def has_ended(reporter: Reporter, args: argparse.Namespace) -> bool:
    """Return whether a training that has reported so much has no epoch left, by its options."""
    early: Sequence[str] = args.early_stopping_criterion
    if reporter.get_epoch() >= args.max_epoch:
        return True
    stops = args.patience is not None and reporter.has(*early[:2])
    return stops and bool(reporter.check_early_stopping(args.patience, *early))


def stats_with_values(reporter: SubReporter) -> set[str]:
    """Return the names of the statistics that have a value in some step of a phase; that of others is NaN.

    Relied upon: ``stats`` of a phase that has not ended, by name a list with an object for each step, of
    which ``value`` is a number; in validation a model's None becomes NaN.
    """
    steps: Mapping[str, Sequence[Any]] = reporter.stats
    return {key for key, found in steps.items() if not all(math.isnan(step.value) for step in found)}


def average(
    directory: Path, reporter: Reporter, criteria: Collection[Any], keep: Any, suffix: str | None
) -> None:
    """Average the best epochs of a directory as ESPnet does when a training ends.

    Args:
        criteria: ESPnet's best_model_criterion.
        keep: ESPnet's keep_nbest_models.
        suffix: see ``outputs.interval_suffix``; None at the end of the training.
    """
    average_nbest_models(
        output_dir=directory, reporter=reporter, best_model_criterion=criteria, nbest=keep, suffix=suffix
    )
