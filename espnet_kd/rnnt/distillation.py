"""Compute the RNN-T loss and distillation in the same passes over the lattice."""

from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs
from espnet_kd.rnnt.compact import CollapsedTargets, OneBestTargets
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.kinds import DistillationTerms, Kind, Normalize, Weight, check_kind
from espnet_kd.rnnt.lattice import Lattice, lattice_of
from espnet_kd.rnnt.loss import check_number, chunk_size
from espnet_kd.rnnt.path import alignment_lattice
from espnet_kd.rnnt.scalar import LatticeLoss, Reduction, reduce_terms
from espnet_kd.rnnt.sequence import Distance, SequenceScores, sequence_scores

Teacher = Joint | CollapsedTargets | OneBestTargets | SequenceScores
LEAST = -1e30  # replaces a teacher's bias of -inf; finite, and its exponential is 0


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
    distance: Distance = "l1",
    known: CollapsedTargets | None = None,
) -> LatticeLoss:
    """Compute rnnt_weight * RNN-T loss + kd_weight * T^2 * KL(teacher || student) over the lattice.

    Args:
        student: tensors of the student's joint network; receives gradient.
        teacher: tensors of the teacher's joint network for the same utterances and labels; constant. Instead
            of a joint network, stored targets: CollapsedTargets for the kind `collapsed`, OneBestTargets for
            `one_best`, SequenceScores for `sequence`, whose model may have any frames of its own. Scores
            (B, H) are of H hypotheses of each utterance, which are B * H utterances of the student.
        labels: (B, L) integers without the blank; padding may hold anything.
        enc_lens: (B,) frames of each utterance.
        label_lens: (B,) labels of each utterance, 0 allowed.
        kind: what is compared:
            `full`, all V classes at every node;
            `collapsed`, three classes at every node: the next label, the blank, all others together;
            `one_best`, all V classes at the nodes of the teacher's best alignment;
            `occupancy`, all V classes at every node, weighted by the teacher's posterior of the node;
            `alignments`, the distributions over the alignments, given the labels; the probability of the
            labels themselves is not compared;
            `sequence`, the log-probabilities of the labels, in place of the KL: see sequence_distance. It has
            no nodes and no softmax of its own, thus no delay, temperature and normalize.
        rnnt_weight, kd_weight: factors; a term of weight 0 has a value but no gradient; None leaves the term
            out.
        delay: >= 0 frames by which the student may emit later: its node (t + delay, u) learns from the
            teacher's (t, u), its first frames learn nothing. `alignments` compares the student's lattice
            without its first frames with the teacher's without its last.
        temperature: T > 0, the softmax divisor of both models in the KL; the teacher's best alignment and
            occupancy are computed at 1. Stored targets must have been made with the same T.
        blank: index of the blank.
        fastemit: as in rnnt_loss.
        reduction: `mean` over the batch of sums over the nodes, as ESPnet normalises; `sum`; `none`, (B,).
        normalize: `nodes` divides an utterance's KL by the number of nodes that it is summed over: for `full`
            and `collapsed` frames * (labels + 1), otherwise those on an alignment, frames + labels.
            `all_nodes` divides by the mean of these numbers over the batch; with the reduction `mean` this
            gives the mean over all nodes of the batch. It cannot be combined with the reduction `none`.
        chunk: nodes whose logits are held at a time; the default suits the device.
        distance: `l1` or `mse`, for the kind `sequence`.
        known: collapsed_targets of the student for these labels at the temperature 1, where they have been
            computed: a pass over its lattice is saved.

    Returns:
        (loss, rnnt, kd) in float64 for a float64 student, else float32, under autocast too.

    Raises:
        ValueError: lengths, labels, the two lattices or the options do not fit each other.

    Source:
        Full, one-best: Hwang et al. 2022, arXiv:2210.05793. Collapsed: Panchapagesan et al. 2021,
        arXiv:2011.06110. Alignments: L_soft of Chang et al., ICLR 2023, arXiv:2312.10087. Sequence:
        full-sum distillation of Zeineldeen et al. 2023, arXiv:2303.05958, by its abstract; the paper's
        distance of the two probabilities is not verified.
    """
    lattice = lattice_of(student, labels, enc_lens, label_lens, blank)
    for name, value in (("rnnt_weight", rnnt_weight), ("kd_weight", kd_weight)):
        if value is not None:
            check_number(name, value)
    check_number("fastemit", fastemit)
    check_number("temperature", temperature, above_zero=True)
    _check_options(kind, delay, normalize, reduction)
    if kind == "sequence":
        _check_sequence(delay, temperature, normalize, distance)
    _check_teacher(student, teacher, kind, lattice)
    if reduction == "none" and isinstance(teacher, SequenceScores) and teacher.log_probs.dim() == 2:
        raise ValueError(
            "a list of hypotheses has one value, not one for each: use the reduction mean or sum"
        )
    _check_temperature(teacher, temperature)
    chunk = chunk_size(chunk, student)
    if kind == "sequence" and isinstance(teacher, Joint):
        teacher = sequence_scores(teacher, labels, enc_lens, label_lens, blank=blank, chunk=chunk)
    terms = DistillationTerms(
        teacher=_without_padding(_constant(teacher, student), lattice, chunk),
        kind=kind,
        weights=(rnnt_weight, kd_weight),
        fastemit=fastemit,
        delay=delay,
        temperature=float(temperature),
        normalize=normalize,
        chunk=chunk,
        distance=distance,
        arcs=None if known is None else _arcs(known, lattice),
    )
    return reduce_terms(student, lattice, terms, reduction)


def _check_options(kind: str, delay: int, normalize: str | None, reduction: str) -> None:
    """Check the options that do not depend on the batch.

    Raises:
        ValueError: an option has an unknown value, or two options contradict each other.
    """
    check_kind(kind)
    if normalize not in (None, *get_args(Normalize)):
        raise ValueError(
            f"normalize is {normalize!r}: use {' or '.join(get_args(Normalize))}, or leave it out"
        )
    if normalize == "all_nodes" and reduction == "none":
        raise ValueError(
            "normalize 'all_nodes' averages over the batch, reduction 'none' gives one value per utterance: "
            "use the reduction mean or sum, or normalize 'nodes'"
        )
    if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
        raise ValueError(f"delay is {delay!r}: give a number of frames, an integer of at least 0")


def _check_sequence(delay: int, temperature: float, normalize: str | None, distance: str) -> None:
    """Check the options of the kind `sequence`.

    Raises:
        ValueError: one has no meaning where whole label sequences are compared, or the distance is unknown.
    """
    if distance not in get_args(Distance):
        raise ValueError(f"distance is {distance!r}: use {' or '.join(get_args(Distance))}")
    for name, value, plain in (
        ("delay", delay, 0), ("temperature", temperature, 1), ("normalize", normalize, None)
    ):  # fmt: skip
        if value != plain:
            raise ValueError(
                f"{name} is {value!r}, but the kind sequence compares whole label sequences, without nodes "
                f"and temperatures: leave {name} out"
            )


def _check_teacher(student: Joint, teacher: Teacher, kind: str, lattice: Lattice) -> None:
    """Check that the teacher has the student's lattice and vocabulary, and that stored targets fit the kind.

    Raises:
        ValueError: one of these differs.
    """
    kept = {CollapsedTargets: "collapsed", OneBestTargets: "one_best", SequenceScores: "sequence"}
    kept_for = kept.get(type(teacher), kind)
    if kind != kept_for:
        raise ValueError(
            f"the stored targets are {type(teacher).__name__}, for the kind {kept_for}, but the kind is "
            f"{kind}: write targets of this kind, or change the kind"
        )
    if isinstance(teacher, OneBestTargets):
        _check_alignment(student, teacher, lattice)
        return
    if isinstance(teacher, SequenceScores):
        scores = teacher.log_probs
        if scores.dim() not in (1, 2) or scores.numel() != len(student.enc):
            raise ValueError(
                f"the teacher has scores of shape {tuple(scores.shape)}, the student's batch has "
                f"{len(student.enc)} utterances: give one score for each"
            )
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
    """Check that stored targets were made at this temperature.

    Raises:
        ValueError: they were made at another one.
    """
    stored = None if isinstance(teacher, Joint | SequenceScores) else teacher.temperature
    if stored not in (None, temperature):
        raise ValueError(
            f"the temperature is {temperature}, but the stored targets were made at {stored}: use that, or "
            "write the targets anew"
        )


def _check_alignment(student: Joint, targets: OneBestTargets, lattice: Lattice) -> None:
    """Check that the alignment stays inside the student's lattice, and the tokens inside its vocabulary.

    Raises:
        ValueError: a frame, row or token is out of range, or the number of utterances differs.
    """
    batch = len(student.enc)
    if targets.tokens.device.type != "cpu":
        return  # the host would have to wait for the numbers; rows of a store are checked before
    if len(targets.tokens) != batch:
        raise ValueError(
            f"the stored targets have {len(targets.tokens)} utterances, the student's batch has {batch}: "
            "give both the same utterances"
        )
    for b, length in enumerate(targets.alignment.lengths):
        limits = {
            "frame": (targets.alignment.frames, lattice.frames[b]),
            "row": (targets.alignment.rows, lattice.rows[b]),
            "token": (targets.tokens, student.classes),
        }
        for name, (values, limit) in limits.items():
            used = values[b, :length]
            if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < limit:
                raise ValueError(
                    f"the stored targets of utterance {b} have {name}s from {int(used.min())} to "
                    f"{int(used.max())}, but the student has 0 to {limit - 1}: write targets for the same "
                    "labels, frame rate and token list"
                )


def _constant(teacher: Teacher, student: Joint) -> Teacher:
    """Detach the teacher and convert it to the dtype in which the student is computed."""
    dtype = torch.promote_types(student.enc.dtype, torch.float32)
    if isinstance(teacher, Joint):
        wide = teacher.map(lambda x: x.detach().to(dtype))
        # A class that is masked by -inf has probability 0, but 0 times -inf would be NaN.
        return replace(wide, bias=wide.bias.clamp(min=LEAST)).without_tanh()
    if isinstance(teacher, SequenceScores):
        return SequenceScores(teacher.log_probs.detach())
    return replace(teacher, log_probs=teacher.log_probs.detach().to(dtype))


def _arcs(known: CollapsedTargets, lattice: Lattice) -> Arcs:
    """Return the log-probabilities of the student's arcs, -inf in the padding, which may hold anything."""
    label, blank, _ = known.log_probs.masked_fill(~lattice.real()[..., None], -torch.inf).unbind(-1)
    return Arcs(blank, label)


def _without_padding(teacher: Teacher, lattice: Lattice, chunk: int) -> Teacher:
    """Replace what the padding holds by numbers, if blocks of several utterances contain padding."""
    if isinstance(teacher, SequenceScores):
        return teacher
    if isinstance(teacher, Joint):
        return lattice.without_padding(teacher, chunk)
    if isinstance(teacher, OneBestTargets):
        nodes = alignment_lattice(teacher.alignment, lattice.blank)
    else:
        nodes = lattice
    if not nodes.has_padding(chunk):
        return teacher
    padding = ~nodes.real()
    if isinstance(teacher, CollapsedTargets):
        return replace(teacher, log_probs=teacher.log_probs.masked_fill(padding[..., None], -torch.inf))
    tokens = teacher.tokens.masked_fill(padding, 0)  # (B, P, 1), over the K tokens
    return replace(teacher, tokens=tokens, log_probs=teacher.log_probs.masked_fill(padding, 0.0))
