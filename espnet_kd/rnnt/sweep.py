"""Compute logits block by block, so that those of one block at most are in memory."""

import math

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice, LatticeBlock


class Buffers:
    """Memory for the tensors of one block, by name, reused for every block.

    Args:
        like: a tensor that has the dtype and device of the buffers.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.tensors: dict[str, Tensor] = {}

    def take(self, name: str, nodes: int, width: int) -> Tensor:
        """Return an uninitialised (nodes, width) tensor; calls with one name have one width."""
        if name not in self.tensors or len(self.tensors[name]) < nodes:
            self.tensors[name] = self.like.new_empty(nodes, width)
        return self.tensors[name][:nodes]

    def like_logits(self, name: str, x: Tensor) -> Tensor:
        """Return an uninitialised tensor of the shape of x, (N, V)."""
        return self.take(name, *x.shape)


def logits(joint: Joint, enc: Tensor, dec: Tensor, buffers: Buffers, name: str) -> tuple[Tensor, Tensor]:
    """Compute hidden vectors, (N, J), and logits, (N, V), at the nodes of some frames and rows.

    Args:
        joint: the model.
        enc, dec: (b, F, J) and (b, R, J) projected outputs; N = b * F * R.
        buffers: memory of the results.
        name: first word of the names of the two buffers.
    """
    nodes, (classes, space) = enc.shape[:2].numel() * dec.shape[1], joint.weight.shape
    hidden = joint.hidden(enc, dec, buffers.take(f"{name} hidden", nodes, space))
    x = buffers.take(f"{name} logits", nodes, classes)
    return hidden, torch.addmm(joint.bias, hidden, joint.weight.t(), out=x)


def exponentiate(x: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Turn (N, V) logits into exp(x - maximum of the row), in place or written into out.

    Returns:
        The sum of each row of the result, and the log-sum-exp of each row of the logits, (N,) each; 0 and
        -inf for a row in which all logits are -inf.
    """
    greatest = x.amax(-1, keepdim=True).clamp_(min=torch.finfo(x.dtype).min)
    out = torch.sub(x, greatest, out=x if out is None else out).exp_()
    z = out.sum(-1)
    return z, z.log() + greatest[:, 0]


def label_logits(x: Tensor, block: LatticeBlock) -> Tensor:
    """Select the logit of each node's next label, (N, V) -> (N,); -inf in the last row, which has none."""
    chosen = x.gather(1, block.columns[:, None])[:, 0]
    return chosen.masked_fill_(block.columns == block.blank, -math.inf)


@torch.no_grad()
def arc_scores(
    joint: Joint, lattice: Lattice, chunk: int, temperatures: tuple[float, ...] = (1.0,)
) -> list[Arcs]:
    """Compute the log-probabilities of blank and next label at every node, for each softmax temperature."""
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
    if lattice.has_padding(chunk):
        padding = ~lattice.real()
        for arcs in scores:
            for values in arcs:
                values.masked_fill_(padding, -math.inf)
    return scores
