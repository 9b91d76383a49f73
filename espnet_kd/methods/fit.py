"""Whether a student, its teachers and its data fit each other: all that is refused before a training starts.

What needs no trained teacher is in ``check_student``, ``fit_models`` and ``fit_layers``: a training calls
them, and ``espnet-kd check``, too, with teachers that are not trained yet.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor, nn

from espnet_kd.criteria import CRITERIA
from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.errors import UserError
from espnet_kd.methods.delay import refuse_stored
from espnet_kd.methods.distillation import choose_targets
from espnet_kd.methods.distilled import aligned, ratio_of
from espnet_kd.methods.initialise import check_parts, initialise, refuse_replaced
from espnet_kd.methods.transducer import refuse_pruned
from espnet_kd.rnnt import Joint, SequenceScores
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
from espnet_kd.teachers.speech import compares_frames, refuse_moving_effects
from espnet_kd.teachers.taps import (
    LATTICE,
    LONG_PROBE,
    MAX_FRAME_DIFFERENCE,
    SECONDS,
    Taps,
    Targets,
    check_finite,
    observe,
    probe,
)
from espnet_kd.teachers.token_maps import TokenMap

Shapes = Mapping[str, Sequence[tuple[int, ...]]]  # at the layers of student and teacher, by criterion
Probe = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def check_student(model: ESPnetASRModel, args: argparse.Namespace) -> None:
    """Refuse a student, or options, with which no teacher could be used; ``targets: auto`` is replaced.

    Args:
        model: as ESPnet builds it.
        args: all options.

    Raises:
        UserError: names the option.
    """
    if not args.teacher:
        key = "criteria" if args.criteria else "init_from_teacher"
        raise UserError(f"{key}: there is no teacher: write `teacher: {{exp: DIRECTORY}}`")
    options = teacher_options(args.teacher)
    choose_targets(args, lattice=not isinstance(model, ESPnetASRModel))
    refuse_unused_teacher(args)
    if args.init_from_teacher:
        if not options.sources:
            raise UserError("init_from_teacher: give the teacher to copy from, `teacher: {exp: DIRECTORY}`")
        check_parts(model, args.init_from_teacher)
        refuse_replaced(args.init_from_teacher, args.init_param)
    terms = compared_terms(args)
    if not terms:
        return
    for t in terms:
        refuse_stored(t, stored=options.store is not None)
    terms = without_auto(terms)
    refuse_time_warp(args, terms)
    refuse_moving_effects(args, terms)
    common_temperatures(terms, len(options.sources))
    if options.store is None:
        _refuse_codes(terms)
    check_layers(model, args, terms, "the student")


def compared_terms(args: argparse.Namespace) -> list[TermOptions]:
    """Return the criteria between student and teacher that count; `targets: hard` leaves out all of them."""
    return [] if args.targets == "hard" else term_options(args.criteria)


def without_auto(terms: Sequence[TermOptions]) -> list[TermOptions]:
    """Return criteria that can be built although their delay is not measured yet."""
    delayed = [{**t.options, "delay": 0} if t.options.get("delay") == "auto" else t.options for t in terms]
    return [replace(t, options=options) for t, options in zip(terms, delayed, strict=True)]


def check_layers(
    model: nn.Module,
    args: argparse.Namespace,
    terms: Sequence[TermOptions],
    owner: str = "the model",
    method: str = "",
) -> None:
    """Run a model once on noise, to refuse layers that it lacks, or that do not give what is compared.

    Args:
        model: as ESPnet builds it.
        args: all options.
        terms: criteria, each at a layer of the model.
        owner: whose model it is, for messages.
        method: its name begins the messages.

    Raises:
        UserError: names the layer.
    """
    begin = f"{method}: " if method else ""
    if any(t.term.student_tap == LATTICE for t in terms):
        refuse_pruned(model, begin)
    try:
        taps = Taps(model, [t.term.student_tap for t in terms], owner)
        refuse_other_prefix(model, owner, [t.term for t in terms])
        seen = _observe(model, taps, student_noise(args))
        for t in terms:
            of_classes = t.build().needs in ("logits", "sequence") and not t.build().any_classes
            if t.kind in CRITERIA and of_classes:
                _check_tokens(t.term, _classes(seen[t.term.student_tap].values), len(model.token_list), owner)
    except UserError as e:
        raise UserError(f"{begin}{e}") from None


def check_untrained(
    student: ESPnetASRModel, args: argparse.Namespace, teachers: Sequence[TeacherModel]
) -> None:
    """Refuse teachers that are not trained yet, and will not fit the student.

    Args:
        student: passed ``check_student``; changed.
        args: all options.
        teachers: with any weights.

    Raises:
        UserError: names student and teacher.
    """
    terms, options = without_auto(compared_terms(args)), teacher_options(args.teacher)
    maps = fit_models(student, args, teachers, terms)
    if not terms:
        return
    temperatures = common_temperatures(terms, len(teachers))
    weights = options.weights if len(teachers) == len(options.sources) else None
    teacher = OnlineTeacher(teachers, teacher_taps(terms), temperatures, weights, options.mean, maps)
    taps = Taps(student, [t.term.student_tap for t in terms], "the student")
    fit_layers(student, (student_noise(args), teacher_noise(args, teachers)), taps, teacher, terms)


def fit_models(
    student: ESPnetASRModel,
    args: argparse.Namespace,
    teachers: Sequence[TeacherModel],
    terms: Sequence[TermOptions],
) -> list[TokenMap | None]:
    """Refuse teachers with other tokens or input than the student; copy the parts that are asked for.

    Returns:
        For each teacher, the student's tokens in its list; None where the lists are the same.

    Raises:
        UserError: names what differs.
    """
    maps = [fit_tokens(student.token_list, t, terms, args.init_from_teacher or ()) for t in teachers]
    if args.init_from_teacher:
        initialise(student, teachers[0].model, args.init_from_teacher)
    if not terms:
        return maps
    with_rate = [teacher for teacher in teachers if teacher.rate is not None]
    for teacher in teachers:
        check_features(args.input_size, "the student", teacher)
    for teacher in with_rate:
        check_rate(with_rate[0].rate, with_rate[0].owner, teacher)
    for teacher in teachers:
        refuse_other_prefix(teacher.model, teacher.owner, [t.term for t in terms])
    _check_blanks(teachers, terms)
    return maps


def student_noise(args: argparse.Namespace) -> Probe:
    """Return what makes noise at the student's sampling rate."""
    return partial(probe, input_rate(vars(args)) or DEFAULT_RATE, args.input_size)


def teacher_noise(args: argparse.Namespace, teachers: Sequence[TeacherModel]) -> Probe:
    """Return what makes noise at the teachers' sampling rate, at the student's if they have none."""
    ours = input_rate(vars(args)) or DEFAULT_RATE
    return partial(probe, next((t.rate for t in teachers if t.rate is not None), ours), args.input_size)


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
        'alone, or `init_from_teacher`; or leave the teacher out (in a recipe by --teacher_config "")'
    )


def check_features(size: int | None, who: str, teacher: TeacherModel) -> None:
    """Refuse a teacher that takes features where the other takes waveforms, or features of another size."""
    if size != teacher.features:
        ours, theirs = (f"features of size {n}" if n else "waveforms" for n in (size, teacher.features))
        raise UserError(
            f"{who} takes {ours}, {teacher.owner} {theirs} (input_size): "
            "both read the same files: train both on waveforms, or both on features of one size"
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


def _refuse_codes(terms: Sequence[TermOptions]) -> None:
    """Refuse criteria on codes, which a model that runs in training does not give."""
    for t in terms:
        if t.build().needs == "codes":
            raise UserError(
                f"criterion {t.term.name}: codes come from a store: make it with `espnet-kd targets`, and "
                "give `teacher: {store: DIRECTORY}`"
            )


def _fit_guide(seen: Mapping[str, Targets], tap: str, guide: str, name: str) -> None:
    """Refuse a guide whose positions are not those of the teacher's layer."""
    positions, weights = seen[tap].values.shape[1], seen[guide].values.shape[1]
    if positions != weights:
        raise UserError(
            f"criterion {name}: the teacher has {positions} positions at {tap}, but {weights} at {guide}, "
            "which weights them: choose a layer of the encoder"
        )


def fit_layers(
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
    ours, theirs = _classes(student), _classes(teacher)
    if ours != theirs:
        raise UserError(
            f"criterion {term.name}: {term.student_tap} of the student has {ours} values at a position, "
            f"{term.teacher_tap} of the teacher {theirs}: choose taps that give logits over the same tokens"
        )
    if tokens is not None:
        _check_tokens(term, ours, tokens)


def _classes(values: Any) -> int:
    return int(values.classes if isinstance(values, Joint) else values.shape[-1])


def _check_tokens(term: Term, classes: int, tokens: int, owner: str = "the student") -> None:
    """Refuse a layer that gives no logits over the tokens."""
    if classes != tokens:
        raise UserError(
            f"criterion {term.name}: {term.student_tap} of {owner} has {classes} values at a position, but "
            f"there are {tokens} tokens: choose a tap that gives logits (ctc.ctc_lo), or `type: hidden`"
        )


def _observe(model: nn.Module, taps: Taps, noise: Probe, seconds: int = SECONDS) -> dict[str, Targets]:
    """Return the values at the taps of the student for noise."""
    with torch.no_grad():
        seen = observe(model.eval(), taps, *noise(seconds=seconds))
    model.train()
    return seen


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
    return _observe(model, taps, noise[0], seconds), theirs


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


