"""Make a student of a stock model as the options of a configuration say."""

import argparse
from collections.abc import Mapping, Sequence

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_kd.errors import UserError
from espnet_kd.models.distilled import Method, aligned, distil
from espnet_kd.models.initialise import initialise
from espnet_kd.models.schedule import build_schedule
from espnet_kd.models.transducer import distil_transducer
from espnet_kd.tasks.options import TermOptions, teacher_options, term_options
from espnet_kd.tasks.stored import stored_teacher
from espnet_kd.teachers.experiment import Experiment, load_experiment
from espnet_kd.teachers.lattice import LATTICE
from espnet_kd.teachers.online import OnlineTeacher, observe
from espnet_kd.teachers.probe import probe, sampling_rate
from espnet_kd.teachers.stored import StoredTeacher
from espnet_kd.teachers.taps import Taps
from espnet_kd.teachers.targets import Targets


def wanted(args: argparse.Namespace) -> bool:
    """True if the configuration asks for anything of ours."""
    return bool(args.teacher or args.criteria or args.init_from_teacher)


def attach_teacher(model: ESPnetASRModel, args: argparse.Namespace) -> ESPnetASRModel:
    """Load the teacher(s), initialise the student from the first, and add the criteria to its loss.

    Raises:
        UserError: an option is wrong, or teacher and student do not fit.
    """
    options = teacher_options(args.teacher)
    # With stored targets a teacher is loaded only to copy parts of it.
    directories = options.directories if options.store is None or args.init_from_teacher else ()
    experiments = [load_experiment(d, options.checkpoint) for d in directories]
    for experiment in experiments:
        check_tokens(model.token_list, experiment)
    if args.init_from_teacher:
        if not experiments:
            raise UserError("init_from_teacher: give the teacher to copy from, `teacher: {exp: DIRECTORY}`")
        initialise(model, experiments[0].model, args.init_from_teacher)
    terms = term_options(args.criteria)
    if not terms:
        return model
    _refuse_data_parallel(args)
    _refuse_time_warp(args, terms)
    rate, needed = sampling_rate(model), teacher_taps(terms)
    teacher: StoredTeacher | OnlineTeacher
    if options.store is not None:
        teacher = stored_teacher(options, terms, needed, model.token_list, rate, args)
        seen = teacher.probe()
    else:
        temperatures = common_temperatures(terms, len(experiments))
        teacher = OnlineTeacher(experiments, needed, temperatures, options.weights, options.mean)
        seen = teacher.targets(*probe(rate))
    taps = Taps(model, [t.term.student_tap for t in terms], "the student")
    _fit(model, taps, seen, terms, rate)
    method = Method(
        teacher, taps, tuple(t.term for t in terms), build_schedule(args.task_weight, "task_weight")
    )
    attach = distil if isinstance(model, ESPnetASRModel) else distil_transducer
    return attach(model, method, {t.term.name: t.build() for t in terms})


def check_tokens(tokens: Sequence[str], teacher: Experiment) -> None:
    """Refuse a teacher with another token list, naming the first difference."""
    for i, (ours, theirs) in enumerate(zip(tokens, teacher.tokens, strict=False)):
        if ours != theirs:
            raise UserError(
                f"token {i} is {ours!r} for the student, {theirs!r} for teacher {teacher.directory}: "
                "train both with one token list"
            )
    if len(tokens) != len(teacher.tokens):
        raise UserError(
            f"the student has {len(tokens)} tokens, teacher {teacher.directory} {len(teacher.tokens)}: "
            "train both with one token list"
        )


def _refuse_data_parallel(args: argparse.Namespace) -> None:
    """The teacher is no module, so torch's DataParallel cannot copy it to every GPU."""
    if args.ngpu > 1 and not args.multiprocessing_distributed:
        raise UserError(
            "distillation on several GPUs needs DistributedDataParallel: "
            "add --multiprocessing_distributed true"
        )


def _refuse_time_warp(args: argparse.Namespace, terms: Sequence[TermOptions]) -> None:
    frames = [t.term.name for t in terms if not t.term.student_tap.startswith("decoder")]
    if frames and args.specaug is not None and args.specaug_conf.get("apply_time_warp", True):
        raise UserError(
            f"criterion {frames[0]} compares frames, but the student's SpecAugment moves them in time: "
            "set `specaug_conf: {apply_time_warp: false}`"
        )


def teacher_taps(terms: Sequence[TermOptions]) -> list[str]:
    """Taps of the teacher that the criteria need."""
    guides = [t.build().guide_tap for t in terms]
    return [t.term.teacher_tap for t in terms] + [guide for guide in guides if guide is not None]


def common_temperatures(terms: Sequence[TermOptions], teachers: int) -> dict[str, float]:
    """Temperature at each teacher tap; an ensemble's mean is taken at one temperature."""
    result: dict[str, float] = {}
    for t in terms:
        temperature = t.options.get("temperature", 1.0)
        if teachers > 1 and t.build().needs == "hidden":
            raise UserError(
                f"criteria: {t.term.name}: several teachers have no common hidden space; give one teacher"
            )
        if teachers > 1 and result.get(t.term.teacher_tap, temperature) != temperature:
            raise UserError(
                f"criteria: {t.term.name}: an ensemble needs one temperature for all criteria "
                f"at {t.term.teacher_tap}"
            )
        result[t.term.teacher_tap] = temperature
    return result


def _fit_guide(seen: Mapping[str, Targets], tap: str, guide: str, name: str) -> None:
    positions, weights = seen[tap].values.shape[1], seen[guide].values.shape[1]
    if positions != weights:
        raise UserError(
            f"criterion {name}: the teacher has {positions} positions at {tap}, but {weights} at {guide}, "
            "which weights them: choose a layer of the encoder"
        )


def _fit(
    model: ESPnetASRModel,
    taps: Taps,
    theirs: Mapping[str, Targets],
    terms: Sequence[TermOptions],
    rate: int,
) -> None:
    """Compare what both sides give for some noise: paths, shapes and frame rates are wrong now or never."""
    with torch.no_grad():
        ours = observe(model.eval(), taps, *probe(rate))
    model.train()
    for t in terms:
        if t.term.student_tap == LATTICE:
            continue
        student, target, _ = aligned(ours[t.term.student_tap], theirs[t.term.teacher_tap], t.term)
        criterion = t.build()
        if criterion.guide_tap is not None:
            _fit_guide(theirs, t.term.teacher_tap, criterion.guide_tap, t.term.name)
        if criterion.needs == "hidden":
            if getattr(criterion, "student_dim", 0) is None:
                t.options.update(student_dim=student.shape[-1], teacher_dim=target.shape[-1])
        elif student.shape[-1] != target.shape[-1]:
            raise UserError(
                f"criterion {t.term.name}: {t.term.student_tap} of the student has {student.shape[-1]} "
                f"values at a position, {t.term.teacher_tap} of the teacher {target.shape[-1]}: "
                "choose taps that give logits over the same tokens"
            )
