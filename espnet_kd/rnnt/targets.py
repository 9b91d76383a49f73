"""Ask a teacher for targets to keep."""

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import best_path
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import lattice_of
from espnet_kd.rnnt.loss import check_number, chunk_size
from espnet_kd.rnnt.path import nodes_of, path_lattice
from espnet_kd.rnnt.soft import group, label_and_blank, teacher_logits
from espnet_kd.rnnt.stored import CollapsedTargets, PathTargets, Tail
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
    chunk: int | None = None,
) -> PathTargets:
    """Ask for the k most probable classes along the best alignment; arguments as in rnnt_distillation.

    Raises:
        ValueError: k is not from 1 to V, or another argument does not fit.
    """
    teacher, lattice = _wide(teacher), lattice_of(teacher, labels, enc_lens, label_lens, blank)
    check_number("temperature", temperature, above_zero=True)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= teacher.classes:
        raise ValueError(
            f"k is {k!r}: give an integer from 1 to {teacher.classes}, the size of the vocabulary"
        )
    chunk = chunk_size(chunk, teacher)
    with torch.autocast(teacher.enc.device.type, enabled=False):
        (arcs,) = arc_scores(teacher, lattice, chunk)
        path = best_path(arcs, lattice)
        nodes, buffers = nodes_of(teacher, path), Buffers(teacher.enc)
        log_probs = teacher.enc.new_zeros(*path.frames.shape, k)
        tokens = torch.zeros_like(log_probs, dtype=torch.long)
        tokens[:] = torch.arange(k, device=tokens.device)
        for block in path_lattice(path, blank).blocks(chunk):
            x = teacher_logits(nodes, block, 0, temperature, buffers)
            found = x.log_softmax(-1).topk(k)
            for to, values in ((log_probs, found.values), (tokens, found.indices)):
                to[block.utterance, block.start : block.stop] = values
    return PathTargets(path, tokens, log_probs, tail, renorm, float(temperature))


def _wide(teacher: Joint) -> Joint:
    """In float32, or in float64 if it is that."""
    dtype = torch.promote_types(teacher.enc.dtype, torch.float32)
    return teacher.map(lambda x: x.detach().to(dtype)).without_tanh()
