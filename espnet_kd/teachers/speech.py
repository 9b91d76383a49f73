"""Prepare the teacher's speech: without the student's augmentation, as in the teacher's own training.

Targets in a store were computed from speech prepared in the same way.
"""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.data.audio import convert
from espnet_kd.errors import UserError
from espnet_kd.host.training import Preprocess, preprocessing
from espnet_kd.teachers.experiment import Experiment, input_rate
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.options import TermOptions, teacher_options

TEACHER_SPEECH = "teacher_speech"  # key of the teacher's speech in a batch, if it differs from the student's
NEW_TIMES = ("speed_perturb", "time_stretch", "reverse")  # effects that move speech to other frames
# Options that change a model's speech always, not only in training.
PREPARATION = ("speech_volume_normalize", "force_single_channel")


def with_teacher_speech(
    args: argparse.Namespace, train: bool, student: Preprocess | None
) -> Preprocess | None:
    """Add ``teacher_speech`` to a student's preparation, where the teacher needs other speech."""
    teachers = teachers_of(args)
    theirs = rate_of_sources(teachers)
    config = teachers[0].speech()[1] if teachers else {}  # a store has checksums of raw speech
    ours = input_rate(vars(args))
    rates = None if ours is None or theirs in (None, ours) else (ours, theirs)
    if preparation(config) == preparation(vars(args)) and not (train and augmentations(args)) and not rates:
        return student
    prepare = preprocessing({**config, "token_type": None}) if config else None
    return PreprocessForBoth(student, prepare, rates)


class PreprocessForBoth:
    """Preprocess an utterance for the student, and its speech a second time for the teacher."""

    def __init__(
        self, student: Preprocess | None, teacher: Preprocess | None, rates: tuple[int, int] | None = None
    ) -> None:
        self.student, self.teacher, self.rates = student, teacher, rates

    def __call__(self, utt: str, data: dict[str, Any]) -> dict[str, Any]:
        """Return the student's data with ``teacher_speech`` added."""
        theirs = {"speech": data["speech"].copy()}  # the student's augmentation may change it in place
        found = data if self.student is None else self.student(utt, data)
        theirs = theirs if self.teacher is None else self.teacher(utt, theirs)
        return {**found, TEACHER_SPEECH: at_rate(theirs["speech"], self.rates)}


def at_rate(speech: NDArray[Any], rates: tuple[int, int] | None) -> NDArray[Any]:
    """Resample a waveform (N,) from the student's to the teacher's rate; None leaves it as it is."""
    if rates is None:
        return speech
    found: NDArray[Any] = convert(speech, rates[0], 1.0, rates[1])
    return found


def speech_for(experiment: Experiment, samples: NDArray[Any], rate: int) -> NDArray[np.float32]:
    """Return speech (N,) of any rate as an experiment reads it: prepared as in its training, at its rate."""
    config = Experiment.speech(str(experiment.directory))[1]
    prepare = preprocessing({**config, "token_type": None})
    data: dict[str, Any] = {"speech": samples.astype(np.float32)}  # a copy, as it may be changed in place
    found = data if prepare is None else prepare("", data)
    rates = None if experiment.rate in (None, rate) else (rate, experiment.rate)
    speech: NDArray[np.float32] = at_rate(found["speech"], rates).astype(np.float32)
    return speech


def teachers_of(args: argparse.Namespace) -> list[Source]:
    """Return where the teachers are that run during training; none if targets come from a store."""
    options = teacher_options(args.teacher)
    return [] if options.store else list(options.sources)


def rate_of_sources(sources: Sequence[Source]) -> int | None:
    """Return the sampling rate of the first teacher that has one, in hertz; None if none has."""
    return next((rate for source in sources if (rate := source.speech()[0]) is not None), None)


def preparation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that change a model's speech always; None for those that do nothing."""
    used = config.get("use_preprocessor", True)
    found = {**config, **(config.get("preprocessor_conf") or {})} if used else {}
    return {key: found.get(key) or None for key in PREPARATION}


def augmentations(args: argparse.Namespace) -> list[str]:
    """Return the names of the student's options that change its speech at random in training."""
    conf = vars(args).get("preprocessor_conf") or {}
    if not args.use_preprocessor:
        return []
    found = [name for name in ("noise_scp", "rir_scp") if vars(args).get(name)]
    return found + ["data_aug_effects"] * bool(conf.get("data_aug_effects") and conf.get("data_aug_prob"))


def compares_frames(t: TermOptions) -> bool:
    """Return whether it matters to the criterion when something is said."""
    return not t.term.student_tap.startswith("decoder") and t.build().kind != "sequence"


def check_speech(args: argparse.Namespace, terms: Sequence[TermOptions]) -> None:
    """Check that teachers get comparable speech, and log how it differs from the student's.

    Raises:
        UserError: the teachers of an ensemble prepare their speech in different ways.
    """
    found, teachers = augmentations(args), teachers_of(args)
    check_alike(teachers)
    ours, theirs = input_rate(vars(args)), rate_of_sources(teachers)
    if ours is not None and theirs not in (None, ours):
        name = teachers[0]
        logging.info(f"teacher {name} gets its speech at {theirs} Hz, resampled from {ours} Hz by soxr")
    if found:
        logging.info(f"the student gets its speech with {', '.join(found)}, the teacher without")


def refuse_moving_effects(args: argparse.Namespace, terms: Sequence[TermOptions]) -> None:
    """Refuse augmentation of the student's speech that moves frames which a criterion compares.

    Raises:
        UserError: names criterion and effect.
    """
    found = augmentations(args)
    effects = args.preprocessor_conf.get("data_aug_effects") if "data_aug_effects" in found else None
    moving = [name for name in _names(effects) if name in NEW_TIMES]
    frames = [t.term.name for t in terms if compares_frames(t)]
    if moving and frames:
        raise UserError(
            f"criterion {frames[0]} compares frames, but {moving[0]} of the student's data_aug_effects moves "
            f"them in time: leave out {', '.join(NEW_TIMES)}, or make copies of the data "
            "(speed_perturb_factors)"
        )


def check_alike(sources: Sequence[Source]) -> None:
    """Check that models that get the same speech prepare it in the same way.

    Raises:
        UserError: two do not; names the option.
    """
    known = [preparation(source.speech()[1]) for source in sources]
    for source, other in zip(sources[1:], known[1:], strict=True):
        for key in PREPARATION:
            if other[key] != known[0][key]:
                raise UserError(
                    f"{sources[0]} has {key}: {known[0][key]}, {source} {other[key]}, but "
                    "both get the same speech: choose models that prepare it alike"
                )


def _names(effects: Any) -> Iterator[str]:
    """Yield the names in ESPnet's nested lists of effects."""
    if isinstance(effects, str):
        yield effects
    elif isinstance(effects, list | tuple):
        for item in effects:
            yield from _names(item)
