"""Turn gradients by arcs and nodes into gradients of the joint network's tensors, block by block."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice, LatticeBlock
from espnet_kd.rnnt.soft import NodeTerm, arc_to_logit_gradient
from espnet_kd.rnnt.sweep import Buffers, exponentiate, logits


class Gradients:
    """Sum up the gradients of a joint network's four tensors; None for those that need none."""

    def __init__(self, joint: Joint, needed: Sequence[bool]) -> None:
        tensors = (joint.enc, joint.dec, joint.weight, joint.bias)
        pairs = zip(tensors, needed, strict=True)
        self.enc, self.dec, self.weight, self.bias = (torch.zeros_like(x) if n else None for x, n in pairs)

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.enc, self.dec, self.weight, self.bias))

    def for_gathered_nodes(self, nodes: Joint) -> "Gradients":
        """Return gradients for nodes gathered from this joint: the output layer's are shared, others new."""
        gathered = Gradients(nodes, (self.enc is not None or self.dec is not None, False, False, False))
        gathered.weight, gathered.bias = self.weight, self.bias
        return gathered

    def add(self, joint: Joint, block: LatticeBlock, hidden: Tensor, x: Tensor, buffers: Buffers) -> None:
        """Add the gradients from one block.

        Args:
            joint: the student.
            block: the nodes.
            hidden: (N, J) activations at the nodes.
            x: (N, V) gradient by the logits.
            buffers: memory that is reused from block to block.
        """
        if self.weight is not None:
            self.weight.addmm_(x.t(), hidden)
        if self.bias is not None:
            self.bias += x.sum(0)
        if self.enc is None and self.dec is None:
            return
        gradient = torch.mm(x, joint.weight, out=buffers.take("gradient", *hidden.shape))
        nodes = joint.backward(gradient, hidden, *block.inputs(joint))  # (b, F, R, J)
        if self.enc is not None:
            self.enc[block.utterances, block.start : block.stop] += nodes.sum(2)
        if self.dec is not None:
            self.dec[block.utterances, : block.rows] += nodes.sum(1)


def sweep(
    student: Joint,
    lattice: Lattice,
    chunk: int,
    arc_gradient: Arcs | None,
    node_term: NodeTerm | None,
    scale: float,
    gradients: Gradients | None,
) -> Tensor:
    """Visit every block once; compute the distillation term and the gradients.

    Args:
        student: detached.
        lattice: real nodes.
        chunk: nodes whose logits are held at a time.
        arc_gradient: (B, T, U) gradient of the loss by the log-probability of each arc, or None.
        node_term: the distillation term, or None.
        scale: factor of the distillation term in the gradient.
        gradients: the sums to add to; None computes values only.

    Returns:
        Scalar, float64: the distillation term, summed over the utterances, without the scale; 0 without a
        node_term.
    """
    buffers = Buffers(student.enc)
    values: list[Tensor] = []
    for block in lattice.blocks(chunk):
        hidden, x = logits(student, *block.inputs(student), buffers, "student")
        arcs = None if arc_gradient is None else Arcs(*(block.at(g).flatten() for g in arc_gradient))
        if node_term is None:
            _rnnt_logit_gradient(x, arcs, block)
        elif node_term.temperature == 1.0:
            values.append(node_term.logits_to_gradient(x, block, arcs, scale, buffers))
        else:
            softened = torch.div(x, node_term.temperature, out=buffers.like_logits("softened", x))
            values.append(node_term.logits_to_gradient(softened, block, None, scale, buffers))
            x = softened if arcs is None else _rnnt_logit_gradient(x, arcs, block).add_(softened)
        if gradients is not None:
            gradients.add(student, block, hidden, x, buffers)
    if not values:
        return student.enc.new_zeros((), dtype=torch.float64)
    return torch.stack(values).sum(dtype=torch.float64)


def _rnnt_logit_gradient(x: Tensor, arc_gradient: Arcs | None, block: LatticeBlock) -> Tensor:
    """Turn (N, V) logits in place into the gradient that arrives through the arcs."""
    assert arc_gradient is not None  # without a teacher there is the RNN-T loss
    z, _ = exponentiate(x)
    arc_to_logit_gradient(x, z, arc_gradient, block)
    return x
