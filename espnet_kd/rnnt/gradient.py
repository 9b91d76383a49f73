"""One sweep over the lattice: from gradients by arcs and nodes to gradients of the joint's tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Block, Lattice
from espnet_kd.rnnt.soft import Soft, add_hard
from espnet_kd.rnnt.sweep import Buffers, exponentiate, logits


class Gradients:
    """Gradients of a joint's four tensors, None for those that need none."""

    def __init__(self, joint: Joint, needed: Sequence[bool]) -> None:
        tensors = (joint.enc, joint.dec, joint.weight, joint.bias)
        pairs = zip(tensors, needed, strict=True)
        self.enc, self.dec, self.weight, self.bias = (torch.zeros_like(x) if n else None for x, n in pairs)

    def __iter__(self):
        return iter((self.enc, self.dec, self.weight, self.bias))

    def of_nodes(self, nodes: Joint) -> "Gradients":
        """The same for nodes that were gathered from this joint: output layer shared, encoder side anew."""
        gathered = Gradients(nodes, (self.enc is not None or self.dec is not None, False, False, False))
        gathered.weight, gathered.bias = self.weight, self.bias
        return gathered

    def add(
        self, joint: Joint, block: Block, inputs: tuple[Tensor, Tensor], hidden: Tensor, x: Tensor
    ) -> None:
        """Add the part of a block, given the gradient of its logits, (N, V)."""
        if self.weight is not None:
            self.weight.addmm_(x.t(), hidden.detach())
        if self.bias is not None:
            self.bias += x.sum(0)
        if self.enc is None and self.dec is None:
            return
        frames, rows = torch.autograd.grad(hidden, inputs, x @ joint.weight)
        if self.enc is not None:
            self.enc[block.utterance, block.start : block.stop] += frames
        if self.dec is not None:
            self.dec[block.utterance, : block.rows] += rows


def sweep(
    student: Joint,
    lattice: Lattice,
    chunk: int,
    hard: Arcs | None,
    soft: Soft | None,
    scale: float,
    gradients: Gradients | None,
) -> Tensor:
    """Visit every block once.

    Args:
        student: detached.
        lattice: its real nodes.
        chunk: nodes of a block.
        hard: (B, T, U) gradient of the loss by the log-probability of each arc, or None.
        soft: the teacher, or None.
        scale: of the teacher's term in the gradient.
        gradients: are added to; None: only the value is wanted.

    Returns:
        (B,) float64: the teacher's term by utterance, without the scale; 0 without a teacher.
    """
    buffers = Buffers(student.enc, student.classes)
    values = student.enc.new_zeros(lattice.shape[0], dtype=torch.float64)
    for block in lattice.blocks(chunk):
        frames = slice(block.start, block.stop)
        enc, dec = student.enc[block.utterance, frames], student.dec[block.utterance, : block.rows]
        with torch.set_grad_enabled(gradients is not None):
            if gradients is not None:
                enc, dec = enc.requires_grad_(), dec.requires_grad_()
            hidden = student.hidden(enc, dec)
        x = logits(student, hidden.detach(), buffers.take("student", block.nodes))
        arcs = None if hard is None else Arcs(*(block.at(g).flatten() for g in hard))
        if soft is None:
            _hard_gradient(x, arcs, block)
        elif soft.temperature == 1.0:
            values[block.utterance] += soft.compare(x, block, arcs, scale, buffers)
        else:
            softened = torch.div(x, soft.temperature, out=buffers.take("soft", block.nodes))
            values[block.utterance] += soft.compare(softened, block, None, scale, buffers)
            x = softened if arcs is None else _hard_gradient(x, arcs, block).add_(softened)
        if gradients is not None:
            gradients.add(student, block, (enc, dec), hidden, x)
    return values


def _hard_gradient(x: Tensor, hard: Arcs, block: Block) -> Tensor:
    """Turn logits, (N, V), in place into the gradient that comes from the arcs."""
    z, _ = exponentiate(x)
    add_hard(x, z, hard, block)
    return x
