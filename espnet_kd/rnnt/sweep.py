"""Visit a lattice block by block: logits of a block are made, used and forgotten."""

import math

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Block, Lattice


class Buffers:
    """Room for what is computed of one block, by name, used again for every block."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.room: dict[str, Tensor] = {}

    def take(self, name: str, nodes: int, width: int) -> Tensor:
        """(nodes, width), holding anything; a name has one width."""
        if name not in self.room or len(self.room[name]) < nodes:
            self.room[name] = self.like.new_empty(nodes, width)
        return self.room[name][:nodes]

    def like_logits(self, name: str, x: Tensor) -> Tensor:
        """(N, V), holding anything."""
        return self.take(name, *x.shape)


def logits(joint: Joint, enc: Tensor, dec: Tensor, buffers: Buffers, name: str) -> tuple[Tensor, Tensor]:
    """Hidden vectors, (N, J), and logits, (N, V), at the nodes of some frames and rows, (F, J) and (R, J).

    Both lie in buffers whose names begin with `name`.
    """
    nodes, (classes, space) = len(enc) * len(dec), joint.weight.shape
    hidden = joint.hidden(enc, dec, buffers.take(f"{name} hidden", nodes, space))
    x = buffers.take(f"{name} logits", nodes, classes)
    return hidden, torch.addmm(joint.bias, hidden, joint.weight.t(), out=x)


def exponentiate(x: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Turn (N, V) logits into exp(x - greatest of the row), in place or written into out.

    Returns:
        The sum of each row of the result, and the log-sum-exp of each row of the logits, (N,) each. For a row
        of -inf alone: 0, and -inf.
    """
    greatest = x.amax(-1, keepdim=True).clamp_(min=torch.finfo(x.dtype).min)
    out = torch.sub(x, greatest, out=x if out is None else out).exp_()
    z = out.sum(-1)
    return z, z.log() + greatest[:, 0]


def label_logits(x: Tensor, block: Block) -> Tensor:
    """Logits of the label that leaves each node, (N, V) -> (N,); -inf in the last row."""
    chosen = x.gather(1, block.columns[:, None])[:, 0]
    return chosen.masked_fill_(block.columns == block.blank, -math.inf)


@torch.no_grad()
def arc_scores(
    joint: Joint, lattice: Lattice, chunk: int, temperatures: tuple[float, ...] = (1.0,)
) -> list[Arcs]:
    """Log-probabilities of blank and label at every node, for each temperature of the softmax."""
    buffers = Buffers(joint.enc)
    scores = [Arcs(*(joint.enc.new_full(lattice.shape, -math.inf) for _ in range(2))) for _ in temperatures]
    for block in lattice.blocks(chunk):
        _, x = logits(joint, *block.inputs(joint), buffers, "student")
        for temperature, arcs in zip(temperatures, scores, strict=True):
            soft = x
            if len(temperatures) > 1 or temperature != 1.0:
                soft = torch.div(x, temperature, out=buffers.like_logits("soft", x))
            blank, label = soft[:, block.blank].clone(), label_logits(soft, block)
            _, total = exponentiate(soft)
            for values, to in ((blank, arcs.blank), (label, arcs.label)):
                view = block.at(to)
                view.copy_((values - total).view(view.shape))
    return scores
