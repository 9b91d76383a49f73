"""How much later than its teacher a transducer emits: the labels' frames on the most probable alignments."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from espnet2.asr_transducer.utils import make_chunk_mask
from numpy.typing import NDArray
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.models.short import TOO_SHORT, check_frames_left
from espnet_kd.rnnt import emission_frames
from espnet_kd.teachers.lattice import check_lattice, lattice

Speech = tuple[NDArray[np.floating[Any]], NDArray[np.integer[Any]]]  # samples (N,), tokens (L,)


@dataclass
class Delays:
    """Emission delays of labels, student less teacher, in encoder frames.

    Attributes:
        frames: delay to number of labels.
        utterances: how many were aligned.
    """

    frames: Counter[int] = field(default_factory=Counter)
    utterances: int = 0

    @property
    def values(self) -> NDArray[np.integer[Any]]:
        """All of them, sorted."""
        return np.array(sorted(self.frames.elements()), dtype=int)

    @property
    def choice(self) -> int:
        """The ``delay`` of a criterion: the median, 0 for a student that is the earlier."""
        return max(0, round(float(np.median(self.values)))) if self.frames else 0

    def histogram(self, width: int = 40) -> list[str]:
        """A line for each delay, with a bar."""
        most = max(self.frames.values(), default=1)
        return [
            f"{delay:+4d} frames: {count:6d} {'#' * -(-width * count // most)}"
            for delay, count in sorted(self.frames.items())
        ]


def measure(
    student: nn.Module, teacher: nn.Module, speech: Iterable[Speech], chunks: tuple[int, int] | None = None
) -> Delays:
    """Align both models with the same texts and compare.

    Args:
        student, teacher: transducers of ESPnet in eval mode, of one token list and frame rate.
        speech: utterances.
        chunks: frames that the student's encoder sees at a time, and how many such chunks before it; 0 stands
            for all. None: it sees all at once.

    Raises:
        UserError: one is no transducer, or gives NaN.
    """
    delays = Delays()
    for name, model in (("the student", student), ("the teacher", teacher)):
        check_lattice(model, name)
    for samples, tokens in speech:
        if not len(tokens):
            continue
        try:
            with in_chunks(student, chunks):
                late = emissions(student, samples, tokens)
            early = emissions(teacher, samples, tokens)
        except TOO_SHORT:  # no frame in which a label could be
            continue
        except ValueError as e:
            raise UserError(f"delay: {e}") from None
        delays.frames.update(s - t for s, t in zip(late, early, strict=True))
        delays.utterances += 1
    return delays


@torch.no_grad()
def emissions(model: nn.Module, samples: NDArray[Any], tokens: NDArray[Any]) -> list[int]:
    """Frame of every token of one utterance."""
    device = next(model.parameters()).device
    speech = torch.as_tensor(samples, dtype=torch.float32, device=device)[None]
    text = torch.as_tensor(tokens, dtype=torch.long, device=device)[None]
    encoded, lengths = model.encode(speech, torch.tensor([speech.shape[1]], device=device))
    check_frames_left(lengths, "the model")
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    joint = lattice(model, encoded, lengths, text)
    return emission_frames(joint, text, lengths, torch.tensor([text.shape[1]]))[0]


@contextmanager
def in_chunks(model: nn.Module, chunks: tuple[int, int] | None) -> Iterator[None]:
    """Within the block the encoder of a transducer sees chunks, as in streaming; see ``measure``."""
    if chunks is None:
        yield
        return
    size, left = chunks

    def limit(body: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        x = inputs[0]
        mask = make_chunk_mask(x.size(1), size, num_left_chunks=left, device=x.device)
        return inputs, options | {"chunk_mask": mask}

    handle = model.encoder.encoders.register_forward_pre_hook(limit, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
