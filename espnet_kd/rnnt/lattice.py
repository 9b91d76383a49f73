"""Describe which nodes of a batch of lattices are real, and cut them into blocks that fit in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_kd.rnnt.device import to_device
from espnet_kd.rnnt.joint import Joint

# Nodes times classes of a block: small enough for the cache of a CPU, large enough to keep a GPU busy.
CPU_BLOCK, GPU_BLOCK = 2**19, 2**26
FEWEST_NODES = 512  # with fewer, products of matrices are slow
MOST_PADDING = 1.2  # nodes of a block of several utterances, relative to the real ones


@dataclass(frozen=True)
class LatticeBlock:
    """Some frames of one utterance with all their rows, or several whole utterances with their padding.

    Attributes:
        utterances: places in the batch.
        start, stop: first frame, and the frame after the last.
        rows: number of labels + 1, of the utterance that has most.
        blank: index of the blank.
        columns: (N,) next label of each node, by utterance and frame; the blank in the last row, which has
            none, and in the padding.
    """

    utterances: slice
    start: int
    stop: int
    rows: int
    blank: int
    columns: Tensor

    @property
    def nodes(self) -> int:
        """Return the number of nodes, with padding."""
        return len(self.columns)

    def inputs(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """Return the block's part of enc and dec, (b, F, J) and (b, R, J)."""
        return joint.enc[self.utterances, self.start : self.stop], joint.dec[self.utterances, : self.rows]

    def at(self, values: Tensor) -> Tensor:
        """Return the block's part of (B, T, U, ...) values, as a view (b, F, R, ...)."""
        return values[self.utterances, self.start : self.stop, : self.rows]


@dataclass(frozen=True)
class Lattice:
    """The real nodes of a batch: frames below enc_lens, rows up to label_lens.

    Attributes:
        labels: (B, L) int64 on the device of the model; padding holds the blank.
        frames: number of frames of each utterance.
        rows: number of labels + 1 of each utterance.
        shape: (B, T, U) of the padded batch.
        blank: index of the blank.
    """

    labels: Tensor
    frames: tuple[int, ...]
    rows: tuple[int, ...]
    shape: tuple[int, int, int]
    blank: int

    def real(self, delay: int = 0) -> Tensor:
        """Return (B, T, U) bool, True at real nodes from frame `delay` on."""
        _, t, u = (torch.arange(size, device=self.labels.device) for size in self.shape)
        frames, rows = to_device([self.frames, self.rows], self.labels.device)[:, :, None]
        real: Tensor = ((t < frames) & (t >= delay))[:, :, None] & (u < rows)[:, None]
        return real

    def blocks(self, chunk: int) -> Iterator[LatticeBlock]:
        """Cut the batch into blocks of about `chunk` nodes, at least one frame each."""
        for first, last in self._groups(chunk):
            frames, rows = max(self.frames[first:last]), max(self.rows[first:last])
            of_row = torch.nn.functional.pad(self.labels[first:last, : rows - 1], (0, 1), value=self.blank)
            number = -(-frames // max(1, chunk // rows)) if last - first == 1 else 1
            size = max(1, -(-frames // max(1, number)))
            columns = of_row[:, None].expand(-1, size, -1).reshape(-1)
            for start in range(0, frames, size):
                stop = min(start + size, frames)
                part = columns[: (last - first) * (stop - start) * rows]
                yield LatticeBlock(slice(first, last), start, stop, rows, self.blank, part)

    def _groups(self, chunk: int) -> list[tuple[int, int]]:
        """Return first place, and the place after the last, of utterances that can share a block.

        Together they have `chunk` nodes at most, of which few are padding.
        """
        groups: list[tuple[int, int]] = []
        for place in range(len(self.frames)):
            if groups:
                first = groups[-1][0]
                frames, rows = self.frames[first : place + 1], self.rows[first : place + 1]
                padded = len(frames) * max(frames) * max(rows)
                real = sum(t * u for t, u in zip(frames, rows, strict=True))
                if padded <= min(chunk, MOST_PADDING * real):
                    groups[-1] = (first, place + 1)
                    continue
            groups.append((place, place + 1))
        return groups

    def has_padding(self, chunk: int) -> bool:
        """Return whether blocks of `chunk` nodes contain padding."""
        sizes = list(zip(self.frames, self.rows, strict=True))
        return any(len(set(sizes[first:last])) > 1 for first, last in self._groups(chunk))

    def without_padding(self, joint: Joint, chunk: int) -> Joint:
        """Return a joint network with zeros in the padding, which may hold anything, if blocks contain it."""
        if not self.has_padding(chunk):
            return joint
        padding = ~self.real()
        enc = joint.enc[:, : self.shape[1]].masked_fill(padding[:, :, :1], 0.0)
        dec = joint.dec.masked_fill(padding[:, 0, :, None], 0.0)
        return joint.with_tensors(enc, dec, joint.weight, joint.bias)

    def cropped(self, delay: int) -> "Lattice":
        """Return the lattice with `delay` frames fewer; every utterance keeps at least one frame."""
        batch, frames, rows = self.shape
        fewer = tuple(max(1, n - delay) for n in self.frames)
        return Lattice(self.labels, fewer, self.rows, (batch, max(1, frames - delay), rows), self.blank)

    def utterance(self, number: int) -> "Lattice":
        """Return the lattice of one utterance, as a batch of one."""
        labels, frames, rows = self.labels[number : number + 1], self.frames[number], self.rows[number]
        return Lattice(labels, (frames,), (rows,), (1, *self.shape[1:]), self.blank)


def default_chunk(joint: Joint) -> int:
    """Choose the number of nodes of a block from the device and the larger of V and J."""
    block = CPU_BLOCK if joint.enc.device.type == "cpu" else GPU_BLOCK
    return max(FEWEST_NODES, block // max(joint.weight.shape))


def lattice_of(joint: Joint, labels: Tensor, enc_lens: Tensor, label_lens: Tensor, blank: int) -> Lattice:
    """Check labels and lengths against a joint network, and make the lattice.

    Args:
        joint: a model's tensors for B utterances, T frames, U rows and V classes.
        labels: (B, L) integers; padding is ignored.
        enc_lens: (B,) integers, number of frames of each utterance; on the host, or the host waits for them.
        label_lens: (B,) integers, number of labels of each utterance; likewise.
        blank: index of the blank, 0 <= blank < V.

    Raises:
        ValueError: a length exceeds the size of its tensor, or a label on the host is the blank or not in the
            vocabulary.
    """
    batch, frames, rows = joint.shape
    if not batch:
        raise ValueError("the batch has no utterance: leave empty batches out")
    if not 0 <= blank < joint.classes:
        raise ValueError(
            f"blank is {blank}, but the vocabulary has {joint.classes} classes: give an index from 0 to "
            f"{joint.classes - 1}"
        )
    if joint.classes < 2:
        raise ValueError("the vocabulary has the blank only: give the output layer at least 2 classes")
    if labels.dim() != 2 or len(labels) != batch:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}: give (B, L), with B = {batch} utterances as in enc"
        )
    limits = {
        "enc_lens": (enc_lens, 1, frames, "frames of enc"),
        "label_lens": (label_lens, 0, min(rows - 1, labels.shape[1]), "labels and dec's rows - 1"),
    }
    lengths = []
    for name, (given, least, most, what) in limits.items():
        if tuple(given.shape) != (batch,):
            raise ValueError(
                f"{name} has the shape {tuple(given.shape)}: give ({batch},), one length per utterance"
            )
        lengths.append([int(n) for n in given.tolist()])
        for number, n in enumerate(lengths[-1]):
            if not least <= n <= most:
                raise ValueError(f"{name}[{number}] is {n}: give {least} to {most}, to fit the {what}")
    counts = to_device(lengths[1], labels.device)
    real = torch.arange(labels.shape[1], device=labels.device) < counts[:, None]
    if labels.device.type == "cpu":  # on a GPU the host would have to wait for the answer
        _check_labels(labels, real, joint.classes, blank)
    kept = labels.long().masked_fill(~real, blank).to(joint.enc.device)
    return Lattice(kept, tuple(lengths[0]), tuple(n + 1 for n in lengths[1]), joint.shape, blank)


def _check_labels(labels: Tensor, real: Tensor, classes: int, blank: int) -> None:
    """Check (B, L) labels where ``real`` is True.

    Raises:
        ValueError: one is the blank or not in the vocabulary.
    """
    wrong = real & ((labels < 0) | (labels >= classes) | (labels == blank))
    if wrong.any():
        utterance, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"label {place} of utterance {utterance} is {int(labels[utterance, place])}, but labels are 0 to "
            f"{classes - 1} without the blank, {blank}: check the token list"
        )
