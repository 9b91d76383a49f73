"""Compare the probability of whole label sequences, which depends on neither frames nor alignments."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import log_likelihood
from espnet_kd.rnnt.device import full_precision
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import lattice_of
from espnet_kd.rnnt.loss import chunk_size
from espnet_kd.rnnt.sweep import arc_scores

Distance = Literal["l1", "mse"]
LEAST = -1e30  # replaces log 0; finite, and its exponential is 0


@dataclass(frozen=True)
class SequenceScores:
    """The teacher's log-probabilities of label sequences, log P(y | x) in nats, for the kind `sequence`.

    Attributes:
        log_probs: (B,) of the labels of each utterance, or (B, H) of H hypotheses of each; -inf for a
            sequence that no alignment gives.
    """

    log_probs: Tensor

    def utterance(self, number: int) -> "SequenceScores":
        """Return the scores of one utterance, as a batch of one."""
        return SequenceScores(self.log_probs[number : number + 1])


@torch.no_grad()
def sequence_scores(
    joint: Joint,
    labels: Tensor,
    enc_lens: Tensor,
    label_lens: Tensor,
    *,
    blank: int = 0,
    chunk: int | None = None,
) -> SequenceScores:
    """Compute log P(y | x) of the labels, summed over all alignments, (B,) float64 without gradient.

    Arguments and errors are those of rnnt_loss; frames and lengths are this model's own.
    """
    lattice = lattice_of(joint, labels, enc_lens, label_lens, blank)
    dtype, chunk = torch.promote_types(joint.enc.dtype, torch.float32), chunk_size(chunk, joint)
    with full_precision(joint.enc.device):
        wide = joint.map(lambda x: x.detach().to(dtype))
        finite = wide.with_tensors(wide.enc, wide.dec, wide.weight, wide.bias.clamp(min=LEAST))
        clean = lattice.without_padding(finite.without_tanh(), chunk)
        (arcs,) = arc_scores(clean, lattice, chunk)
        total = log_likelihood(arcs, lattice)
        return SequenceScores(total.masked_fill(total < LEAST / 2, -math.inf))


def sequence_distance(student: Tensor, teacher: Tensor, distance: Distance = "l1") -> Tensor:
    """Compare the log-probabilities that student and teacher give to the same label sequences.

    A sequence that is impossible on either side counts for nothing.

    Args:
        student: (B,) or (B, H) log P(y | x) in nats; receives gradient.
        teacher: the same of the teacher; constant.
        distance: of one sequence, `l1` |log P_T - log P_S| or `mse` (log P_T - log P_S)^2. Of H > 1
            hypotheses the posteriors over the list are compared instead, KL(p_T || p_S) with
            p(h) = P(y_h | x) / sum_k P(y_k | x).

    Returns:
        (B,)

    Raises:
        ValueError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student has scores of shape {tuple(student.shape)}, the teacher {tuple(teacher.shape)}: "
            "give both for the same utterances and hypotheses"
        )
    possible = (student > -math.inf) & (teacher > -math.inf)  # NaN counts as impossible
    if student.dim() == 2 and student.shape[1] > 1:
        log_q, log_p = (x.masked_fill(~possible, LEAST).log_softmax(-1) for x in (student, teacher.detach()))
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    gap = torch.where(possible, teacher.detach() - torch.where(possible, student, 0.0), 0.0).flatten()
    return gap.abs() if distance == "l1" else gap.square()
