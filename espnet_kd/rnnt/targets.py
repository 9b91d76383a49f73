"""Ask a teacher for targets to keep."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import best_path
from espnet_kd.rnnt.compact import CollapsedTargets, PathTargets, Tail
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import lattice_of
from espnet_kd.rnnt.loss import check_number, chunk_size
from espnet_kd.rnnt.path import nodes_of, path_lattice
from espnet_kd.rnnt.soft import group, label_and_blank, teacher_logits
from espnet_kd.rnnt.sweep import Buffers, arc_scores


@torch.no_grad()
def collapsed_targets(
    teacher: Joint,
    labels: Tensor,
    enc_lens: Tensor,
    label_lens: Tensor,
    *,
    temperature: float = 1.0,
    blank: int = 0,
    chunk: int | None = None,
) -> CollapsedTargets:
    """Ask for next label, blank and the rest at every node; arguments as in rnnt_distillation."""
    teacher, lattice = _wide(teacher), lattice_of(teacher, labels, enc_lens, label_lens, blank)
    check_number("temperature", temperature, above_zero=True)
    log_probs = teacher.enc.new_zeros(*lattice.shape, 3)
    buffers = Buffers(teacher.enc)
    with torch.autocast(teacher.enc.device.type, enabled=False):
        for block in lattice.blocks(chunk_size(chunk, teacher)):
            x = teacher_logits(teacher, block, 0, temperature, buffers)
            to = block.at(log_probs)
            to.copy_(group(x, label_and_blank(block), block)[1].view(to.shape))
    return CollapsedTargets(log_probs, float(temperature))


@torch.no_grad()
def path_targets(
    teacher: Joint,
    labels: Tensor,
    enc_lens: Tensor,
    label_lens: Tensor,
    *,
    k: int,
    temperature: float = 1.0,
    blank: int = 0,
    tail: Tail = "drop",
    renorm: bool = True,
    others: Sequence[Joint] = (),
    mean: Callable[[Sequence[Tensor]], Tensor] | None = None,
    chunk: int | None = None,
) -> PathTargets:
    """Ask for the k most probable classes along the best alignment; arguments as in rnnt_distillation.

    Args:
        others: with the teacher an ensemble, which is asked along the teacher's alignment.
        mean: (N, V) softened logits of each -> (N, V) logits of their mean; the posteriors' if None.

    Raises:
        ValueError: k is not from 1 to V, or another argument does not fit.
    """
    teacher, lattice = _wide(teacher), lattice_of(teacher, labels, enc_lens, label_lens, blank)
    check_number("temperature", temperature, above_zero=True)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= teacher.classes:
        raise ValueError(
            f"k is {k!r}: give an integer from 1 to {teacher.classes}, the size of the vocabulary"
        )
    for other in others:
        if (other.shape, other.classes) != (teacher.shape, teacher.classes):
            sides = f"{other.shape} and {other.classes} classes, the first one {teacher.shape} and"
            raise ValueError(f"a teacher of the ensemble has {sides} {teacher.classes}: crop the frames")
    chunk, mean = chunk_size(chunk, teacher), mean or _mean_posteriors
    with torch.autocast(teacher.enc.device.type, enabled=False):
        (arcs,) = arc_scores(teacher, lattice, chunk)
        path = best_path(arcs, lattice)
        members = [nodes_of(joint, path) for joint in (teacher, *map(_wide, others))]
        buffers = [Buffers(nodes.enc) for nodes in members]
        log_probs = teacher.enc.new_zeros(*path.frames.shape, k)
        tokens = torch.zeros_like(log_probs, dtype=torch.long)
        tokens[:] = torch.arange(k, device=tokens.device)
        for block in path_lattice(path, blank).blocks(chunk):
            x = [teacher_logits(m, block, 0, temperature, b) for m, b in zip(members, buffers, strict=True)]
            found = (mean(x) if others else x[0]).log_softmax(-1).topk(k)
            for to, values in ((log_probs, found.values), (tokens, found.indices)):
                to[block.utterance, block.start : block.stop] = values
    return PathTargets(path, tokens, log_probs, tail, renorm, float(temperature))


def _mean_posteriors(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([x.log_softmax(-1) for x in logits]).logsumexp(0)


def _wide(teacher: Joint) -> Joint:
    """In float32, or in float64 if it is that."""
    dtype = torch.promote_types(teacher.enc.dtype, torch.float32)
    return teacher.map(lambda x: x.detach().to(dtype)).without_tanh()
