"""One sweep over the lattice: from gradients by arcs and nodes to gradients of the joint's tensors."""

from collections.abc import Iterator, Sequence

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

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.enc, self.dec, self.weight, self.bias))

    def of_nodes(self, nodes: Joint) -> "Gradients":
        """The same for nodes that were gathered from this joint: output layer shared, encoder side anew."""
        gathered = Gradients(nodes, (self.enc is not None or self.dec is not None, False, False, False))
        gathered.weight, gathered.bias = self.weight, self.bias
        return gathered

    def add(self, joint: Joint, block: Block, hidden: Tensor, x: Tensor, buffers: Buffers) -> None:
        """Add the part of a block.

        Args:
            joint: the student.
            block: its nodes.
            hidden: (N, J) of the block.
            x: (N, V) gradient of the logits.
            buffers: room.
        """
        if self.weight is not None:
            self.weight.addmm_(x.t(), hidden)
        if self.bias is not None:
            self.bias += x.sum(0)
        if self.enc is None and self.dec is None:
            return
        gradient = torch.mm(x, joint.weight, out=buffers.take("gradient", *hidden.shape))
        nodes = joint.backward(gradient, hidden, *block.inputs(joint))  # (F, R, J)
        if self.enc is not None:
            self.enc[block.utterance, block.start : block.stop] += nodes.sum(1)
        if self.dec is not None:
            self.dec[block.utterance, : block.rows] += nodes.sum(0)


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
    buffers = Buffers(student.enc)
    values: list[Tensor] = []
    utterances: list[int] = []
    for block in lattice.blocks(chunk):
        hidden, x = logits(student, *block.inputs(student), buffers, "student")
        arcs = None if hard is None else Arcs(*(block.at(g).flatten() for g in hard))
        if soft is None:
            _hard_gradient(x, arcs, block)
        elif soft.temperature == 1.0:
            values.append(soft.compare(x, block, arcs, scale, buffers))
        else:
            softened = torch.div(x, soft.temperature, out=buffers.like_logits("soft", x))
            values.append(soft.compare(softened, block, None, scale, buffers))
            x = softened if arcs is None else _hard_gradient(x, arcs, block).add_(softened)
        utterances.append(block.utterance)
        if gradients is not None:
            gradients.add(student, block, hidden, x, buffers)
    total = student.enc.new_zeros(lattice.shape[0], dtype=torch.float64)
    if values:
        total.index_add_(0, torch.tensor(utterances, device=total.device), torch.stack(values).double())
    return total


def _hard_gradient(x: Tensor, hard: Arcs | None, block: Block) -> Tensor:
    """Turn logits, (N, V), in place into the gradient that comes from the arcs."""
    assert hard is not None  # without a teacher there is the RNN-T loss
    z, _ = exponentiate(x)
    add_hard(x, z, hard, block)
    return x
