"""Distillation along one alignment: its nodes are gathered before the output layer."""

from dataclasses import replace

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Path, best_path
from espnet_kd.rnnt.compact import PathTargets
from espnet_kd.rnnt.gradient import Gradients, sweep
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice
from espnet_kd.rnnt.soft import Full, Grouped
from espnet_kd.rnnt.sweep import arc_scores


def along_path(
    teacher: Joint | PathTargets, lattice: Lattice, delay: int, temperature: float, chunk: int
) -> tuple[Path, Full | Grouped]:
    """The teacher along its best alignment.

    Returns:
        The student's nodes, those left out that the delay moves past the last frame; and the teacher at the
        lattice of P frames and one row that they make.
    """
    if isinstance(teacher, PathTargets):
        path, weights = _shifted(teacher.path, lattice, delay)
        tokens, log_probs = teacher.tokens[:, :, None], teacher.classes()[:, :, None]
        return path, Grouped(weights.to(log_probs), temperature, log_probs, tokens)
    (arcs,) = arc_scores(teacher, lattice, chunk)
    found = best_path(arcs, lattice)
    path, weights = _shifted(found, lattice, delay)
    return path, Full(nodes_of(teacher, found), weights.to(teacher.enc), 0, temperature)


def sweep_path(
    student: Joint,
    lattice: Lattice,
    path: Path,
    soft: Full | Grouped,
    chunk: int,
    scale: float,
    gradients: Gradients | None,
) -> Tensor:
    """As `sweep`, at the nodes of the path; value by utterance, (B,) float64."""
    nodes, along = nodes_of(student, path), path_lattice(path, lattice.blank)
    if gradients is None:
        return sweep(nodes, along, chunk, None, soft, scale, None)
    gathered = gradients.of_nodes(nodes)
    values = sweep(nodes, along, chunk, None, soft, scale, gathered)
    for b, length in enumerate(path.lengths):
        for whole, index in ((gradients.enc, path.frames), (gradients.dec, path.rows)):
            if whole is not None and gathered.enc is not None:
                whole[b].index_add_(0, index[b, :length], gathered.enc[b, :length])
    return values


def nodes_of(joint: Joint, path: Path) -> Joint:
    """The nodes of a path as the frames of a lattice with one row."""
    utterance = torch.arange(len(joint.enc), device=joint.enc.device)[:, None]
    enc = joint.enc[utterance, path.frames] + joint.dec[utterance, path.rows]
    return replace(joint, enc=enc, dec=torch.zeros_like(joint.dec[:, :1]))


def path_lattice(path: Path, blank: int) -> Lattice:
    """Real nodes of `nodes_of`."""
    batch, steps = path.frames.shape
    no_labels = path.frames.new_empty(batch, 0)
    return Lattice(no_labels, path.lengths, (1,) * batch, (batch, steps, 1), blank)


def _shifted(path: Path, lattice: Lattice, delay: int) -> tuple[Path, Tensor]:
    """The path `delay` frames later, as far as the frames go, and its weights, (B, P, 1)."""
    lengths = torch.tensor(path.lengths, device=path.frames.device)[:, None]
    frames = torch.tensor(lattice.frames, device=path.frames.device)[:, None]
    steps = torch.arange(path.frames.shape[1], device=path.frames.device)
    real = (steps < lengths) & (path.frames + delay < frames)
    kept = tuple(real.sum(1).tolist())
    moved = Path(torch.where(real, path.frames + delay, 0), torch.where(real, path.rows, 0), kept)
    return moved, real[:, :, None]
