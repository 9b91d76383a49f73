"""Attach teachers and criteria to a stock model, so that it trains as their student."""

import argparse
import logging
from collections.abc import Sequence

from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor, nn

from espnet_kd.criteria import CRITERIA, Criterion
from espnet_kd.errors import UserError
from espnet_kd.host.outputs import OWN_PREFIX
from espnet_kd.methods.consistency import compared_views
from espnet_kd.methods.delay import set_delays
from espnet_kd.methods.distilled import Objective, distil
from espnet_kd.methods.fit import (
    Shapes,
    compared_terms,
    fit_layers,
    fit_models,
    student_noise,
    teacher_noise,
    without_auto,
)
from espnet_kd.methods.initialise import freeze_unreached
from espnet_kd.methods.nbest import nbest_options
from espnet_kd.methods.transducer import distil_transducer
from espnet_kd.schedule import Schedule, build_schedule
from espnet_kd.targets.fit import stored_teacher
from espnet_kd.targets.teacher import StoredTeacher
from espnet_kd.teachers.experiment import input_rate
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term, common_temperatures, teacher_options, teacher_taps
from espnet_kd.teachers.speech import check_speech
from espnet_kd.teachers.taps import Taps, has_lattice
from espnet_kd.teachers.token_maps import TokenMap

FOLLOWS_VALIDATION = "reducelronplateau"  # in the name of a scheduler
# Parts of a model, and statistics that are about what they give.
STATISTICS = {
    "decoder": ("acc", "cer", "wer", "loss_att"),
    "ctc": ("cer_ctc", "loss_ctc"),
    "joint_network": ("loss_transducer", "cer_transducer", "wer_transducer"),
    "ctc_lin": ("loss_aux_ctc",),
}


def attach_teacher(model: ESPnetASRModel, args: argparse.Namespace) -> ESPnetASRModel:
    """Load the teachers, initialise the student from the first, and add the criteria to its loss.

    Args:
        model: passed ``check_student``.
        args: all options.

    Raises:
        UserError: teacher and student do not fit.
    """
    options = teacher_options(args.teacher)
    # With stored targets a teacher is loaded only to copy parts of it.
    sources = options.sources if options.store is None or args.init_from_teacher else ()
    experiments = [source.load() for source in sources]
    terms = compared_terms(args)
    maps = fit_models(model, args, experiments, without_auto(terms))
    if not terms:
        return model
    set_delays(args, terms, experiments[0] if options.store is None else None)
    check_speech(args, terms)
    needed = teacher_taps(terms)
    noise = student_noise(args), teacher_noise(args, experiments)
    teacher: StoredTeacher | OnlineTeacher
    if options.store is not None:
        rate = input_rate(vars(args))
        teacher = stored_teacher(options, terms, needed, model.token_list, rate, args)
    else:
        temperatures = common_temperatures(terms, len(experiments))
        teacher = OnlineTeacher(experiments, needed, temperatures, options.weights, options.mean, maps)
    taps = Taps(model, [t.term.student_tap for t in terms], "the student")
    terms, shapes = fit_layers(model, noise, taps, teacher, terms)
    task_weight = build_schedule(args.task_weight, "task_weight")
    compared = tuple(t.term for t in terms)
    objective = Objective(teacher, taps, compared, task_weight, soft_only=args.targets == "soft")
    if objective.task_weight.is_zero:
        _freeze(model, args, objective.terms, noise[0]())
        if not (args.init_param or args.init_from_teacher):
            refuse_untrained_choice(model, args.best_model_criterion)
    attach = distil_transducer if has_lattice(model) else distil
    attach(model, objective, {t.term.name: t.build() for t in terms})
    names = [_line(experiment, tokens) for experiment, tokens in zip(experiments, maps, strict=True)]
    if isinstance(teacher, StoredTeacher):
        made = ", ".join(t["experiment"] for t in teacher.store.manifest.teachers)
        names = [f"targets {teacher.store.directory}, of {made}"]
        if teacher.tokens is not None:
            both, all_ = teacher.tokens.known, len(teacher.store.manifest.token_list)
            names[0] += f"; {both} of their {all_} tokens are the student's"
    log_distillation(model, names, shapes)
    warn_of_moving_loss(args, [task_weight, *(t.term.weight for t in terms)])
    return model


def _freeze(
    model: ESPnetASRModel, args: argparse.Namespace, terms: Sequence[Term], batch: Sequence[Tensor]
) -> None:
    """Freeze what neither the teacher's criteria, nor those between views, nor n-best lists reach."""
    reached = [*terms, *(t.term for t in compared_views(args))]
    if args.nbest:
        lists = nbest_options(args.nbest)
        reached.append(Term("nbest", lists.weight, lists.tap, lists.tap))
    freeze_unreached(model, Taps(model, [t.student_tap for t in reached], "the student"), reached, batch)


def refuse_untrained_choice(model: nn.Module, criteria: Sequence[Sequence[str]]) -> None:
    """Refuse to choose epochs by what parts of a model give that stay as they are initialised.

    Args:
        model: its parameters that are trained require gradients.
        criteria: ESPnet's best_model_criterion; a warning will do where another one can be used.

    Raises:
        UserError: all of them are about such parts.
    """
    parts = {key: part for part, keys in STATISTICS.items() for key in keys}
    idle = {name for name, child in model.named_children() if not all(map(_trained, child.parameters()))}
    chance = [(phase, key) for phase, key, _ in criteria if parts.get(key) in idle]
    if chance:
        names = ", ".join(map(".".join, chance))
        text = (
            f"best_model_criterion: {names} would choose epochs by chance, since at `task_weight: 0` no "
            f"criterion trains the {parts[chance[0][1]]}: use [valid, loss, min]"
        )
        if len(chance) == len(criteria):
            raise UserError(text)
        logging.warning(text)


def _trained(parameter: Tensor) -> bool:
    return parameter.requires_grad


def _line(teacher: TeacherModel, tokens: TokenMap | None) -> str:
    size = sum(p.numel() for p in teacher.model.parameters())
    line = f"{teacher.owner}: {teacher.checkpoint.name}, {size} parameters"
    if tokens is not None:
        line += f"; {tokens.known} of its {len(teacher.tokens or ())} tokens are the student's, which has "
        line += f"{len(tokens.numbers)}"
    return line


def warn_of_moving_loss(args: argparse.Namespace, weights: Sequence[Schedule]) -> None:
    """Warn where epochs are chosen by a total loss whose weights a schedule changes."""
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
    """Log the teachers, the criteria and the sizes of a training.

    Args:
        student: with its criteria.
        teachers: a line for each, or for the targets in their place.
        shapes: what student and teacher have for some noise at their layers, by the name of the criterion.
    """
    own = sum(p.numel() for name, p in student.named_parameters() if name.startswith(OWN_PREFIX))
    size = f"student: {sum(p.numel() for p in student.parameters()) - own} parameters"
    lines = [*teachers, size + (f", and {own} of criteria, which only checkpoint.pth has" if own else "")]
    lines.append(f"task loss: weight {student.kd_objective.task_weight}")
    for term in student.kd_objective.terms:
        sides = (
            " ".join([tap, "x".join(map(str, shape))]).rstrip()
            for tap, shape in zip((term.student_tap, term.teacher_tap), shapes[term.name], strict=True)
        )
        ratio = f" ({term.ratio} of its frames for one of the student's)" if term.ratio else ""
        layers = f"student's {" from teacher's ".join(sides)}{ratio}"
        lines.append(criterion_line(term, student.kd_criteria[term.name], layers))
    logging.info("distillation:\n" + "\n".join(f"    {line}" for line in lines))


def log_peers(model: nn.Module) -> None:
    """Log the peers, their criteria and sizes.

    Args:
        model: peer 1, with the others and their criteria.
    """
    mutual, peers = model.kd_mutual, dict(enumerate(model.kd_peers.values(), 2))
    sizes = {number: sum(p.numel() for p in peer.parameters()) for number, peer in peers.items()}
    sizes = {1: sum(p.numel() for p in model.parameters()) - sum(sizes.values()), **sizes}
    lines = [f"peer {number}: {size} parameters" for number, size in sizes.items()]
    share = "1 - weight of the criteria" if mutual.interpolate else "1"
    lines.append(f"task loss: weight {share}; criteria: weight {mutual.weight}, times their own")
    lines += [criterion_line(term, mutual.criteria[term.name], term.student_tap) for term in mutual.terms]
    logging.info("mutual learning:\n" + "\n".join(f"    {line}" for line in lines))


def criterion_line(term: Term, criterion: Criterion, layers: str) -> str:
    """Return the line of a log that describes a criterion; ``layers`` names what it compares."""
    kind = {known: name for name, known in CRITERIA.items()}.get(type(criterion), type(criterion).__name__)
    return f"criterion {term.name}: {kind}, {layers}, weight {term.weight}, reduction {criterion.reduction}"
