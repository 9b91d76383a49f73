"""Attach teachers and criteria to a stock model, so that it trains as their student."""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor, nn

from espnet_kd.criteria import CRITERIA, Criterion
from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.errors import UserError
from espnet_kd.host.outputs import OWN_PREFIX
from espnet_kd.methods.consistency import compared_views
from espnet_kd.methods.delay import set_delays
from espnet_kd.methods.distillation import choose_targets
from espnet_kd.methods.distilled import Objective, aligned, distil, ratio_of
from espnet_kd.methods.initialise import freeze_unreached, initialise
from espnet_kd.methods.nbest import nbest_options
from espnet_kd.methods.transducer import distil_transducer
from espnet_kd.rnnt import Joint, SequenceScores
from espnet_kd.schedule import Schedule, build_schedule
from espnet_kd.targets.fit import stored_teacher
from espnet_kd.targets.teacher import StoredTeacher
from espnet_kd.teachers.experiment import input_rate
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import (
    Term,
    TermOptions,
    check_rate,
    common_temperatures,
    fit_tokens,
    refuse_other_prefix,
    teacher_options,
    teacher_taps,
    term_options,
)
from espnet_kd.teachers.speech import check_speech, compares_frames
from espnet_kd.teachers.taps import (
    LATTICE,
    LONG_PROBE,
    MAX_FRAME_DIFFERENCE,
    SECONDS,
    Taps,
    Targets,
    check_finite,
    has_lattice,
    observe,
    probe,
)
from espnet_kd.teachers.token_maps import TokenMap

FOLLOWS_VALIDATION = "reducelronplateau"  # in the name of a scheduler
Shapes = Mapping[str, Sequence[tuple[int, ...]]]  # at the layers of student and teacher, by criterion
Probe = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def attach_teacher(model: ESPnetASRModel, args: argparse.Namespace) -> ESPnetASRModel:
    """Load the teachers, initialise the student from the first, and add the criteria to its loss.

    Raises:
        UserError: an option is wrong, or teacher and student do not fit.
    """
    options = teacher_options(args.teacher)
    targets = choose_targets(args, lattice=not isinstance(model, ESPnetASRModel))
    refuse_unused_teacher(args)
    # With stored targets a teacher is loaded only to copy parts of it.
    sources = options.sources if options.store is None or args.init_from_teacher else ()
    experiments = [source.load() for source in sources]
    terms = [] if targets == "hard" else term_options(args.criteria)
    maps = [fit_tokens(model.token_list, e, terms, args.init_from_teacher or ()) for e in experiments]
    if args.init_from_teacher:
        if not experiments:
            raise UserError("init_from_teacher: give the teacher to copy from, `teacher: {exp: DIRECTORY}`")
        initialise(model, experiments[0].model, args.init_from_teacher)
    if not terms:
        return model
    rate = input_rate(vars(args))
    with_rate = [experiment for experiment in experiments if experiment.rate is not None]
    for experiment in experiments:
        check_features(args.input_size, "the student", experiment)
    for experiment in with_rate:
        check_rate(with_rate[0].rate, with_rate[0].owner, experiment)
    set_delays(args, terms, experiments[0] if options.store is None else None)
    refuse_time_warp(args, terms)
    check_speech(args, terms)
    refuse_other_prefix(model, "the student", [t.term for t in terms])
    for experiment in experiments:
        refuse_other_prefix(experiment.model, experiment.owner, [t.term for t in terms])
    needed = teacher_taps(terms)
    _check_blanks(experiments, terms)
    ours = rate or DEFAULT_RATE
    theirs = with_rate[0].rate if with_rate else ours
    noise = partial(probe, ours, args.input_size), partial(probe, theirs, args.input_size)
    teacher: StoredTeacher | OnlineTeacher
    if options.store is not None:
        teacher = stored_teacher(options, terms, needed, model.token_list, rate, args)
    else:
        temperatures = common_temperatures(terms, len(experiments))
        teacher = OnlineTeacher(experiments, needed, temperatures, options.weights, options.mean, maps)
    taps = Taps(model, [t.term.student_tap for t in terms], "the student")
    terms, shapes = _fit(model, noise, taps, teacher, terms)
    task_weight = build_schedule(args.task_weight, "task_weight")
    compared = tuple(t.term for t in terms)
    objective = Objective(teacher, taps, compared, task_weight, soft_only=targets == "soft")
    if objective.task_weight.is_zero:
        _freeze(model, args, objective.terms, noise[0]())
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


def _line(teacher: TeacherModel, tokens: TokenMap | None) -> str:
    size = sum(p.numel() for p in teacher.model.parameters())
    line = f"{teacher.owner}: {teacher.checkpoint.name}, {size} parameters"
    if tokens is not None:
        line += f"; {tokens.known} of its {len(teacher.tokens or ())} tokens are the student's, which has "
        line += f"{len(tokens.numbers)}"
    return line


def refuse_unused_teacher(args: argparse.Namespace) -> None:
    """Refuse a teacher that nothing uses, such as one whose block `criteria` is in the wrong place.

    A training that goes on from another model, as a later phase does, may be on the task alone.

    Raises:
        UserError: there are no criteria, and neither hard targets nor copied parts say why.
    """
    if args.criteria or args.targets == "hard" or (args.init_from_teacher and args.targets != "soft"):
        return
    if args.init_param and args.targets != "soft":
        return
    raise UserError(
        "teacher: there are no criteria, so nothing is learned from it: write `criteria: {ctc: {type: kl, "
        "tap: ctc.ctc_lo}}` at the top level of the configuration, `targets: hard` for its pseudo-labels "
        "alone, or `init_from_teacher`"
    )


def check_features(size: int | None, who: str, teacher: TeacherModel) -> None:
    """Refuse a teacher that takes features where the other takes waveforms, or features of another size."""
    if size != teacher.features:
        ours, theirs = (f"features of size {n}" if n else "waveforms" for n in (size, teacher.features))
        raise UserError(
            f"{who} takes {ours}, {teacher.owner} {theirs} (input_size): "
            "both get the same files, train them on one kind"
        )


def refuse_data_parallel(args: argparse.Namespace) -> None:
    """Refuse torch's DataParallel, which copies modules to every GPU, but not teachers and hooks.

    The copies would share, in threads, the state that methods keep for a step, and all count it.

    Raises:
        UserError: several GPUs would be used by it.
    """
    if args.ngpu > 1 and not args.multiprocessing_distributed:
        raise UserError(
            "distillation on several GPUs needs DistributedDataParallel: "
            "add --multiprocessing_distributed true"
        )


def refuse_time_warp(args: argparse.Namespace, terms: Sequence[TermOptions]) -> None:
    """Refuse a criterion on frames where the student's SpecAugment warps time."""
    frames = [t.term.name for t in terms if compares_frames(t)]
    if frames and args.specaug is not None and args.specaug_conf.get("apply_time_warp", True):
        raise UserError(
            f"criterion {frames[0]} compares frames, but the student's SpecAugment moves them in time: "
            "set `specaug_conf: {apply_time_warp: false}`"
        )


def _check_blanks(teachers: Sequence[TeacherModel], terms: Sequence[TermOptions]) -> None:
    """Refuse weights by the blank where a teacher has it at another token than 0."""
    guided = [t for t in terms if t.build().guide_tap is not None or t.build().by_blank]
    elsewhere = [teacher.owner for teacher in teachers if teacher.blank]
    if guided and elsewhere:
        what = "`frames`" if guided[0].build().by_blank else "`frame_weights: nonblank`"
        raise UserError(
            f"criterion {guided[0].term.name}: {what} needs the blank at token 0, which {elsewhere[0]} has "
            "elsewhere: choose other frames or weights"
        )


def _fit_guide(seen: Mapping[str, Targets], tap: str, guide: str, name: str) -> None:
    """Refuse a guide whose positions are not those of the teacher's layer."""
    positions, weights = seen[tap].values.shape[1], seen[guide].values.shape[1]
    if positions != weights:
        raise UserError(
            f"criterion {name}: the teacher has {positions} positions at {tap}, but {weights} at {guide}, "
            "which weights them: choose a layer of the encoder"
        )


def _fit(
    model: ESPnetASRModel,
    noise: tuple[Probe, Probe],
    taps: Taps,
    teacher: OnlineTeacher | StoredTeacher,
    terms: Sequence[TermOptions],
) -> tuple[list[TermOptions], Shapes]:
    """Run student and teacher once on noise, to find wrong paths, shapes and frame rates before training.

    Args:
        noise: makes it at the rates of student and teacher.

    Returns:
        The terms, with the ratio of the frame rates where they ask for it, and the shapes at their layers.
    """
    ours, theirs = _observe_both(model, noise, taps, teacher)
    check_finite(ours, "the student")
    if any(t.resample for t in terms):
        longer = _observe_both(model, noise, taps, teacher, LONG_PROBE)
        terms = [_with_ratio(t, (ours, longer[0]), (theirs, longer[1])) for t in terms]
    for t in terms:
        if t.build().kind == "sequence":
            if t.term.teacher_tap == LATTICE and isinstance(teacher, StoredTeacher):
                continue  # its token list was compared, and the values of a joint network are not logits
            values = ours[t.term.student_tap].values, theirs[t.term.teacher_tap].values
            _check_classes(t.term, *values, len(model.token_list))
            continue
        if t.term.student_tap == LATTICE:
            frames, others = (int(side[LATTICE].lengths.max()) for side in (ours, theirs))
            if abs(frames - others) > MAX_FRAME_DIFFERENCE:
                raise UserError(
                    f"criterion {t.term.name}: the student has {frames} frames, the teacher {others}: "
                    "use the same subsampling and hop length in both"
                )
            continue
        criterion = t.build()
        student, target, _ = aligned(
            ours[t.term.student_tap], theirs[t.term.teacher_tap], t.term, criterion.needs
        )
        if criterion.guide_tap is not None:
            _fit_guide(theirs, t.term.teacher_tap, criterion.guide_tap, t.term.name)
        if criterion.needs == "codes" and not isinstance(teacher, StoredTeacher):
            raise UserError(
                f"criterion {t.term.name}: codes come from a store: make it with `espnet-kd targets`, and "
                "give `teacher: {store: DIRECTORY}`"
            )
        if criterion.needs in ("hidden", "codes"):
            if criterion.student_dim is None:
                t.options.update(student_dim=student.shape[-1], teacher_dim=target.shape[-1])
        elif not criterion.any_classes:
            tokens = len(model.token_list) if t.kind in CRITERIA else None
            _check_classes(t.term, student, target, tokens)
    shapes = {
        t.term.name: tuple(
            tuple(getattr(side[tap].values, "shape", ()))
            for side, tap in ((ours, t.term.student_tap), (theirs, t.term.teacher_tap))
        )
        for t in terms
    }
    return list(terms), shapes


def _check_classes(term: Term, student: Any, teacher: Any, tokens: int | None) -> None:
    """Refuse layers with other numbers of classes; scores of label sequences have none.

    Args:
        tokens: of the student; None for a plug-in, which may compare anything.
    """
    if isinstance(teacher, SequenceScores):
        return
    ours, theirs = (x.classes if isinstance(x, Joint) else x.shape[-1] for x in (student, teacher))
    if ours != theirs:
        raise UserError(
            f"criterion {term.name}: {term.student_tap} of the student has {ours} values at a position, "
            f"{term.teacher_tap} of the teacher {theirs}: choose taps that give logits over the same tokens"
        )
    if tokens not in (None, ours):
        raise UserError(
            f"criterion {term.name}: {term.student_tap} of the student has {ours} values at a position, but "
            f"there are {tokens} tokens: choose a tap that gives logits (ctc.ctc_lo), or `type: hidden`"
        )


def _observe_both(
    model: ESPnetASRModel,
    noise: tuple[Probe, Probe],
    taps: Taps,
    teacher: OnlineTeacher | StoredTeacher,
    seconds: int = SECONDS,
) -> tuple[dict[str, Targets], dict[str, Targets]]:
    """Return the values at the taps of student and teacher for noise of the same duration."""
    stored = isinstance(teacher, StoredTeacher)
    theirs = teacher.probe(seconds) if stored else teacher.targets(*noise[1](seconds=seconds))
    with torch.no_grad():
        ours = observe(model.eval(), taps, *noise[0](seconds=seconds))
    model.train()
    return ours, theirs


def _with_ratio(
    options: TermOptions,
    ours: tuple[Mapping[str, Targets], Mapping[str, Targets]],
    theirs: tuple[Mapping[str, Targets], Mapping[str, Targets]],
) -> TermOptions:
    if not options.resample:
        return options
    term = options.term
    student, teacher = (
        (short[tap].values.shape[1], longer[tap].values.shape[1])
        for (short, longer), tap in ((ours, term.student_tap), (theirs, term.teacher_tap))
    )
    ratio = ratio_of(student, teacher, term.name)
    return replace(options, term=replace(term, ratio=None if ratio == 1 else ratio))


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
    kind = {known: name for name, known in CRITERIA.items()}.get(type(criterion), type(criterion).__name__)
    return f"criterion {term.name}: {kind}, {layers}, weight {term.weight}, reduction {criterion.reduction}"
