"""What is checked and logged before a training starts."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet2.tasks.abs_task import AbsTask
from torch import nn

from espnet_kd.criteria import CRITERIA, Criterion
from espnet_kd.data.dump import are_hypotheses
from espnet_kd.errors import UserError, debugging, error_line
from espnet_kd.files import read_table
from espnet_kd.host.training import named_classes
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.checkpoint import OWN_PREFIX
from espnet_kd.teachers.options import Term

TABLES = ("sound", "kaldi_ark", "npy")  # types of ESPnet's data that have an utterance a line
FOLLOWS_VALIDATION = "reducelronplateau"  # in the name of a scheduler
Shapes = Mapping[str, Sequence[tuple[int, ...]]]  # at the layers of student and teacher, by criterion


class Workers(AbsTask):
    """A user's mistake is one line in the processes, too, that ESPnet starts for several GPUs."""

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train, in this process or in one that was started for it."""
        try:
            check_inputs(args, named_classes(cls))
            super().main_worker(args)
        except UserError as e:  # as in espnet_kd.__main__, which only the first process goes through
            if args.distributed and args.multiprocessing_distributed and not debugging():
                sys.exit(error_line(e))
            raise


def check_inputs(args: argparse.Namespace, named: Mapping[str, Sequence[str]]) -> None:
    """Refuse files that do not exist and names that ESPnet does not know, before it builds anything.

    Args:
        args: all options of a training.
        named: options that choose a class by its name, such as ``encoder``, and the names that there are.

    Raises:
        UserError: names the option, its value and what would do.
    """
    for option, known in named.items():
        value = getattr(args, option, None)
        if value is not None and value not in known:
            raise UserError(f"{option} is {value!r}: choose one of {', '.join(known)}")
    for option in ("token_list", "bpemodel", "non_linguistic_symbols"):
        value = getattr(args, option, None)
        if isinstance(value, str) and value != "none" and not Path(value).is_file():
            raise UserError(f"{option}: {value} does not exist, or is no file")
    for part in ("train", "valid"):
        data, shapes = f"{part}_data_path_and_name_and_type", f"{part}_shape_file"
        given = {data: [row[0] for row in getattr(args, data)], shapes: getattr(args, shapes)}
        if not given[data]:
            raise UserError(f"--{data} is missing: give PATH,NAME,TYPE, as dump/raw/{part}/text,text,text")
        if args.iterator_type == "sequence" and not args.collect_stats and not given[shapes]:
            raise UserError(f"--{shapes} is missing: give the file that --collect_stats writes")
        for option, paths in given.items():
            for path in paths:
                if not Path(path).exists():
                    raise UserError(f"--{option}: {path} does not exist")


def check_utterances(args: argparse.Namespace) -> None:
    """Refuse shape files that lack pseudo-labelled speech: ESPnet trains on what they name, not on the data.

    Raises:
        UserError: they do.
    """
    data, files = args.train_data_path_and_name_and_type or [], args.train_shape_file or []
    if args.collect_stats or not files or not data or data[0][2] not in TABLES:
        return
    if not (Path(data[0][0]).is_file() and Path(files[0]).is_file()):
        return  # asr.sh's --num_splits_asr: directories of parts, split by the shape files
    path, speech, named = data[0][0], list(read_table(data[0][0])), read_table(files[0])
    lacking = [utt not in named for utt in speech]
    if not any(lacking):
        return
    labelled = are_hypotheses(speech)
    pseudo = [utt for utt, lacks, label in zip(speech, lacking, labelled, strict=True) if lacks and label]
    if pseudo:
        raise UserError(
            f"{len(pseudo)} of {sum(labelled)} pseudo-labelled utterances of {path}, such as {pseudo[0]}, "
            f"are not in {files[0]}, which says what ESPnet trains on: collect the statistics of this speech "
            "first (stage 10 of asr.sh, with an --asr_stats_dir of its own)"
        )
    logging.warning(
        f"{sum(lacking)} of {len(speech)} utterances of {path} are not in {files[0]}: they are not trained on"
    )


def warn_of_moving_loss(args: argparse.Namespace, weights: Sequence[Schedule]) -> None:
    """Say where the total loss decides although schedules change what it is made of."""
    if all(weight.start == weight.end for weight in weights):
        return
    choices = {"best_model_criterion": list(args.best_model_criterion)}
    if args.patience is not None:
        choices["early_stopping_criterion"] = [args.early_stopping_criterion]
    if FOLLOWS_VALIDATION in str(args.scheduler or "").lower():
        choices["val_scheduler_criterion"] = [(*args.val_scheduler_criterion, "min")]
    for option, criteria in choices.items():
        for phase, key, *mode in criteria:
            if key == "loss" or key.startswith("loss_peer"):
                better = ", ".join((phase, key.replace("loss", "loss_task", 1), *mode))
                logging.warning(
                    f"{option}: {phase}.{key} is the sum of task and criteria at weights that a schedule "
                    f"changes: epochs cannot be compared by it; use [{better}], or an accuracy"
                )


def log_distillation(student: nn.Module, teachers: Sequence[str], shapes: Shapes) -> None:
    """Log what a student learns from.

    Args:
        student: with its criteria.
        teachers: a line for each, or for the targets in their place.
        shapes: what student and teacher have for some noise at their layers, by the name of the criterion.
    """
    own = sum(p.numel() for name, p in student.named_parameters() if name.startswith(OWN_PREFIX))
    size = f"student: {sum(p.numel() for p in student.parameters()) - own} parameters"
    lines = [*teachers, size + (f", and {own} of criteria, which only checkpoint.pth has" if own else "")]
    lines.append(f"task loss: weight {student.kd_method.task_weight}")
    for term in student.kd_method.terms:
        sides = (
            " ".join([tap, "x".join(map(str, shape))]).rstrip()
            for tap, shape in zip((term.student_tap, term.teacher_tap), shapes[term.name], strict=True)
        )
        ratio = f" ({term.ratio} of its frames for one of the student's)" if term.ratio else ""
        layers = f"student's {" from teacher's ".join(sides)}{ratio}"
        lines.append(_line(term, student.kd_criteria[term.name], layers))
    logging.info("distillation:\n" + "\n".join(f"    {line}" for line in lines))


def log_peers(model: nn.Module) -> None:
    """Log what peers learn from each other.

    Args:
        model: peer 1, with the others and their criteria.
    """
    mutual, peers = model.kd_mutual, dict(enumerate(model.kd_peers.values(), 2))
    sizes = {number: sum(p.numel() for p in peer.parameters()) for number, peer in peers.items()}
    sizes = {1: sum(p.numel() for p in model.parameters()) - sum(sizes.values()), **sizes}
    lines = [f"peer {number}: {size} parameters" for number, size in sizes.items()]
    share = "1 - weight of the criteria" if mutual.interpolate else "1"
    lines.append(f"task loss: weight {share}; criteria: weight {mutual.weight}, times their own")
    lines += [_line(term, mutual.criteria[term.name], term.student_tap) for term in mutual.terms]
    logging.info("mutual learning:\n" + "\n".join(f"    {line}" for line in lines))


def _line(term: Term, criterion: Criterion, layers: str) -> str:
    kind = {known: name for name, known in CRITERIA.items()}.get(type(criterion), type(criterion).__name__)
    return f"criterion {term.name}: {kind}, {layers}, weight {term.weight}, reduction {criterion.reduction}"
