"""Compute sums and maxima over all alignments of a lattice, in float64, one anti-diagonal t + u = k at once.

An alignment is a way through the lattice. A blank arc leads from node (t, u) to (t + 1, u), a label arc to
(t, u + 1); the blank arc of the last real node ends the alignment.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_kd.rnnt.device import to_device
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
    before, after = _both_ways(blank, label, lattice)
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
    last = to_device(lattice.rows, real.device)[:, None, None] - 1
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
    real = steps < to_device(lengths, u.device)[:, None]
    return Alignment(torch.where(real, steps - u, 0), torch.where(real, u, 0), lengths)


def _both_ways(blank: Tensor, label: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Sum over the ways to each node, without its own arcs, and from it: (K, B, U) and (K + 1, B, U) log.

    One loop serves both: step s goes to diagonal s + 1, and to diagonal K - 1 - s from the one above it, so
    that a GPU has half as many small operations to start.
    """
    steps, batch, rows = blank.shape
    ends, last = _ends(lattice, blank.device)
    arcs = blank.new_empty(steps, 2, 2, batch, rows)  # from row u - 1, from row u; forward, backward
    arcs[:, 0, 0] = torch.nn.functional.pad(label[:, :, :-1], (1, 0), value=-math.inf)
    arcs[:, 1, 0] = blank
    torch.stack([label.flip(0, 2), blank.flip(0, 2)], 1, out=arcs[:, :, 1])
    ways = blank.new_full((steps + 1, 2, batch, rows + 1), -math.inf)  # a column more: no way from there
    ways[0, 0, :, 1] = 0.0
    _enter_at_ends(arcs[:, :, 1], ways[:, 1], ends, last)
    _sum_up(arcs, ways)
    utterance = torch.arange(batch, device=blank.device)
    ways[steps - ends, 1, utterance, rows - last] = 0.0  # where the last blank leads
    return ways[:-1, 0, :, 1:], ways[:, 1, :, 1:].flip(0, 2)


def _backward(blank: Tensor, label: Tensor, lattice: Lattice, plus: Plus) -> Tensor:
    """Take the sum or maximum (`plus`) over the ways from each node to the end: (K + 1, B, U) log."""
    steps, batch, rows = blank.shape
    ends, last = _ends(lattice, blank.device)
    arcs = torch.stack([label.flip(0, 2), blank.flip(0, 2)], 1)
    ways = blank.new_full((steps + 1, 1, batch, rows + 1), -math.inf)
    _enter_at_ends(arcs, ways[:, 0], ends, last)
    _sum_up(arcs[:, :, None], ways, plus)
    utterance = torch.arange(batch, device=blank.device)
    ways[steps - ends, 0, utterance, rows - last] = 0.0
    return ways[:, 0, :, 1:].flip(0, 2)


def _ends(lattice: Lattice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the diagonal that the last blank of each utterance leads to, and its last row, (B,) each."""
    frames, rows = to_device([lattice.frames, lattice.rows], device)
    return frames + rows - 1, rows - 1


def _enter_at_ends(arcs: Tensor, ways: Tensor, ends: Tensor, last: Tensor) -> None:
    """Let backward ways begin with the last blank of each utterance, in place.

    Rows are in reverse order: U - 1 - u stands for row u. The row above an utterance's last one holds 0 on
    all diagonals, and the last blank becomes the arc from there; no other arc leads to or from that row.

    Args:
        arcs: (K, 2, B, U) log-probabilities of the arc to the next row, and to the same row.
        ways: (K + 1, B, U + 1), -inf.
        ends, last: (B,), see ``_ends``.
    """
    steps, _, batch, rows = arcs.shape
    utterance, above = torch.arange(batch, device=arcs.device), rows - 1 - last  # place of that row in ways
    ways[0, utterance, above] = 0.0
    ways[:, :, 0] = ways[0, :, 0]  # of an utterance with U rows it is the column outside
    held = torch.arange(1, rows + 1, device=arcs.device) == above[:, None]
    arcs[:, 1].masked_fill_(held, 0.0)
    final = (steps - ends, utterance, above)
    arcs[:, 0][final] = arcs[:, 1][final]
    arcs[:, 1][final] = -math.inf


def _sum_up(arcs: Tensor, ways: Tensor, plus: Plus = torch.logaddexp) -> None:
    """Take the sum or maximum (`plus`) over the ways that lead to each node, in place, step by step.

    Args:
        arcs: (K, 2, G, B, U) log-probabilities of the arcs from row u - 1 and from row u.
        ways: (K + 1, G, B, U + 1); the first step is given, row u is at place u + 1.
    """
    shape, strides = arcs.shape[2:], ways.stride()
    # Element (0, u) of a step is the way to row u - 1, element (1, u) that to row u.
    pairs = ways.as_strided((len(ways), 2, *shape), (strides[0], strides[3], *strides[1:]))
    arriving = torch.empty_like(arcs[0])
    below, same = arriving.unbind()
    targets = ways[1:, :, :, 1:].unbind()
    for origin, arc, target in zip(pairs[:-1].unbind(), arcs.unbind(), targets, strict=True):
        torch.add(origin, arc, out=arriving)
        plus(below, same, out=target)


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
