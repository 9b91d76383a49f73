"""Which nodes of a batch of lattices are real, and in which blocks they are visited."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_kd.rnnt.joint import Joint

# Nodes times classes of a block: on a CPU it should stay in the cache, on a GPU fill the device. With fewer
# nodes, products of matrices lose speed.
CPU_BLOCK, GPU_BLOCK = 2**19, 2**26
FEWEST_NODES = 512


@dataclass(frozen=True)
class Block:
    """Some frames of one utterance with all their rows: a rectangle of real nodes.

    Attributes:
        utterance: its place in the batch.
        start, stop: frames.
        rows: number of labels + 1.
        blank: index of the blank.
        columns: (nodes,) label that leaves each node, the blank in the last row, which has none.
    """

    utterance: int
    start: int
    stop: int
    rows: int
    blank: int
    columns: Tensor

    @property
    def nodes(self) -> int:
        """How many, frame by frame."""
        return (self.stop - self.start) * self.rows

    def inputs(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """The parts of enc and dec, (F, J) and (R, J)."""
        return joint.enc[self.utterance, self.start : self.stop], joint.dec[self.utterance, : self.rows]

    def at(self, values: Tensor) -> Tensor:
        """The nodes' part of (B, T, U, ...) values, as a view (frames, rows, ...)."""
        return values[self.utterance, self.start : self.stop, : self.rows]


@dataclass(frozen=True)
class Lattice:
    """The real nodes of a batch: frames below enc_lens, rows up to label_lens.

    Attributes:
        labels: (B, L) int64 on the device of the model; padding holds the blank.
        frames: number of frames by utterance.
        rows: number of labels + 1 by utterance.
        shape: (B, T, U) of the padded batch.
        blank: index of the blank.
    """

    labels: Tensor
    frames: tuple[int, ...]
    rows: tuple[int, ...]
    shape: tuple[int, int, int]
    blank: int

    def real(self, delay: int = 0) -> Tensor:
        """(B, T, U) bool: real nodes of frame `delay` and later."""
        _, t, u = (torch.arange(size, device=self.labels.device) for size in self.shape)
        frames, rows = (torch.tensor(n, device=self.labels.device)[:, None] for n in (self.frames, self.rows))
        return ((t < frames) & (t >= delay))[:, :, None] & (u < rows)[:, None]

    def blocks(self, chunk: int) -> Iterator[Block]:
        """Cut every utterance into blocks of about `chunk` nodes, of one frame at least."""
        for utterance, (frames, rows) in enumerate(zip(self.frames, self.rows, strict=True)):
            of_row = torch.nn.functional.pad(self.labels[utterance, : rows - 1], (0, 1), value=self.blank)
            if not frames:
                continue
            number = -(-frames // max(1, chunk // rows))
            size = -(-frames // number)
            columns = of_row.repeat(size)
            for start in range(0, frames, size):
                stop = min(start + size, frames)
                yield Block(utterance, start, stop, rows, self.blank, columns[: (stop - start) * rows])

    def cropped(self, delay: int) -> "Lattice":
        """The lattice without `delay` of its frames; an utterance keeps one frame at least."""
        batch, frames, rows = self.shape
        fewer = tuple(max(1, n - delay) for n in self.frames)
        return Lattice(self.labels, fewer, self.rows, (batch, max(1, frames - delay), rows), self.blank)

    def utterance(self, number: int) -> "Lattice":
        """One utterance as a batch of its own."""
        labels, frames, rows = self.labels[number : number + 1], self.frames[number], self.rows[number]
        return Lattice(labels, (frames,), (rows,), (1, *self.shape[1:]), self.blank)


def default_chunk(joint: Joint) -> int:
    """Nodes of a block, from V or J, whichever is larger."""
    block = CPU_BLOCK if joint.enc.device.type == "cpu" else GPU_BLOCK
    return max(FEWEST_NODES, block // max(joint.weight.shape))


def lattice_of(joint: Joint, labels: Tensor, enc_lens: Tensor, label_lens: Tensor, blank: int) -> Lattice:
    """Check labels and lengths against the student's joint network.

    Args:
        joint: of B utterances, T frames, U rows and V classes.
        labels: (B, L) integers; what lies beyond an utterance's length is ignored.
        enc_lens: (B,) integers, frames.
        label_lens: (B,) integers, labels.
        blank: index of the blank, 0 <= blank < V.

    Raises:
        ValueError: a length is beyond its tensor, a label is the blank or outside the vocabulary.
    """
    batch, frames, rows = joint.shape
    if not batch:
        raise ValueError("the batch has no utterance")
    if not 0 <= blank < joint.classes:
        raise ValueError(f"blank is {blank}, but the vocabulary has {joint.classes} classes (0 to V - 1)")
    if joint.classes < 2:
        raise ValueError(f"a vocabulary of {joint.classes} class has no label beside the blank")
    if labels.dim() != 2 or len(labels) != batch:
        raise ValueError(f"labels {tuple(labels.shape)} are not (B, L) of the {batch} utterances in enc")
    limits = {
        "enc_lens": (enc_lens, 1, frames, "frames of enc"),
        "label_lens": (label_lens, 0, min(rows - 1, labels.shape[1]), "labels and dec's rows - 1"),
    }
    lengths = []
    for name, (given, least, most, what) in limits.items():
        if tuple(given.shape) != (batch,):
            raise ValueError(
                f"{name} has the shape {tuple(given.shape)}, for {batch} utterances: give ({batch},)"
            )
        lengths.append([int(n) for n in given.tolist()])
        for number, n in enumerate(lengths[-1]):
            if not least <= n <= most:
                raise ValueError(f"{name}[{number}] is {n}: from {least} to {most} fit the {what}")
    real = torch.arange(labels.shape[1], device=labels.device) < label_lens.to(labels.device)[:, None]
    wrong = real & ((labels < 0) | (labels >= joint.classes) | (labels == blank))
    if wrong.any():
        utterance, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"label {place} of utterance {utterance} is {int(labels[utterance, place])}: labels are 0 to "
            f"{joint.classes - 1} without the blank, {blank}; check the token list"
        )
    kept = labels.long().masked_fill(~real, blank).to(joint.enc.device)
    return Lattice(kept, tuple(lengths[0]), tuple(n + 1 for n in lengths[1]), joint.shape, blank)
