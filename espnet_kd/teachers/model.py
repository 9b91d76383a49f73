"""The interface of a teacher model: what every kind of teacher can do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.teachers.taps import Targets

# (B, samples) waveforms, (B,) samples, (B, L) tokens padded with -1, (B,) tokens -> by tap, the values.
Observer = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Targets]]


class SpeechError(ValueError):
    """A model cannot take an utterance of a batch.

    Args:
        place: of the utterance in the batch.
        reason: begins with a verb, such as "has 40 s, ...".
    """

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(reason)
        self.place = place


class TeacherModel(ABC):
    """A trained model, frozen and in eval mode, that gives targets for speech.

    A kind of teacher is a subclass and a row of ``teachers.kinds.TEACHERS``, or a plug-in of another package:
    `entry_points={"espnet_kd.teachers": ["my_kind = package:MyTeacher"]}`. The name of the kind is the key in
    a configuration: `teacher: {my_kind: PLACE}`.

    Attributes:
        keys: other keys of ``teacher`` that the kind takes; they are arguments of the class methods.
        directory: where it was loaded from.
        checkpoint: the file of its weights.
        model: its module.
        rate: sampling rate that it expects, in hertz; None if it is not known.
        features: features per frame, of a model whose input is features; None if it is waveforms.
        window: samples that it takes at most; None for any number.
        padded: number of samples that all speech is padded to; or None.
        blank: number of the CTC blank in its tokens.
    """

    keys: ClassVar[tuple[str, ...]] = ()
    directory: Path
    checkpoint: Path
    model: nn.Module
    rate: int | None
    features: int | None = None
    window: int | None = None
    padded: int | None = None
    blank: int = 0

    @property
    def owner(self) -> str:
        """Return its name in messages."""
        return f"teacher {self.directory}"

    @property
    @abstractmethod
    def tokens(self) -> list[str] | None:
        """Return the classes of its logits, in ESPnet's names of special tokens; None if it has no logits."""

    @abstractmethod
    def observer(self, taps: Sequence[str]) -> Observer:
        """Return a function that runs the model on a batch and gives the values of some layers.

        Args:
            taps: module paths of layers.

        Raises:
            UserError: there is no such layer, now; or it gives no frames, when the function is called.
            SpeechError: the function cannot take an utterance.
        """

    @abstractmethod
    def layers(self, seconds: int) -> dict[str, tuple[int, int]]:
        """Return what may be asked for: path -> (positions, size) for noise of this duration.

        Positions are frames, or steps of a decoder that reads two tokens.
        """

    def transcribe(self, speech: Tensor, lengths: Tensor) -> list[tuple[str, int, float]]:
        """Transcribe (B, samples) with (B,) samples; return text, number of tokens, and log-probability.

        Raises:
            UserError: the model gives no text.
        """
        raise UserError(f"{self.owner} gives no text: only models for CTC or with a decoder can be decoded")

    @classmethod
    @abstractmethod
    def load(cls, place: str, **options: Any) -> "TeacherModel":
        """Load the model.

        Args:
            place: what the configuration names: a directory, or the name of a published model.
            options: those of ``keys`` that the configuration has.

        Raises:
            UserError: it cannot be loaded.
        """

    @classmethod
    def locate(cls, place: str, **options: Any) -> Path:
        """Return its directory on this machine; a published model is downloaded if need be."""
        return Path(place)

    @classmethod
    @abstractmethod
    def fingerprint(cls, place: str, **options: Any) -> dict[str, str]:
        """Return checksums, `config` and `checkpoint`, of its files, without loading it."""

    @classmethod
    @abstractmethod
    def speech(cls, place: str, **options: Any) -> tuple[int | None, Mapping[str, Any]]:
        """Return the sampling rate that it expects, and the ESPnet options that prepare its speech."""
