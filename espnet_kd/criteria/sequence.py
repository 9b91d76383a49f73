"""A criterion on the probability of whole label sequences under CTC; transducers: see ``transducer.py``."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_kd.criteria.criterion import BLANK, Criterion, Reduction, check_choice
from espnet_kd.rnnt import Joint, SequenceScores, sequence_distance, sequence_scores
from espnet_kd.rnnt.device import to_device
from espnet_kd.rnnt.sequence import Distance

ABSENT = -5e3  # a class whose log-probability is below this in all frames is one that the model does not have


class Transcript(NamedTuple):
    """Labels and lengths, which decide which nodes of a lattice are real; takes the place of a mask.

    Attributes:
        labels: (B, L) integers without the blank; padding may hold anything. (B, H, L) for H hypotheses.
        enc_lens: (B,) number of frames.
        label_lens: (B,) number of labels, or (B, H).
    """

    labels: Tensor
    enc_lens: Tensor
    label_lens: Tensor


class SequenceDistance(Criterion):
    """Pull the probability that the student gives to the label sequence to the teacher's.

    What is compared is log P(y | x), summed over all alignments of CTC: student and teacher may have other
    frame rates, subsampling and kinds of model. Where the student is less sure of the labels than its
    teacher, `l1` has the gradient of the CTC loss; where it is surer, the opposite.

    Args:
        distance: `l1`, the absolute difference of the log-probabilities, in nats; `mse`, its square.
        reduction: see Criterion; an utterance is one position.

    Source:
        The quantity is that of full-sum distillation, Zeineldeen et al. 2023, arXiv:2303.05958, there for
        transducers. Read: the abstract. The paper's distance is not verified.
    """

    needs = "sequence"
    kind = "sequence"

    def __init__(self, distance: Distance = "l1", reduction: Reduction = "utterance") -> None:
        super().__init__(reduction)
        self.distance: Distance = check_choice("distance", distance, Distance)

    def forward(  # type: ignore[override]  # labels take the place of a mask
        self, student: Tensor, target: SequenceScores, mask: Transcript
    ) -> Tensor:
        """Compare (B, T, V) logits of CTC with the teacher's log-probabilities of the same labels.

        Args:
            student: receives gradient.
            target: (B,) of the labels; or (B, H) of H hypotheses, whose posteriors are compared then: see
                sequence_distance.
            mask: labels and lengths, the lengths on the host.

        Returns:
            Scalar, float64 for a float64 student, else float32, under autocast too.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        scores = ctc_log_probs(student, *mask)
        values = sequence_distance(scores, target.log_probs.detach().to(scores), self.distance)
        return values.sum() if self.reduction == "sum" else values.mean()


def ctc_log_probs(logits: Tensor, labels: Tensor, enc_lens: Tensor, label_lens: Tensor) -> Tensor:
    """Compute log P(y | x) under CTC, with the blank at class 0; -inf for labels that are impossible.

    These are labels that do not fit the frames, or have a class that the model does not have, as of a teacher
    of fewer tokens.

    Args:
        logits: (B, T, V); receives gradient.
        labels: (B, L) integers, or (B, H, L) for H hypotheses; padding may hold anything.
        enc_lens: (B,) frames, on the host.
        label_lens: (B,) or (B, H) numbers of labels, on the host.

    Returns:
        (B,) or (B, H) nats, float64 for float64 logits, else float32, under autocast too.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if logits.dim() != 3 or labels.shape[:-1] != label_lens.shape or len(labels) != len(logits):
        raise ValueError(
            f"student {tuple(logits.shape)}, labels {tuple(labels.shape)} and their numbers "
            f"{tuple(label_lens.shape)} do not fit: give (B, T, V), (B, L) and (B,)"
        )
    device, hypotheses = logits.device, label_lens[0].numel()
    frames, counts = enc_lens.cpu(), label_lens.cpu().flatten()
    real = torch.arange(logits.shape[1]) < frames[:, None]
    with torch.autocast(device.type, enabled=False):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        wide = wide.masked_fill(~to_device(real, device)[..., None], 0.0)
        log_probs = wide.log_softmax(-1).repeat_interleave(hypotheses, 0).transpose(0, 1)  # (T, B * H, V)
        used = torch.arange(labels.shape[-1]) < counts[:, None]
        y = to_device(labels, device).flatten(0, -2).long().masked_fill(~to_device(used, device), BLANK)
        frames = frames.repeat_interleave(hypotheses)
        t: Any = frames.tolist()  # as lists, which torch takes, too: nothing waits for numbers of the host
        u: Any = counts.tolist()
        of_labels = log_probs.detach().gather(2, y.expand(len(log_probs), -1, -1))  # (T, B * H, L)
        padding = torch.arange(logits.shape[1])[:, None] >= frames
        highest = of_labels.masked_fill(to_device(padding, device)[..., None], -torch.inf).amax(0)
        known = ((highest > ABSENT) | ~to_device(used, device)).all(1)
        nats = F.ctc_loss(log_probs, y, t, u, blank=BLANK, reduction="none", zero_infinity=True)
        repeats = ((y[:, 1:] == y[:, :-1]) & (y[:, 1:] != BLANK)).sum(1)  # a blank is between equal labels
        fits = known & (to_device(frames - counts, device) >= repeats)
        return torch.where(fits, -nats, -torch.inf).view(label_lens.shape)


@torch.no_grad()
def ctc_emission_frames(logits: Tensor, labels: list[int]) -> list[int]:
    """Find the frame at which the most probable alignment of CTC emits each label of one utterance.

    Args:
        logits: (T, V), the blank at class 0.
        labels: L of them, without the blank.

    Returns:
        The first frame of every label; empty if they do not fit the frames, or have probability 0.

    Raises:
        ValueError: the model computes NaN.
    """
    scores = logits.detach().cpu().double().log_softmax(-1)
    repeats = sum(one == other for one, other in zip(labels, labels[1:], strict=False))
    if scores.isnan().any():
        raise ValueError("the model computes NaN: look for parameters or speech samples that are not finite")
    if len(labels) + repeats > len(scores):
        return []
    states = [BLANK, *(label for pair in zip(labels, [BLANK] * len(labels), strict=True) for label in pair)]
    # A label may follow another without a blank between, unless they are equal.
    skips = [i > 1 and state != BLANK and state != states[i - 2] for i, state in enumerate(states)]
    closed = torch.where(torch.tensor(skips), 0.0, -torch.inf)
    emitted, best = scores[:, states], torch.full((len(states),), -torch.inf, dtype=scores.dtype)
    best[:2] = emitted[0, :2]
    moves = []
    for frame in emitted[1:]:
        come = torch.stack([best, *(torch.full_like(best, -torch.inf) for _ in range(2))])
        come[1, 1:], come[2, 2:] = best[:-1], best[:-2]
        come[2] += closed
        best, move = come.max(0)
        best = best + frame
        moves.append(move.tolist())
    if best[-2:].max() == -torch.inf:
        return []
    state = len(states) - 1 if best[-1] > best[-2:].min() or len(states) == 1 else len(states) - 2
    first = {state: 0}
    for t in range(len(moves), 0, -1):
        before = state - moves[t - 1][state]
        if before != state:
            first[state], state = t, before
    first[state] = 0
    return [first[2 * i + 1] for i in range(len(labels))]


def scores_of(
    values: Tensor | Joint | SequenceScores, enc_lens: Tensor, labels: Tensor, label_lens: Tensor
) -> SequenceScores:
    """Compute a teacher's log-probabilities of the labels from what it gives, without gradient.

    Args:
        values: (B, T, V) logits of CTC, the tensors of a joint network, or scores, which are returned.
        enc_lens: (B,) the teacher's frames, on the host.
        labels: (B, L); padding may hold anything.
        label_lens: (B,), on the host.
    """
    if isinstance(values, SequenceScores):
        return values
    if isinstance(values, Joint):
        return sequence_scores(values, labels, enc_lens, label_lens)
    with torch.no_grad():
        return SequenceScores(ctc_log_probs(values.detach(), labels, enc_lens, label_lens))
