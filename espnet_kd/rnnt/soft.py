"""KL between teacher and student at the nodes of a block, and its gradient, in the room of the logits.

Notation: p the teacher's probabilities, q the student's, m the weight of a node, T the temperature. The value
is T^2 sum_nodes m KL(p || q); its gradient by the logits is T times m (q - p).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Block
from espnet_kd.rnnt.sweep import Buffers, exponentiate, label_logits, logits


class Soft(Protocol):
    """What a teacher says about the nodes of a lattice."""

    temperature: float

    def compare(self, x: Tensor, block: Block, hard: Arcs | None, scale: float, buffers: Buffers) -> Tensor:
        """Value of a block, a scalar; x turns from softened logits (N, V) into scale times the gradient.

        Args:
            x: the student's logits over T.
            block: its nodes.
            hard: what else the loss gains per unit of the log-probability of blank and label, (N,) each.
            scale: factor of the KL, not of `hard`, in the gradient.
            buffers: room for the teacher's logits.
        """


@dataclass(frozen=True)
class Full(Soft):
    """The teacher's whole distribution.

    Attributes:
        teacher: its joint network.
        weights: (B, T, U) m, 0 in the first `delay` frames.
        delay: the target of frame t is the teacher's of frame t - delay.
        temperature: T > 0.
    """

    teacher: Joint
    weights: Tensor
    delay: int
    temperature: float

    def compare(self, x: Tensor, block: Block, hard: Arcs | None, scale: float, buffers: Buffers) -> Tensor:
        m = block.at(self.weights).flatten()
        k = scale * self.temperature
        teacher = teacher_logits(self.teacher, block, self.delay, self.temperature, buffers)
        target = buffers.like_logits("target", x)
        z, of_teacher = exponentiate(teacher, out=target)
        target.mul_((m / z)[:, None])
        value = torch.dot(target.flatten(), teacher.sub_(x).flatten())
        z, of_student = exponentiate(x)
        value = value + torch.dot(m, of_student - of_teacher)
        of_all = k * m if hard is None else k * m - hard.blank - hard.label
        x.mul_((of_all / z)[:, None]).sub_(target, alpha=k)
        if hard is not None:
            add_columns(x, hard, block)
        return value * self.temperature**2


@dataclass(frozen=True)
class Grouped(Soft):
    """A distribution over some classes and the rest of the vocabulary as one more.

    Attributes:
        weights: (B, T, U) m.
        temperature: T > 0.
        log_probs: (B, T, U, C + 1) log p, the rest last, -inf for 0; or None: `teacher` is asked.
        tokens: (B, T, U, C) int64, all different; or None: the label of the node and the blank, C = 2.
        teacher: its joint network.
        delay: the target of frame t is the teacher's of frame t - delay.
    """

    weights: Tensor
    temperature: float
    log_probs: Tensor | None = None
    tokens: Tensor | None = None
    teacher: Joint | None = None
    delay: int = 0

    def compare(self, x: Tensor, block: Block, hard: Arcs | None, scale: float, buffers: Buffers) -> Tensor:
        m = block.at(self.weights).flatten()
        columns = self._columns(block)
        log_p = self._target(block, columns, buffers)
        z, log_q = group(x, columns, None if self.tokens is not None else block)
        p = log_p.exp()
        if self.tokens is not None and columns.shape[1] == x.shape[1]:
            p[:, -1] = 0.0  # all classes are kept: what the rest has comes from rounding
        kl = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)  # a teacher's NaN stays NaN
        gain = (-scale * self.temperature * m)[:, None] * p  # (N, C + 1) by log_q
        if hard is not None:
            gain[:, 0] += hard.label
            gain[:, 1] += hard.blank
        gain_of_all = gain.sum(-1, keepdim=True)
        columns_gradient = gain - gain_of_all * log_q.exp()
        x.mul_((columns_gradient[:, -1] / z)[:, None])
        if self.tokens is None:  # the last row's label stands for the blank
            last = block.columns == block.blank
            columns_gradient[:, 0] = torch.where(last, columns_gradient[:, 1], columns_gradient[:, 0])
        x.scatter_(1, columns, columns_gradient[:, :-1])
        return torch.dot(m, kl) * self.temperature**2

    def _columns(self, block: Block) -> Tensor:
        """(N, C) classes that stand for themselves."""
        if self.tokens is not None:
            return block.at(self.tokens).flatten(0, 1)
        return label_and_blank(block)

    def _target(self, block: Block, columns: Tensor, buffers: Buffers) -> Tensor:
        """(N, C + 1) log p."""
        if self.log_probs is not None:
            frames = _frames(block, self.delay, self.log_probs)
            return self.log_probs[block.utterance, frames, : block.rows].flatten(0, 1)
        assert self.teacher is not None  # one of the two is given
        teacher = teacher_logits(self.teacher, block, self.delay, self.temperature, buffers)
        return group(teacher, columns, block)[1]


def teacher_logits(teacher: Joint, block: Block, delay: int, temperature: float, buffers: Buffers) -> Tensor:
    """Softened logits of the teacher at a block, (N, V), in the buffer `teacher`."""
    frames = _frames(block, delay, teacher.enc)
    enc, dec = teacher.enc[block.utterance, frames], teacher.dec[block.utterance, : block.rows]
    _, x = logits(teacher, enc, dec, buffers, "teacher")
    return x if temperature == 1.0 else x.div_(temperature)


def label_and_blank(block: Block) -> Tensor:
    """(N, 2) columns of a block's nodes; in the last row, which has no label, the blank twice."""
    return torch.stack([block.columns, torch.full_like(block.columns, block.blank)], -1)


def group(x: Tensor, columns: Tensor, block: Block | None) -> tuple[Tensor, Tensor]:
    """Single out some classes of (N, V) logits.

    Args:
        x: turns in place into exp(x - greatest of the row) over the rest, 0 at the columns.
        columns: (N, C).
        block: given, if the columns are its labels and the blank: its last rows have no label.

    Returns:
        (N,) sum of each row of the result, and (N, C + 1) log-probabilities of the columns and of the rest.
    """
    single = x.gather(1, columns)
    if block is not None:
        single[:, 0] = label_logits(x, block)
    x.scatter_(1, columns, -torch.inf)
    z, rest = exponentiate(x)
    log_probs = torch.cat([single, rest[:, None]], -1).log_softmax(-1)
    return z.clamp_(min=torch.finfo(z.dtype).tiny), log_probs  # without a rest, x is 0 and z a divisor


def add_hard(x: Tensor, z: Tensor, hard: Arcs, block: Block) -> None:
    """Gradient through the log-softmax to the logits; x holds exp(...) of row sums z, (N, V) and (N,).

    Args:
        x: turns into the gradient.
        z: sums of its rows.
        hard: gradient by the log-probability of blank and label, (N,) each; 0 for a label that is not there.
        block: its nodes.
    """
    x.mul_(((-hard.blank - hard.label) / z)[:, None])
    add_columns(x, hard, block)


def add_columns(x: Tensor, hard: Arcs, block: Block) -> None:
    """Add numbers by node, (N,) each, to the columns of blank and label of (N, V)."""
    x.scatter_add_(1, block.columns[:, None], hard.label[:, None])
    x[:, block.blank] += hard.blank


def _frames(block: Block, delay: int, like: Tensor) -> Tensor | slice:
    """The teacher's frames for a block; those before the first are the first (their weight is 0)."""
    if not delay:
        return slice(block.start, block.stop)
    return torch.arange(block.start - delay, block.stop - delay, device=like.device).clamp_(min=0)
