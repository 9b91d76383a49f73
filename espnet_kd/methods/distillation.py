"""Distillation from a teacher: its options, what of the teacher counts, and its name in the results."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_kd.config import parse_yaml
from espnet_kd.data.dump import are_hypotheses
from espnet_kd.errors import UserError
from espnet_kd.files import iterate_rows, table_files
from espnet_kd.methods.method import BuildModel, Method, Preprocess
from espnet_kd.schedule import Schedule, build_schedule
from espnet_kd.teachers.named import places_of

# What each choice of `targets` uses; transcripts count in all of them.
CHOICES = {
    "soft": "the criteria on all speech, pseudo-labels only as their paths through the lattice",
    "hard": "the task loss on transcripts and pseudo-labels; no criteria, and task_weight does not count",
    "both": "the task loss on transcripts and pseudo-labels, and the criteria on all speech",
}
AUTO = "auto"
ARCHITECTURE = ("encoder", "encoder_conf", "decoder", "decoder_conf", "joint_network_conf")
STREAMING = "dynamic_chunk_training"
SOURCE = "Hwang et al. 2022, arXiv:2210.05793"
MODELS = "valid.*.ave.pth"  # of a teacher, where no checkpoint is chosen
KEYS = ("teacher", "criteria", "init_from_teacher")  # without one of them there is no teacher
BESIDE_TASK = ("nbest", "consistency")  # methods that add terms to a task loss of weight 1


class DistillationMethod(Method):
    """A trained teacher gives targets for weighted criteria, initial parameters of the student, or both."""

    def add_arguments(self, group: Any) -> None:
        """Add ``teacher``, ``criteria`` and what goes with them."""
        from espnet_kd.teachers.options import TEACHER_KEYS, TERM_KEYS

        for name, text in (
            (
                "teacher",
                f"Trained model(s), a mapping with {', '.join(TEACHER_KEYS)}; exp and hf are a directory or "
                "a list, store a directory of targets written before",
            ),
            (
                "criteria",
                "What is compared: for each criterion a name of your choice, and a mapping with "
                f"{', '.join(TERM_KEYS)} and the options of its type",
            ),
            (
                "init_from_teacher",
                "Parts of the student that begin as copies of the teacher's: for each path true, the path in "
                "the teacher, a list of layers, or a mapping with layers and select",
            ),
        ):
            group.add_argument(f"--{name}", action="mapping", default={}, help=text)
        group.add_argument(
            "--targets",
            help="What teaches the student: soft (criteria), hard (pseudo-labels), both (default), or auto",
        )
        group.add_argument("--delay_student", help="Trained student that `delay: auto` measures; a directory")
        group.add_argument(
            "--task_weight", type=parse_yaml, default=1.0, help="Weight of the task loss, or its schedule"
        )

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse what would fail at the first batch, or would change nothing."""
        from espnet_kd.teachers.options import check_k, teacher_options, term_options

        if args.targets not in (None, AUTO, *CHOICES):
            raise UserError(f"targets: {args.targets!r} is none of {AUTO}, {', '.join(CHOICES)}")
        task_weight = build_schedule(args.task_weight, "task_weight")
        alone = not args.criteria and not args.mutual  # peers refuse the options below themselves
        if alone and args.targets != "hard" and task_weight != Schedule(1.0, 1.0):
            others = [name for name in BESIDE_TASK if getattr(args, name, None)]
            if others:
                raise UserError(
                    f"task_weight is {args.task_weight}, but {others[0]} alone needs the task with weight 1, "
                    "and transcripts: leave it out"
                )
            raise UserError(
                f"task_weight is {args.task_weight}, but there are no criteria beside the task: give some, "
                "or leave it out"
            )
        if alone and (args.targets == "soft" or (args.targets == AUTO and not args.teacher)):
            raise UserError(
                f"targets: {args.targets} chooses criteria, and there are none: give some, or leave it out"
            )
        check_k(term_options(args.criteria), classes)
        options = teacher_options(args.teacher) if args.teacher else None
        if options is None or options.k is None:
            return
        if options.k > classes:
            raise UserError(f"teacher: k is {options.k}, but the model has {classes} classes")
        if options.store is None:
            raise UserError(
                f"teacher: k is {options.k}, the classes that a target store keeps, but there is no store: "
                "give store: DIRECTORY, or leave out k (the criterion topk has a k of its own)"
            )

    def check_model(self, model: Any, args: argparse.Namespace) -> None:
        """Refuse a student with which no teacher could be used."""
        from espnet_kd.methods.fit import check_student

        if self.distils(vars(args)):
            check_student(model, args)

    def check_inputs(self, args: argparse.Namespace) -> None:
        """Refuse a target store that is missing, and that no teacher is named to make."""
        from espnet_kd.targets.format import read_manifest
        from espnet_kd.teachers.options import teacher_options

        if not (args.teacher and args.criteria) or args.targets == "hard":
            return
        options = teacher_options(args.teacher)
        if options.store is not None and not options.sources:
            read_manifest(Path(options.store))

    def inputs(self, config: Mapping[str, Any]) -> dict[str, list[Path]]:
        """Return the files of the teachers, of published ones those in the cache, and of their targets."""
        from espnet_kd.teachers.published import is_tag, place_of
        from espnet_kd.teachers.repository import known_directory

        teacher = config.get("teacher")
        if not isinstance(teacher, dict):
            return {}
        found = {}
        pattern = str(teacher["checkpoint"]) if teacher.get("checkpoint") else MODELS
        for place in places_of(teacher, "hf"):
            directory = known_directory(place, teacher.get("revision")) or Path(place)
            files = (file for name in ("*.json", "*.safetensors") for file in directory.glob(name))
            found[f"teacher {place}"] = sorted(files)
        for place in places_of(teacher, "exp"):
            is_published = not Path(place).exists() and is_tag(place)
            directory = place_of(place) if is_published else Path(place)
            models = list(directory.glob(pattern)) or list(directory.glob("*.pth"))  # the only one
            files = [*directory.glob("config.yaml"), *models]
            found[f"teacher {place}"] = sorted(file for file in files if file.is_file())
        if (store := Path(str(teacher.get("store"))) / "manifest.json").is_file():
            found["target store"] = [store]
        return found

    def preprocess(
        self, args: argparse.Namespace, train: bool, stock: Preprocess | None
    ) -> Preprocess | None:
        """Add to a batch stored targets, or the teacher's speech where it differs from the student's."""
        if not (args.teacher and args.criteria) or args.targets == "hard":
            return stock
        if args.teacher.get("store"):
            from espnet_kd.targets.teacher import WithStoredTargets
            from espnet_kd.teachers.options import teacher_taps, term_options

            return WithStoredTargets(stock, args.teacher["store"], teacher_taps(term_options(args.criteria)))
        from espnet_kd.teachers.speech import with_teacher_speech

        return with_teacher_speech(args, train, stock)

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Load the teachers and add their criteria to the student's loss."""
        if not self.distils(vars(args)):
            return model
        from espnet_kd.methods.attach import attach_teacher

        return attach_teacher(model, args)

    def before_training(self, model: Any, optimizers: Sequence[Any], options: Any) -> None:
        """Keep weight decay from what waits for a loss whose weight is still 0."""
        from espnet_kd.methods.initialise import spare_unreached

        for optimizer in optimizers:
            optimizer.register_step_pre_hook(lambda optimizer, *_: spare_unreached(model, optimizer))

    def distils(self, config: Mapping[str, Any]) -> bool:
        """Return True where there is a teacher."""
        return any(config.get(key) for key in KEYS)

    def label(self, config: Mapping[str, Any]) -> str:
        """Return the names of the criteria, the kind of targets, and whether the student was initialised."""
        targets = config.get("targets")
        parts = [] if targets == "hard" else list(map(str, config.get("criteria") or {}))
        if targets in ("soft", "hard"):
            parts.append(f"{targets} targets")
        if config.get("init_from_teacher"):
            parts.append("initialised from the teacher")
        return ", ".join(parts)


def choose_targets(args: argparse.Namespace, lattice: bool = True) -> str:
    """Replace ``targets: auto`` by the choice for these models, and log it with its reason.

    Args:
        args: all options.
        lattice: the student is a transducer, which can learn a hypothesis as a path, but not as a text.

    Returns:
        A key of ``CHOICES``.

    Raises:
        UserError: ``auto`` without a teacher, or ``soft`` for a student that cannot leave out pseudo-labels.
    """
    if args.targets is None:
        return "both"
    reason = "as configured"
    if args.targets == AUTO:
        from espnet_kd.teachers.options import teacher_options

        sources = teacher_options(args.teacher).sources if args.teacher else ()
        if not sources:
            raise UserError("targets: auto compares student and teacher: give `teacher: {exp: DIRECTORY}`")
        found = {rule(vars(args), source.speech()[1]) for source in sources}
        args.targets, reason = min(found)  # hard is before soft: one teacher of another kind decides
        if args.targets == "soft" and not lattice and has_hypotheses(args):
            args.targets, reason = (
                "both",
                f"{reason}; only transducers can leave pseudo-labels out of their loss",
            )
    elif args.targets == "soft" and has_hypotheses(args):
        refuse_soft(lattice)
    logging.info(f"targets: {args.targets}: {CHOICES[args.targets]}; {reason}")
    return args.targets


def refuse_soft(lattice: bool) -> None:
    """Refuse `targets: soft` where there are pseudo-labels and the student is no transducer.

    Raises:
        UserError: it is none.
    """
    if not lattice:
        raise UserError(
            "targets: soft leaves pseudo-labels out of the task loss, which only transducers "
            "(--task asr_transducer) can: use both, or hard"
        )


def has_hypotheses(args: argparse.Namespace) -> bool:
    """Return True if there are pseudo-labels in the training set."""
    return any(
        are_hypotheses([utt])[0]
        for shapes in args.train_shape_file[:1]
        for file in table_files(shapes)
        for utt, _ in iterate_rows(file)
    )


def rule(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> tuple[str, str]:
    """Choose between soft and hard targets for two configurations; return the choice and its reason.

    Source:
        The abstract of Hwang et al. 2022, arXiv:2210.05793: hard targets are better where the architectures
        differ, such as those of a large teacher and a small streaming student; soft ones for self-training.
    """
    streaming = [bool(_encoder(c).get(STREAMING)) for c in (student, teacher)]
    if streaming == [True, False]:
        return "hard", f"the student streams, the teacher does not ({SOURCE})"
    differing = [key for key in ARCHITECTURE if _shape(student.get(key)) != _shape(teacher.get(key))]
    if differing:
        return "hard", f"{differing[0]} of student and teacher differ ({SOURCE})"
    return "soft", f"student and teacher have one architecture ({SOURCE})"


def _encoder(config: Mapping[str, Any]) -> Mapping[str, Any]:
    conf = config.get("encoder_conf") or {}
    return conf.get("main_conf") or conf


def _shape(value: Any) -> Any:
    """Reduce a part of a configuration to what changes shapes of tensors: no dropout, nothing empty."""
    if isinstance(value, Mapping):
        parts = {key: _shape(item) for key, item in value.items() if "dropout" not in key}
        return {key: part for key, part in parts.items() if part is not None} or None
    if isinstance(value, list | tuple):
        return [_shape(item) for item in value]
    return value or None


TAPS = ("tap", "student_tap", "teacher_tap")


def obstacle(task_weight: object, criteria: Mapping[str, Any]) -> str | None:
    """Return what in the training needs transcripts, for the message of an error; None if nothing does."""
    from espnet_kd.teachers.options import READS_TOKENS, of_sequence

    if not build_schedule(task_weight, "task_weight").is_zero:
        return f"task_weight is {task_weight}, not 0"
    for name, entry in criteria.items():
        taps = [str(entry[key]) for key in TAPS if key in entry] if isinstance(entry, Mapping) else []
        readers = [tap for tap in taps if tap.split(".")[0] in READS_TOKENS]
        if readers or not taps:
            return f"criterion {name} has {'the tap ' + readers[0] if readers else 'no tap'}"
        if "type" in entry and of_sequence(entry):
            return f"criterion {name} compares the probabilities of transcripts"
    return None if criteria else "there are no criteria"


def check_transcripts(args: argparse.Namespace) -> None:
    """Refuse data without text, of training or validation, where the training needs it.

    Raises:
        UserError: names the file without text and what needs it.
    """
    for part in ("train", "valid"):
        data = getattr(args, f"{part}_data_path_and_name_and_type", None) or []
        if not data or any(name == "text" for _, name, _ in data):
            continue
        collected = "statistics are collected" if args.collect_stats else None
        reason = collected or obstacle(args.task_weight, args.criteria)
        if reason is not None:
            raise UserError(
                f"{data[0][0]} comes without text, but {reason}: give a `text`, or use `task_weight: 0` and "
                "criteria on the encoder alone"
            )
