"""Criteria that compare the class distributions of teacher and student, position by position.

Notation: p_T = softmax(teacher / T), q_T = softmax(student / T), T the temperature, sums over the V classes.
"""

import math
from typing import Literal

from torch import Tensor

from espnet_kd.criteria.criterion import Criterion, Reduction, check_choice, check_positive

Direction = Literal["forward", "reverse", "symmetric"]
LOG_ZERO = -1e4  # nats; stands for log 0, finite so that 0 log 0 is 0 and not NaN


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Log-softmax of (N, V) logits / temperature; a class of logit -inf, probability 0, gets LOG_ZERO."""
    log = (logits / temperature).log_softmax(-1)
    return log.masked_fill(log == -math.inf, LOG_ZERO)


class _Distribution(Criterion):
    """A criterion on softened distributions; temperature > 0, 1 leaves them as they are."""

    def __init__(self, temperature: float = 1.0, reduction: Reduction = "utterance") -> None:
        super().__init__(reduction)
        self.temperature: float = check_positive("temperature", temperature)


class KLDivergence(_Distribution):
    """Pull the student's distribution towards the teacher's: T^2 KL(p_T || q_T) in nats.

    Args:
        temperature: T > 0. The factor T^2 keeps the size of the gradient independent of T.
        direction: `forward` KL(teacher || student); `reverse` KL(student || teacher), which lets the student
            drop classes; `symmetric`, the mean of the two. A class of logit -inf counts as LOG_ZERO nats.
        reduction: see Criterion.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2.
    """

    def __init__(
        self, temperature: float = 1.0, direction: Direction = "forward", reduction: Reduction = "utterance"
    ) -> None:
        super().__init__(temperature, reduction)
        self.direction: Direction = check_choice("direction", direction, Direction)

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """(N, V) and (N, V) logits -> (N,) nats."""
        log_p = log_probabilities(target, self.temperature)
        log_q = log_probabilities(student, self.temperature)
        if self.direction == "forward":
            weight = log_p.exp()
        elif self.direction == "reverse":
            weight = -log_q.exp()
        else:
            weight = (log_p.exp() - log_q.exp()) / 2
        return self.temperature**2 * (weight * (log_p - log_q)).sum(-1)


class CrossEntropy(_Distribution):
    """Cross entropy with the teacher's distribution as soft label: -T^2 sum_v p_T(v) log q_T(v), in nats.

    Its gradient is that of the forward KL; its value is larger by T^2 times the teacher's entropy.

    Args:
        temperature: T > 0.
        reduction: see Criterion.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2.
    """

    exempt = {"zero_at_equality": "equals the teacher's entropy there; only the gradient is zero"}

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """(N, V) and (N, V) logits -> (N,) nats."""
        p = (target / self.temperature).softmax(-1)
        return -(self.temperature**2) * (p * log_probabilities(student, self.temperature)).sum(-1)


class SoftmaxL2(_Distribution):
    """Squared distance of the probabilities, sum_v (p_T(v) - q_T(v))^2, between 0 and 2.

    Bounded, unlike KL: CTC spikes that are a frame apart in teacher and student do not dominate the loss.

    Args:
        temperature: T > 0; the value is not multiplied by T^2.
        reduction: see Criterion.

    Source:
        Yoon et al. 2020, TutorNet, arXiv:2008.00671, softmax-level distillation.
    """

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """(N, V) and (N, V) logits -> (N,)."""
        p = (target / self.temperature).softmax(-1)
        q = (student / self.temperature).softmax(-1)
        return (p - q).square().sum(-1)
