"""Compute the KL between the teacher's and the student's distribution over alignments, given the labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs, posterior
from espnet_kd.rnnt.device import to_device
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice, LatticeBlock
from espnet_kd.rnnt.soft import NodeTerm, arc_to_logit_gradient
from espnet_kd.rnnt.sweep import Buffers, arc_scores, exponentiate


@dataclass(frozen=True)
class ArcGradient(NodeTerm):
    """A NodeTerm whose value is known already, and whose gradient is known for every arc.

    Attributes:
        arcs: (B, T, U) gradient by the log-probabilities at temperature T, with all factors multiplied in.
        temperature: T > 0.
    """

    arcs: Arcs
    temperature: float

    def logits_to_gradient(
        self, x: Tensor, block: LatticeBlock, arc_gradient: Arcs | None, scale: float, buffers: Buffers
    ) -> Tensor:
        """Turn logits into the gradient; see NodeTerm. Returns 0: `alignment_kl` has computed the value."""
        gradient = [block.at(g).flatten() for g in self.arcs]
        if arc_gradient is not None:
            gradient = [own + other for own, other in zip(gradient, arc_gradient, strict=True)]
        z, _ = exponentiate(x)
        arc_to_logit_gradient(x, z, Arcs(*gradient), block)
        return x.new_zeros(())


def alignment_kl(
    student_arcs: Arcs, teacher: Joint, lattice: Lattice, delay: int, temperature: float, chunk: int
) -> tuple[Tensor, Arcs]:
    """Compute KL(teacher || student) between the distributions over alignments.

    Args:
        student_arcs: (B, T, U) log-probabilities at the temperature.
        teacher: the teacher's joint network.
        lattice: real nodes.
        delay: number of frames left out: the student's first and the teacher's last.
        temperature: T > 0.
        chunk: nodes whose logits are held at a time.

    Returns:
        (B,) float64, in nats; and the gradient by the student's arcs, (B, T, U). Both are 0 for an utterance
        that has no frames beyond the delay.

    Source:
        L_soft of Chang, Hwang and Siohan, Revisiting the Entropy Semiring for Neural Speech Recognition,
        ICLR 2023, arXiv:2312.10087.
    """
    frames = lattice.shape[1]
    long_enough = to_device(lattice.frames, teacher.enc.device) > delay
    if max(lattice.frames) <= delay:
        nothing = torch.zeros_like(student_arcs.blank)
        return nothing.sum((1, 2), dtype=torch.float64), Arcs(nothing, nothing)
    cropped = lattice.cropped(delay)
    (p_arcs,) = arc_scores(cropped.without_padding(teacher, chunk), cropped, chunk, (temperature,))
    q_arcs = Arcs(*(scores[:, delay:] for scores in student_arcs))
    p, q = posterior(p_arcs, cropped), posterior(q_arcs, cropped)
    # log p(alignment) - log q(alignment) is a sum over the arcs of the alignment, minus the totals.
    excess = sum(
        torch.where(taken == 0, 0.0, taken.double() * (p_score - q_score)).sum((1, 2))
        for taken, p_score, q_score in zip(p.arcs, p_arcs, q_arcs, strict=True)
    )
    value = torch.where(long_enough, excess - p.total + q.total, 0.0)
    difference = (
        torch.where(long_enough[:, None, None], ours - theirs, 0.0)
        for ours, theirs in zip(q.arcs, p.arcs, strict=True)
    )
    padding = (0, 0, frames - cropped.shape[1], 0)
    return value, Arcs(*(torch.nn.functional.pad(x, padding) for x in difference))
