"""Compute targets on a lattice, to be stored."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import best_alignment
from espnet_kd.rnnt.compact import CollapsedTargets, OneBestTargets, Tail
from espnet_kd.rnnt.device import full_precision
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import lattice_of
from espnet_kd.rnnt.loss import check_number, chunk_size
from espnet_kd.rnnt.path import alignment_lattice, gather_nodes
from espnet_kd.rnnt.soft import group_classes, label_and_blank, teacher_logits
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
    """Compute the probabilities of next label, blank and all other classes at every node.

    The arguments are those of rnnt_distillation.

    Raises:
        ValueError: an argument does not fit.
    """
    teacher, lattice = _in_float32(teacher), lattice_of(teacher, labels, enc_lens, label_lens, blank)
    check_number("temperature", temperature, above_zero=True)
    log_probs = teacher.enc.new_zeros(*lattice.shape, 3)
    buffers, chunk = Buffers(teacher.enc), chunk_size(chunk, teacher)
    with full_precision(teacher.enc.device):
        teacher = lattice.without_padding(teacher, chunk)
        for block in lattice.blocks(chunk):
            x = teacher_logits(teacher, block, 0, temperature, buffers)
            to = block.at(log_probs)
            to.copy_(group_classes(x, label_and_blank(block), block)[1].view(to.shape))
    return CollapsedTargets(log_probs, float(temperature))


@torch.no_grad()
def one_best_targets(
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
) -> OneBestTargets:
    """Compute the k most probable classes along the teacher's best alignment.

    Arguments that are not listed are those of rnnt_distillation.

    Args:
        k: number of classes per node.
        tail, renorm: see OneBestTargets.
        others: further teachers of an ensemble; their mean is taken along the first teacher's alignment.
        mean: makes of the softened (N, V) logits of all teachers the logits of their mean; None averages the
            posteriors.

    Raises:
        ValueError: k is not from 1 to V, or another argument does not fit.
    """
    teacher, lattice = _in_float32(teacher), lattice_of(teacher, labels, enc_lens, label_lens, blank)
    check_number("temperature", temperature, above_zero=True)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= teacher.classes:
        raise ValueError(
            f"k is {k!r}: give an integer from 1 to {teacher.classes}, the size of the vocabulary"
        )
    for other in others:
        if (other.shape, other.classes) != (teacher.shape, teacher.classes):
            raise ValueError(
                f"a teacher of the ensemble has the lattice {other.shape} and {other.classes} classes, the "
                f"first one {teacher.shape} and {teacher.classes}: use teachers with one frame rate and one "
                "token list"
            )
    chunk, mean = chunk_size(chunk, teacher), mean or _mean_posteriors
    with full_precision(teacher.enc.device):
        (arcs,) = arc_scores(lattice.without_padding(teacher, chunk), lattice, chunk)
        alignment = best_alignment(arcs, lattice)
        members = [gather_nodes(joint, alignment) for joint in (teacher, *map(_in_float32, others))]
        buffers = [Buffers(nodes.enc) for nodes in members]
        log_probs = teacher.enc.new_zeros(*alignment.frames.shape, k)
        tokens = torch.zeros_like(log_probs, dtype=torch.long)
        tokens[:] = torch.arange(k, device=tokens.device)
        for block in alignment_lattice(alignment, blank).blocks(chunk):
            x = [teacher_logits(m, block, 0, temperature, b) for m, b in zip(members, buffers, strict=True)]
            found = (mean(x) if others else x[0]).log_softmax(-1).topk(k)
            for to, values in ((log_probs, found.values), (tokens, found.indices)):
                view = to[block.utterances, block.start : block.stop]
                view.copy_(values.view(view.shape))
    return OneBestTargets(alignment, tokens, log_probs, tail, renorm, float(temperature))


def _mean_posteriors(logits: Sequence[Tensor]) -> Tensor:
    """Return the log of the sum of the posteriors: logits of their mean."""
    return torch.stack([x.log_softmax(-1) for x in logits]).logsumexp(0)


def _in_float32(teacher: Joint) -> Joint:
    """Detach a teacher and convert it to float32, or leave it in float64."""
    dtype = torch.promote_types(teacher.enc.dtype, torch.float32)
    return teacher.map(lambda x: x.detach().to(dtype)).without_tanh()
