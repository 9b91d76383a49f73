"""Emission delay: how much later than its teacher a trained student emits labels; for ``delay: auto``.

It is that of the lattices of two transducers, or of the CTC layers, where one of the models has no lattice.
"""

import argparse
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from espnet_kd.criteria.sequence import ctc_emission_frames
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.dump import spread_over
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.host.models import ctc_layer, encode, has_lattice, in_chunks, own_chunks
from espnet_kd.host.training import preprocessing, read_utterances
from espnet_kd.rnnt import emission_frames
from espnet_kd.teachers.experiment import Experiment, load_experiment, read_config
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.options import TermOptions, on_lattice
from espnet_kd.teachers.short import TOO_SHORT, check_frames_left
from espnet_kd.teachers.speech import check_alike
from espnet_kd.teachers.taps import check_lattice, lattice

Speech = tuple[NDArray[np.floating[Any]], NDArray[np.integer[Any]]]  # samples (N,), tokens (L,)


@dataclass
class Delays:
    """Emission delays of labels, student minus teacher, in encoder frames.

    Attributes:
        frames: delay to number of labels.
        utterances: how many were aligned.
    """

    frames: Counter[int] = field(default_factory=Counter)
    utterances: int = 0

    @property
    def values(self) -> NDArray[np.integer[Any]]:
        """All delays, sorted."""
        return np.array(sorted(self.frames.elements()), dtype=int)

    @property
    def choice(self) -> int:
        """The ``delay`` of a criterion: the median, or 0 where the student is earlier than the teacher."""
        return max(0, round(float(np.median(self.values)))) if self.frames else 0

    def histogram(self, width: int = 40) -> list[str]:
        """Draw a line for each delay, with a bar."""
        most = max(self.frames.values(), default=1)
        return [
            f"{delay:+4d} frames: {count:6d} {'#' * -(-width * count // most)}"
            for delay, count in sorted(self.frames.items())
        ]


def measure(
    student: nn.Module, teacher: nn.Module, speech: Iterable[Speech], chunks: tuple[int, int] | None = None
) -> Delays:
    """Align both models with the same texts and compare when they emit each label.

    Args:
        student, teacher: models of ESPnet in eval mode, of one token list and frame rate: both transducers,
            or both with a CTC layer.
        speech: utterances.
        chunks: frames that the student's encoder sees at a time, and how many such chunks before it; 0 stands
            for all. None: it sees all at once.

    Raises:
        UserError: they have neither in common, or one gives NaN.
    """
    delays, aligned = Delays(), emissions if by_lattice(student, teacher) else ctc_emissions
    for samples, tokens in speech:
        if not len(tokens):
            continue
        try:
            with in_chunks(student, chunks):
                late = aligned(student, samples, tokens)
            early = aligned(teacher, samples, tokens)
        except TOO_SHORT:  # no frame in which a label could be
            continue
        except ValueError as e:
            raise UserError(f"delay: {e}") from None
        if not late or not early:
            continue
        delays.frames.update(s - t for s, t in zip(late, early, strict=True))
        delays.utterances += 1
    return delays


def by_lattice(student: nn.Module, teacher: nn.Module) -> bool:
    """Return whether two models are compared by their lattices, not by their CTC layers.

    Raises:
        UserError: one has neither what the other has.
    """
    both = (("the student", student), ("the teacher", teacher))
    if all(ctc_layer(model) is not None for _, model in both) and not all(has_lattice(m) for _, m in both):
        return False
    for name, model in both:
        check_lattice(model, name)
    return True


@torch.no_grad()
def ctc_emissions(model: nn.Module, samples: NDArray[Any], tokens: NDArray[Any]) -> list[int]:
    """Return the encoder frame at which CTC emits every token of one utterance; empty if they do not fit."""
    device = next(model.parameters()).device
    speech = torch.as_tensor(samples, dtype=torch.float32, device=device)[None]
    encoded, lengths = encode(model, speech, torch.tensor([speech.shape[1]], device=device))
    check_frames_left(lengths, "the model")
    layer = ctc_layer(model)
    assert layer is not None
    return ctc_emission_frames(layer(encoded)[0], [int(token) for token in tokens])


@torch.no_grad()
def emissions(model: nn.Module, samples: NDArray[Any], tokens: NDArray[Any]) -> list[int]:
    """Return the encoder frame at which a transducer emits every token of one utterance."""
    device = next(model.parameters()).device
    speech = torch.as_tensor(samples, dtype=torch.float32, device=device)[None]
    text = torch.as_tensor(tokens, dtype=torch.long, device=device)[None]
    encoded, lengths = encode(model, speech, torch.tensor([speech.shape[1]], device=device))
    check_frames_left(lengths, "the model")
    joint = lattice(model, encoded, text)
    return emission_frames(joint, text, lengths, torch.tensor([text.shape[1]]))[0]


UTTERANCES = 50
DEFAULT_HOP = 128  # samples, of ESPnet's default front end
Paths = Sequence[tuple[str, str, str]]  # of ESPnet's data: file, name, type


def set_delays(args: argparse.Namespace, terms: Sequence[TermOptions], teacher: TeacherModel | None) -> None:
    """Replace ``delay: auto`` by a number of frames, and log the measured delays.

    Args:
        teacher: None if targets come from a store.

    Raises:
        UserError: there is no teacher or no trained student to measure, or one is no transducer.
    """
    for term in terms:
        if not (on_lattice(term.kind) and term.options.get("delay") == "auto"):
            continue
        refuse_stored(term, stored=teacher is None)
        if not isinstance(teacher, Experiment):
            owner = "the teacher" if teacher is None else teacher.owner
            raise UserError(f"criteria: {term.term.name}: {owner} is no transducer of ESPnet: give a number")
        if not args.delay_student:  # kd.sh gives it where it trains the student alone before
            raise UserError(
                f"criteria: {term.term.name}: delay: auto measures a trained student: train it without "
                "criteria first and give its directory as --delay_student, or give a number of frames"
            )
        name = teacher.checkpoint.name
        same = (Path(args.delay_student) / name).is_file()  # or else another epoch counts as its best
        student = load_experiment(args.delay_student, name if same else None)
        streams = trained_on_chunks(read_config(student.directory))
        chunks = own_chunks(student.model) if streams else None
        delays = compare(student, teacher, args.valid_data_path_and_name_and_type, UTTERANCES, chunks)
        term.options["delay"] = delays.choice
        for line in delays.histogram():
            logging.info(f"delay of {student.directory} after {teacher.directory}: {line}")
        logging.info(
            f"criteria: {term.term.name}: delay: {delays.choice} frames, the median of "
            f"{sum(delays.frames.values())} labels in {delays.utterances} utterances"
        )


def refuse_stored(term: TermOptions, stored: bool) -> None:
    """Refuse ``delay: auto`` where targets come from a store, so that there is no teacher to measure.

    Raises:
        UserError: they do.
    """
    if stored and on_lattice(term.kind) and term.options.get("delay") == "auto":
        raise UserError(
            f"criteria: {term.term.name}: delay: auto compares student and teacher, but targets come "
            "from a store: give a number of frames"
        )


def trained_on_chunks(config: Mapping[str, Any]) -> bool:
    """Return True for the configuration of a streaming transducer."""
    main = (config.get("encoder_conf") or {}).get("main_conf") or {}
    return bool(main.get("dynamic_chunk_training"))


def compare(
    student: Experiment, teacher: Experiment, data: Paths, count: int, chunks: tuple[int, int] | None
) -> Delays:
    """Measure the delays in some utterances of a data set.

    Args:
        data: as ESPnet's options name it.
        count: of utterances, at most; from all over the data, whose first may all be of one speaker.
        chunks: see ``measure``.

    Raises:
        UserError: see ``measure``; or their tokens, frames or rates differ, or the data have no text.
    """
    configs = [read_config(model.directory) for model in (student, teacher)]
    if student.tokens != teacher.tokens:
        raise UserError(
            f"delay: {student.directory} and {teacher.directory} have different token lists: choose models "
            "of one list"
        )
    models = (student.model, teacher.model)
    frames = [frame_milliseconds(*pair) for pair in zip(configs, models, strict=True)]
    if frames[0] != frames[1]:
        raise UserError(
            f"delay: {student.directory} has frames of {frames[0]:g} ms, "
            f"{teacher.directory} of {frames[1]:g} ms: choose models of one frame rate"
        )
    if None not in (student.rate, teacher.rate) and student.rate != teacher.rate:
        raise UserError(
            f"delay: {student.directory} takes speech at {student.rate} Hz, {teacher.directory} at "
            f"{teacher.rate} Hz, and both would get the same: give models of one rate"
        )
    check_alike([Source("exp", str(model.directory)) for model in (student, teacher)])
    speech = read(configs[0], data, count)
    with torch.random.fork_rng([]):  # encoders draw random numbers even in eval mode
        return measure(student.model, teacher.model, speech, chunks)


def frame_milliseconds(config: dict[str, Any], model: Any = None) -> float:
    """Return the duration of an encoder frame of a model of ESPnet's, or with an encoder of ours.

    Args:
        config: of its experiment.
        model: whose encoder says by ``stride``, if it is one of ours, how many features are in a frame.
    """
    front, encoder = config.get("frontend_conf") or {}, config.get("encoder_conf") or {}
    layer = re.fullmatch(r"conv2d(\d)", encoder.get("input_layer") or "")
    factor = (encoder.get("input_conf") or {}).get("subsampling_factor", int(layer[1]) if layer else 4)
    factor = getattr(getattr(model, "encoder", None), "stride", factor)
    return 1000 * front.get("hop_length", DEFAULT_HOP) * factor / parse_rate(str(front.get("fs", "16k")))


def read(config: dict[str, Any], data: Paths, count: int) -> Iterator[Speech]:
    """Read samples and tokens of so many utterances at most, prepared as for the student's training.

    Raises:
        UserError: speech or text is not among the data.
    """
    paths = {entry[1]: tuple(entry) for entry in data if entry[1] in ("speech", "text")}
    if len(paths) != 2:
        raise UserError("the delay is measured on speech and text: give both as validation data")
    utterances = sorted(read_table(paths["text"][0]))
    utterances = [utterances[i] for i in spread_over(len(utterances), count)]
    for item in read_utterances(list(paths.values()), preprocessing(config), utterances):
        yield item["speech"], item["text"]
