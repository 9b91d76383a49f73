"""A trained model that turns speech into text, however it is stored: what ``measure`` and ``transcribe`` use.

To add a kind, write a subclass of ``Recogniser`` and a row of ``KINDS``.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError

Samples = NDArray[np.float32]  # (N,), full scale 1

# Kinds of directories: the file that tells one -> its class. The first that fits counts.
KINDS: dict[str, str] = {
    "config.yaml": "espnet_kd.measure.experiment:ExperimentRecogniser",
    "export.json": "espnet_kd.measure.exported:ExportedRecogniser",
}


@dataclass(frozen=True)
class DecodingOptions:
    """How a model is decoded. What a kind of model has no use for, it leaves out.

    Attributes:
        stream: decode chunk by chunk, if the model can.
        checkpoint: file in the directory; None for its averaged model.
        inference_config: YAML with options of ESPnet's inference.
        inference_args: options that override it, as words of a command line.
        threads: of a decoding.
    """

    stream: bool = False
    checkpoint: str | None = None
    inference_config: Path | None = None
    inference_args: str = ""
    threads: int = 1


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of decoding one utterance, in products of matrices and convolutions.

    Attributes:
        total: encoder and search.
        encoder: its share; None if it is not known.
    """

    total: int
    encoder: int | None


class Stream(Protocol):
    """One utterance that arrives in chunks."""

    def accept(self, samples: Samples, last: bool) -> str:
        """Take the next samples and return the text so far, of which later calls may change the end.

        Args:
            samples: as many as the recogniser's ``chunk``; fewer or none if they are the last.
            last: the utterance ends with them.
        """


def chunks(speech: Samples, size: int) -> Iterator[tuple[Samples, bool]]:
    """Yield the chunks of an utterance, and whether each is the last, as ``Stream.accept`` takes them.

    The last has what is left over, perhaps nothing: who sends a live stream learns its end only then.
    """
    end = len(speech) - len(speech) % size
    for start in range(0, end, size):
        yield speech[start : start + size], False
    yield speech[end:], True


class Recogniser(ABC):
    """A trained model, ready to decode.

    Attributes:
        directory: what it was loaded from.
        rate: sampling rate of its speech in hertz.
        chunk: samples that ``Stream.accept`` takes at a time; 0 if the model decodes whole utterances.
        whole: why it does so, in words that follow "it"; empty if it streams, or was not asked to.
        decoding: how it decodes, if its directory says so and the options do not; else empty.
    """

    directory: Path
    rate: int
    chunk: int = 0
    whole: str = ""
    decoding: str = ""
    runtime: ClassVar[tuple[str, ...]] = ()  # distributions that compute, whose versions are to be named

    @classmethod
    @abstractmethod
    def load(cls, directory: Path, options: DecodingOptions) -> "Recogniser":
        """Load a model.

        Raises:
            UserError: a file is missing or damaged, or an option does not fit.
        """

    @abstractmethod
    def decode(self, speech: Samples) -> str:
        """Return the text of one utterance; empty if it is too short for the model.

        A model that streams decodes it chunk by chunk, as ``stream`` does.
        """

    def stream(self) -> Stream:
        """Begin an utterance. Only one at a time: what an earlier one had left is forgotten."""
        raise NotImplementedError(f"{type(self).__name__} has chunk 0: call decode")

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """What must be on a disk to decode: model, configuration, tokens."""

    @property
    @abstractmethod
    def parameters(self) -> int | None:
        """Number of parameters, without buffers; None if it is not known."""

    def operations(self, speech: Samples) -> Operations | None:
        """Count the multiply-adds of decoding one utterance; None if they cannot be counted."""
        return None


def find_kind(directory: Path) -> str:
    """Return which of ``KINDS`` a directory is, without importing what loads it.

    Raises:
        UserError: it is not a directory of a trained model.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: give that of a trained experiment")
    for name in KINDS:
        if (directory / name).is_file():
            return name
    names = " or ".join(KINDS)
    raise UserError(f"{directory} has no {names}: give the directory of a trained experiment")


def load_recogniser(directory: Path, options: DecodingOptions) -> Recogniser:
    """Load a trained model.

    Raises:
        UserError: see ``find_kind`` and ``Recogniser.load``.
    """
    module, _, name = KINDS[find_kind(directory)].partition(":")
    kind: type[Recogniser] = getattr(importlib.import_module(module), name)
    return kind.load(directory, options)


def read_utterance(wav: str, utt: str, model: Recogniser) -> Samples:
    """Read an utterance.

    Raises:
        UserError: it cannot be read, or has another sampling rate than the model expects.
    """
    from espnet_kd.data.audio import read_speech

    speech, rate = read_speech(wav, utt)
    if rate != model.rate:
        raise UserError(
            f"{wav} of {utt} has {rate} Hz, {model.directory} expects {model.rate}: format the data at that "
            "rate"
        )
    return speech
