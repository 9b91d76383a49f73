"""Distil along one alignment: gather its nodes before the output layer, so that no others are computed."""

from dataclasses import replace

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Alignment, best_alignment
from espnet_kd.rnnt.compact import OneBestTargets
from espnet_kd.rnnt.device import to_device
from espnet_kd.rnnt.gradient import Gradients, sweep
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice
from espnet_kd.rnnt.soft import FullKL, GroupedKL
from espnet_kd.rnnt.sweep import arc_scores


def term_on_alignment(
    teacher: Joint | OneBestTargets, lattice: Lattice, delay: int, temperature: float, chunk: int
) -> tuple[Alignment, FullKL | GroupedKL]:
    """Make the KL term along the teacher's best alignment.

    Args:
        teacher: joint network, or stored targets.
        lattice: real nodes.
        delay: frames by which the student's nodes come later than the teacher's.
        temperature: T > 0.
        chunk: nodes whose logits are held at a time.

    Returns:
        The student's nodes; and the term on a lattice of P frames and one row that consists of these nodes,
        in which those that the delay moves past the last frame weigh nothing.
    """
    if isinstance(teacher, OneBestTargets):
        alignment, weights = _delayed(teacher.alignment, lattice, delay)
        tokens, log_probs = teacher.tokens[:, :, None], teacher.classes()[:, :, None]
        return alignment, GroupedKL(weights.to(log_probs), temperature, log_probs, tokens)
    (arcs,) = arc_scores(teacher, lattice, chunk)
    found = best_alignment(arcs, lattice)
    alignment, weights = _delayed(found, lattice, delay)
    return alignment, FullKL(gather_nodes(teacher, found), weights.to(teacher.enc), 0, temperature)


def sweep_alignment(
    student: Joint,
    lattice: Lattice,
    alignment: Alignment,
    node_term: FullKL | GroupedKL,
    chunk: int,
    scale: float,
    gradients: Gradients | None,
) -> Tensor:
    """Visit the nodes of an alignment as `sweep` visits those of a lattice; return the sum of its values."""
    nodes, along = gather_nodes(student, alignment), alignment_lattice(alignment, lattice.blank)
    if gradients is None:
        return sweep(nodes, along, chunk, None, node_term, scale, None)
    gathered = gradients.for_gathered_nodes(nodes)
    values = sweep(nodes, along, chunk, None, node_term, scale, gathered)
    first = torch.arange(len(nodes.enc), device=nodes.enc.device)[:, None]
    for whole, index in ((gradients.enc, alignment.frames), (gradients.dec, alignment.rows)):
        if whole is not None and gathered.enc is not None:  # in the padding the gradient is 0
            places = (first * whole.shape[1] + index).flatten()
            whole.view(-1, whole.shape[2]).index_add_(0, places, gathered.enc.flatten(0, 1))
    return values


def gather_nodes(joint: Joint, alignment: Alignment) -> Joint:
    """Gather the nodes of an alignment as the frames of a joint network with one row."""
    utterance = torch.arange(len(joint.enc), device=joint.enc.device)[:, None]
    enc = joint.enc[utterance, alignment.frames] + joint.dec[utterance, alignment.rows]
    return replace(joint, enc=enc, dec=torch.zeros_like(joint.dec[:, :1]))


def alignment_lattice(alignment: Alignment, blank: int) -> Lattice:
    """Return the lattice of P frames and one row that `gather_nodes` makes."""
    batch, steps = alignment.frames.shape
    no_labels = alignment.frames.new_empty(batch, 0)
    return Lattice(no_labels, alignment.lengths, (1,) * batch, (batch, steps, 1), blank)


def _delayed(alignment: Alignment, lattice: Lattice, delay: int) -> tuple[Alignment, Tensor]:
    """Move an alignment `delay` frames later; return it and weights, (B, P, 1), 0 past the last frame."""
    lengths, frames = to_device([alignment.lengths, lattice.frames], alignment.frames.device)[:, :, None]
    steps = torch.arange(alignment.frames.shape[1], device=alignment.frames.device)
    real = (steps < lengths) & (alignment.frames + delay < frames)
    moved = Alignment(
        torch.where(real, alignment.frames + delay, 0),
        torch.where(real, alignment.rows, 0),
        alignment.lengths,  # the number of nodes that stay is not known to the host
    )
    return moved, real[:, :, None]
