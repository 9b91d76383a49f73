"""Compute the KL between teacher and student at the nodes of a block, and its gradient in place.

Notation: p the teacher's probabilities, q the student's, m the weight of a node, T the temperature. The value
is T^2 sum_nodes m KL(p || q); its gradient by the logits is T times m (q - p).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import LatticeBlock
from espnet_kd.rnnt.sweep import Buffers, exponentiate, label_logits, logits


class NodeTerm(Protocol):
    """A term of the loss that is a sum over the nodes of a lattice.

    Attributes:
        temperature: T > 0, by which the student's logits are divided before they are passed in.
    """

    temperature: float

    def logits_to_gradient(
        self, x: Tensor, block: LatticeBlock, arc_gradient: Arcs | None, scale: float, buffers: Buffers
    ) -> Tensor:
        """Compute the term's value on a block, and overwrite the logits with the gradient of the loss.

        Args:
            x: (N, V) the student's logits / T; becomes the gradient by the logits.
            block: the nodes.
            arc_gradient: gradient of the rest of the loss by the log-probabilities of blank and label, (N,)
                each, which is added in; None if there is none.
            scale: factor of this term, not of `arc_gradient`, in the gradient.
            buffers: memory for the teacher's logits.

        Returns:
            Scalar: the sum over the nodes of the block, without the scale.
        """


@dataclass(frozen=True)
class FullKL(NodeTerm):
    """The KL over all V classes.

    Attributes:
        teacher: the teacher's joint network.
        weights: (B, T, U) m, 0 in the first `delay` frames.
        delay: the target of frame t is the teacher's of frame t - delay.
        temperature: T > 0.
    """

    teacher: Joint
    weights: Tensor
    delay: int
    temperature: float

    def logits_to_gradient(
        self, x: Tensor, block: LatticeBlock, arc_gradient: Arcs | None, scale: float, buffers: Buffers
    ) -> Tensor:
        """Compute the KL on a block, and overwrite the logits with the gradient; see NodeTerm."""
        m = block.at(self.weights).flatten()
        k = scale * self.temperature
        teacher = teacher_logits(self.teacher, block, self.delay, self.temperature, buffers)
        target = buffers.like_logits("target", x)
        z, of_teacher = exponentiate(teacher, out=target)
        target.mul_((m / z)[:, None])
        value = torch.dot(target.flatten(), teacher.sub_(x).flatten())
        z, of_student = exponentiate(x)
        value = value + torch.dot(m, of_student - of_teacher)
        of_all = k * m if arc_gradient is None else k * m - arc_gradient.blank - arc_gradient.label
        x.mul_((of_all / z)[:, None]).sub_(target, alpha=k)
        if arc_gradient is not None:
            add_columns(x, arc_gradient, block)
        return value * self.temperature**2


@dataclass(frozen=True)
class GroupedKL(NodeTerm):
    """The KL over C classes and all others together, as one more class.

    Attributes:
        weights: (B, T, U) m.
        temperature: T > 0.
        log_probs: (B, T, U, C + 1) log p, all others last, -inf for 0; or None: computed by `teacher`.
        tokens: (B, T, U, C) int64, all different; or None: the node's next label and the blank, C = 2.
        teacher: the teacher's joint network, if there are no log_probs.
        delay: the target of frame t is the teacher's of frame t - delay.
    """

    weights: Tensor
    temperature: float
    log_probs: Tensor | None = None
    tokens: Tensor | None = None
    teacher: Joint | None = None
    delay: int = 0

    def logits_to_gradient(
        self, x: Tensor, block: LatticeBlock, arc_gradient: Arcs | None, scale: float, buffers: Buffers
    ) -> Tensor:
        """Compute the KL on a block, and overwrite the logits with the gradient; see NodeTerm."""
        m = block.at(self.weights).flatten()
        columns = self._columns(block)
        log_p = self._target(block, columns, buffers)
        z, log_q = group_classes(x, columns, None if self.tokens is not None else block)
        p = log_p.exp()
        if self.tokens is not None and columns.shape[1] == x.shape[1]:
            p[:, -1] = 0.0  # there are no other classes: their mass is a rounding error
        kl = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)  # a teacher's NaN stays NaN
        gain = (-scale * self.temperature * m)[:, None] * p  # (N, C + 1) by log_q
        if arc_gradient is not None:
            gain[:, 0] += arc_gradient.label
            gain[:, 1] += arc_gradient.blank
        gain_of_all = gain.sum(-1, keepdim=True)
        columns_gradient = gain - gain_of_all * log_q.exp()
        x.mul_((columns_gradient[:, -1] / z)[:, None])
        if self.tokens is None:  # in the last row both columns are the blank
            last = block.columns == block.blank
            columns_gradient[:, 0] = torch.where(last, columns_gradient[:, 1], columns_gradient[:, 0])
        x.scatter_(1, columns, columns_gradient[:, :-1])
        return torch.dot(m, kl) * self.temperature**2

    def _columns(self, block: LatticeBlock) -> Tensor:
        """Return (N, C), the classes that are not merged."""
        if self.tokens is not None:
            return block.at(self.tokens).flatten(0, 2)
        return label_and_blank(block)

    def _target(self, block: LatticeBlock, columns: Tensor, buffers: Buffers) -> Tensor:
        """Return log p at the nodes of a block, (N, C + 1)."""
        if self.log_probs is not None:
            frames = _teacher_frames(block, self.delay, self.log_probs)
            return self.log_probs[block.utterances, frames, : block.rows].flatten(0, 2)
        assert self.teacher is not None  # one of the two is given
        teacher = teacher_logits(self.teacher, block, self.delay, self.temperature, buffers)
        return group_classes(teacher, columns, block)[1]


def teacher_logits(
    teacher: Joint, block: LatticeBlock, delay: int, temperature: float, buffers: Buffers
) -> Tensor:
    """Compute the teacher's logits / temperature at a block, (N, V), in the buffers named `teacher`."""
    frames = _teacher_frames(block, delay, teacher.enc)
    enc, dec = teacher.enc[block.utterances, frames], teacher.dec[block.utterances, : block.rows]
    _, x = logits(teacher, enc, dec, buffers, "teacher")
    return x if temperature == 1.0 else x.div_(temperature)


def label_and_blank(block: LatticeBlock) -> Tensor:
    """Return next label and blank of each node, (N, 2); twice the blank in the last row, without a label."""
    return torch.stack([block.columns, torch.full_like(block.columns, block.blank)], -1)


def group_classes(x: Tensor, columns: Tensor, block: LatticeBlock | None) -> tuple[Tensor, Tensor]:
    """Merge all classes but some of (N, V) logits into one.

    Args:
        x: becomes, in place, exp(x - maximum of the row) of the merged classes, and 0 at the columns.
        columns: (N, C) classes that are not merged.
        block: given if the columns are `label_and_blank`, of which the last row has no label; else None.

    Returns:
        (N,) sum of each row of the new x, and (N, C + 1) log-probabilities: the columns, then the others.
    """
    single = x.gather(1, columns)
    if block is not None:
        single[:, 0] = label_logits(x, block)
    x.scatter_(1, columns, -torch.inf)
    z, rest = exponentiate(x)
    log_probs = torch.cat([single, rest[:, None]], -1).log_softmax(-1)
    return z.clamp_(
        min=torch.finfo(z.dtype).tiny
    ), log_probs  # without other classes x is 0 and z, a divisor, too


def arc_to_logit_gradient(x: Tensor, z: Tensor, arc_gradient: Arcs, block: LatticeBlock) -> None:
    """Pass the gradient by the arcs' log-probabilities back through the log-softmax to the logits.

    Args:
        x: (N, V) exp(logits - maximum of the row); becomes the gradient by the logits.
        z: (N,) sums of its rows.
        arc_gradient: gradient by the log-probability of blank and label, (N,) each; 0 if there is no label.
        block: the nodes.
    """
    x.mul_(((-arc_gradient.blank - arc_gradient.label) / z)[:, None])
    add_columns(x, arc_gradient, block)


def add_columns(x: Tensor, arc_gradient: Arcs, block: LatticeBlock) -> None:
    """Add the gradients of blank and label, (N,) each, to their columns of x, (N, V)."""
    x.scatter_add_(1, block.columns[:, None], arc_gradient.label[:, None])
    x[:, block.blank] += arc_gradient.blank


def _teacher_frames(block: LatticeBlock, delay: int, like: Tensor) -> Tensor | slice:
    """Return the teacher's frames for a block; 0 for those before the first, whose weight is 0."""
    if not delay:
        return slice(block.start, block.stop)
    return torch.arange(block.start - delay, block.stop - delay, device=like.device).clamp_(min=0)
