"""RNN-T loss and distillation together, in the same passes over the lattice."""

from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from espnet_kd.rnnt.compact import CollapsedTargets, PathTargets
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.kinds import Distillation, Kind, Normalize, Weight, check_kind
from espnet_kd.rnnt.lattice import Lattice, lattice_of
from espnet_kd.rnnt.loss import check_number, chunk_size
from espnet_kd.rnnt.scalar import LatticeLoss, Reduction, reduced

Teacher = Joint | CollapsedTargets | PathTargets
LEAST = -1e30  # of a teacher's bias: a finite number whose exponential is 0


def rnnt_distillation(
    student: Joint,
    teacher: Teacher,
    labels: Tensor,
    enc_lens: Tensor,
    label_lens: Tensor,
    *,
    kind: Kind,
    rnnt_weight: Weight,
    kd_weight: Weight,
    delay: int = 0,
    temperature: float = 1.0,
    blank: int = 0,
    fastemit: float = 0.0,
    reduction: Reduction = "mean",
    normalize: Normalize | None = None,
    chunk: int | None = None,
) -> LatticeLoss:
    """rnnt_weight * RNN-T loss + kd_weight * T^2 * KL from teacher to student over the lattice.

    Args:
        student: pieces of its joint network; receives gradient.
        teacher: pieces of the teacher's for the same utterances and labels; constant. Of what is stored:
            its projected encoder output makes such a Joint; CollapsedTargets for `collapsed`, PathTargets
            for `one_best`.
        labels: (B, L) integers without the blank; padding may hold anything.
        enc_lens: (B,) frames of each utterance.
        label_lens: (B,) labels of each utterance, 0 allowed.
        kind: what is compared:
            `full`, all V classes at every node;
            `collapsed`, next label, blank and all the rest as three classes at every node;
            `one_best`, all V classes at the nodes of the teacher's best alignment;
            `occupancy`, all V classes at every node, weighted by the teacher's posterior of the node;
            `alignments`, the distributions over the alignments of the labels; how probable the labels are
            does not count.
        rnnt_weight, kd_weight: factors; of a term of weight 0 the value is computed and no gradient; None
            leaves it out.
        delay: >= 0 frames by which the student may emit later: its node (t + delay, u) learns from the
            teacher's (t, u), its first frames learn nothing. `alignments` compares the student's lattice
            without its first frames with the teacher's without its last.
        temperature: T > 0 of both models' softmax in the teacher's term; best alignment and occupancy are the
            teacher's at 1. What is stored was softened when it was made, with the same T.
        blank: index of the blank.
        fastemit: as in rnnt_loss.
        reduction: `mean` over the batch of sums over the nodes, as ESPnet normalises; `sum`; `none`, (B,).
        normalize: `nodes` divides an utterance's KL by the number of nodes that it is summed over: for `full`
            and `collapsed` frames * (labels + 1), otherwise those on an alignment, frames + labels.
            `all_nodes` divides it by the mean of these numbers over the batch: with the reduction `mean` that
            is the mean over all nodes of the batch; it does not go with `none`.
        chunk: nodes whose logits are held at a time; the default suits the device.

    Returns:
        (loss, rnnt, kd) in float64 for a float64 student, else float32, under autocast too.

    Raises:
        ValueError: lengths, labels, the two lattices or options do not fit.

    Source:
        Full, one-best: Hwang et al. 2022, arXiv:2210.05793. Collapsed: Panchapagesan et al. 2021,
        arXiv:2011.06110. Alignments: L_soft of Chang et al., ICLR 2023, arXiv:2312.10087.
    """
    lattice = lattice_of(student, labels, enc_lens, label_lens, blank)
    for name, value in (("rnnt_weight", rnnt_weight), ("kd_weight", kd_weight)):
        if value is not None:
            check_number(name, value)
    check_number("fastemit", fastemit)
    check_number("temperature", temperature, above_zero=True)
    _check_options(kind, delay, normalize, reduction)
    _check_teacher(student, teacher, kind, lattice)
    _check_temperature(teacher, temperature)
    method = Distillation(
        teacher=_constant(teacher, student),
        kind=kind,
        weights=(rnnt_weight, kd_weight),
        fastemit=fastemit,
        delay=delay,
        temperature=float(temperature),
        normalize=normalize,
        chunk=chunk_size(chunk, student),
    )
    return reduced(student, lattice, method, reduction)


def _check_options(kind: str, delay: int, normalize: str | None, reduction: str) -> None:
    """Refuse what is not among the choices."""
    check_kind(kind)
    if normalize not in (None, *get_args(Normalize)):
        raise ValueError(f"normalize is {normalize!r}: use {', '.join(get_args(Normalize))}, or leave it out")
    if normalize == "all_nodes" and reduction == "none":
        raise ValueError("normalize 'all_nodes' is over the batch: use the reduction mean or sum, or 'nodes'")
    if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
        raise ValueError(f"delay is {delay!r}: give a number of frames, an integer of at least 0")


def _check_teacher(student: Joint, teacher: Teacher, kind: str, lattice: Lattice) -> None:
    """Refuse a teacher of another lattice or vocabulary, or stored targets of another kind."""
    kept_for = {CollapsedTargets: "collapsed", PathTargets: "one_best"}.get(type(teacher), kind)
    if kind != kept_for:
        raise ValueError(f"{type(teacher).__name__} serve the kind {kept_for}, not {kind}")
    if isinstance(teacher, PathTargets):
        _check_path(student, teacher, lattice)
        return
    if teacher.shape != student.shape:
        raise ValueError(
            f"the teacher's lattice (B, T, U) is {teacher.shape}, the student's {student.shape}: give both "
            "the same batch and labels, and the same subsampling; crop a frame or two to the shorter"
        )
    if isinstance(teacher, Joint) and teacher.classes != student.classes:
        raise ValueError(
            f"the teacher has {teacher.classes} classes, the student {student.classes}: "
            "train both models on the same token list"
        )


def _check_temperature(teacher: Teacher, temperature: float) -> None:
    """Refuse stored targets that were made at another temperature."""
    stored = None if isinstance(teacher, Joint) else teacher.temperature
    if stored not in (None, temperature):
        raise ValueError(
            f"the temperature is {temperature}, the stored targets were made at {stored}: use the same"
        )


def _check_path(student: Joint, targets: PathTargets, lattice: Lattice) -> None:
    """Refuse a path that leaves the student's lattice, or tokens outside its vocabulary."""
    batch = len(student.enc)
    if len(targets.tokens) != batch:
        raise ValueError(
            f"the path targets are of {len(targets.tokens)} utterances, the student's batch has {batch}"
        )
    for b, length in enumerate(targets.path.lengths):
        limits = {
            "frame": (targets.path.frames, lattice.frames[b]),
            "row": (targets.path.rows, lattice.rows[b]),
            "token": (targets.tokens, student.classes),
        }
        for name, (values, limit) in limits.items():
            used = values[b, :length]
            if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < limit:
                raise ValueError(
                    f"the path targets of utterance {b} have {name}s from {int(used.min())} to "
                    f"{int(used.max())}, but the student has 0 to {limit - 1}: they are of other labels, "
                    "frames or tokens"
                )


def _constant(teacher: Teacher, student: Joint) -> Teacher:
    """The teacher without gradient, in the type in which the student is computed."""
    dtype = torch.promote_types(student.enc.dtype, torch.float32)
    if isinstance(teacher, Joint):
        wide = teacher.map(lambda x: x.detach().to(dtype))
        # A class that is masked by -inf has probability 0, but 0 times -inf would be NaN.
        return replace(wide, bias=wide.bias.clamp(min=LEAST)).without_tanh()
    return replace(teacher, log_probs=teacher.log_probs.detach().to(dtype))
