"""Compute sums and maxima over all alignments of a lattice, in float64, one anti-diagonal t + u = k at once.

An alignment is a way through the lattice. A blank arc leads from node (t, u) to (t + 1, u), a label arc to
(t, u + 1); the blank arc of the last real node ends the alignment.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_kd.rnnt.lattice import Lattice

Plus = Callable[..., Tensor]
LEAST = -1e30  # stands for the log-probability of an impossible arc that is the only way; finite


class Arcs(NamedTuple):
    """A number for every arc of a lattice, (B, T, U) each, at the node that the arc leaves.

    Log-probabilities are -inf where there is no arc: in the padding, and for the label of the last row.
    """

    blank: Tensor
    label: Tensor


class Posterior(NamedTuple):
    """The distribution over alignments, given the labels.

    Attributes:
        total: (B,) float64, log of the summed probability of all alignments.
        arcs: probability that the alignment takes an arc, in the dtype of the log-probabilities.
    """

    total: Tensor
    arcs: Arcs

    @property
    def nodes(self) -> Tensor:
        """Return the probability that the alignment passes each node, (B, T, U); it sums to T + L."""
        return self.arcs.blank + self.arcs.label


class Alignment(NamedTuple):
    """One alignment per utterance: the nodes that its arcs leave, in order.

    Attributes:
        frames, rows: (B, P) int64, t and u of each node; padding is 0.
        lengths: number of nodes of each utterance: frames + labels for a whole alignment.
    """

    frames: Tensor
    rows: Tensor
    lengths: tuple[int, ...]


def posterior(arcs: Arcs, lattice: Lattice) -> Posterior:
    """Compute the posterior of every arc from log-probabilities by the forward-backward algorithm.

    An utterance without any possible alignment has the total -inf and posteriors of 0.
    """
    blank, label = (_to_diagonals(scores) for scores in arcs)
    after = _backward(blank, label, lattice, torch.logaddexp)
    before = _forward(blank, label)
    total = after[0, :, 0]  # (B,)
    ended = torch.where(total == -math.inf, math.inf, total)[:, None]
    by_blank = (before + blank + after[1:] - ended).exp()
    by_label = (before + label + _next_row(after[1:]) - ended).exp()
    shape, dtype = lattice.shape, arcs.blank.dtype
    return Posterior(total, Arcs(*(_from_diagonals(x, shape).to(dtype) for x in (by_blank, by_label))))


def log_likelihood(arcs: Arcs, lattice: Lattice) -> Tensor:
    """Compute the log of the summed probability of all alignments, (B,) float64."""
    blank, label = (_to_diagonals(scores) for scores in arcs)
    return _backward(blank, label, lattice, torch.logaddexp)[0, :, 0]


def best_alignment(arcs: Arcs, lattice: Lattice) -> Alignment:
    """Find the most probable alignment of each utterance; of equally probable ones, the one that emits later.

    Arcs of NaN and -inf are taken where there is no other way, so that there is always a result.
    """
    real = lattice.real()
    last = torch.tensor(lattice.rows, device=real.device)[:, None, None] - 1
    leaves = real & (torch.arange(lattice.shape[2], device=real.device) < last)
    blank, label = (
        _to_diagonals(torch.where(there, scores.nan_to_num(nan=LEAST).clamp(min=LEAST), -math.inf))
        for scores, there in zip(arcs, (real, leaves), strict=True)
    )
    after = _backward(blank, label, lattice, torch.maximum)
    takes_label = label + _next_row(after[1:]) > blank + after[1:]  # (K, B, U)
    lengths = tuple(t + u - 1 for t, u in zip(lattice.frames, lattice.rows, strict=True))
    row = torch.zeros(lattice.shape[0], dtype=torch.long, device=blank.device)
    rows = []
    for choice in takes_label[: max(lengths)]:
        rows.append(row)
        row = row + choice.gather(1, row[:, None])[:, 0]
    u = torch.stack(rows, 1)
    steps = torch.arange(u.shape[1], device=u.device)
    real = steps < torch.tensor(lengths, device=u.device)[:, None]
    return Alignment(torch.where(real, steps - u, 0), torch.where(real, u, 0), lengths)


def _forward(blank: Tensor, label: Tensor) -> Tensor:
    """Sum over the ways from the first node to each node, without the node's own arcs: (K, B, U) log."""
    steps, batch, rows = blank.shape
    padded = blank.new_full((steps, batch, 1 + rows), -math.inf)  # no way comes from below the first row
    padded[0, :, 1] = 0.0
    nodes, below = padded[:, :, 1:].unbind(), padded[:, :, :-1].unbind()
    arriving = torch.nn.functional.pad(label[:, :, :-1], (1, 0), value=-math.inf)  # at the row it leads to
    blanks, labels = blank.unbind(), arriving.unbind()
    for k in range(1, steps):
        torch.logaddexp(nodes[k - 1] + blanks[k - 1], below[k - 1] + labels[k - 1], out=nodes[k])
    return padded[:, :, 1:]


def _backward(blank: Tensor, label: Tensor, lattice: Lattice, plus: Plus) -> Tensor:
    """Take the sum or maximum (`plus`) over the ways from each node to the end: (K + 1, B, U) log."""
    steps, batch, rows = blank.shape
    padded = blank.new_full((steps + 1, batch, rows + 1), -math.inf)  # no way leads on above the last row
    for utterance, (t, u) in enumerate(zip(lattice.frames, lattice.rows, strict=True)):
        padded[t + u - 1, utterance, u - 1] = 0.0  # where the last blank leads
    nodes, above = padded[:, :, :-1].unbind(), padded[:, :, 1:].unbind()
    blanks, labels = blank.unbind(), label.unbind()
    for k in range(steps - 1, -1, -1):
        way = plus(nodes[k + 1] + blanks[k], above[k + 1] + labels[k])
        torch.maximum(nodes[k], way, out=nodes[k])  # nothing leaves the end, so one of them is -inf
    return padded[:, :, :-1]


def _next_row(after: Tensor) -> Tensor:
    """Shift (K, B, U) by one row: the result holds at row u what row u + 1 held."""
    return torch.nn.functional.pad(after[:, :, 1:], (0, 1), value=-math.inf)


def _to_diagonals(scores: Tensor) -> Tensor:
    """Arrange by anti-diagonals, (B, T, U) -> (T + U - 1, B, U) float64: t becomes t + u; -inf elsewhere."""
    batch, frames, rows = scores.shape
    skew = scores.new_full((batch, rows, frames + rows), -math.inf, dtype=torch.float64)
    skew[:, :, :frames] = scores.transpose(1, 2)
    # Rows that are one longer than their number of diagonals shift by one from row to row.
    shifted = skew.flatten(1)[:, : rows * (frames + rows - 1)].view(batch, rows, frames + rows - 1)
    return shifted.permute(2, 0, 1).contiguous()


def _from_diagonals(diagonals: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Undo `_to_diagonals`: (K, B, U) -> (B, T, U)."""
    batch, frames, rows = shape
    shifted = diagonals.permute(1, 2, 0).flatten(1)  # (B, U * K)
    skew = torch.nn.functional.pad(shifted, (0, rows)).view(batch, rows, frames + rows)
    return skew[:, :, :frames].transpose(1, 2)
