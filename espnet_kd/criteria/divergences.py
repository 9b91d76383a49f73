"""Relatives of the KL divergence between the distributions of teacher and student.

Notation as in ``distribution.py``: p_T = softmax(teacher / T), q_T = softmax(student / T).
"""

from typing import Literal

import torch
from torch import Tensor

from espnet_kd.criteria.criterion import BLANK, Reduction, check_choice, check_positive, check_share
from espnet_kd.criteria.distribution import LOG_ZERO, TemperatureCriterion, log_mixture, log_probabilities

SkewDirection = Literal["forward", "reverse"]
TargetClass = Literal["blank", "top"]


class SkewKL(TemperatureCriterion):
    """KL divergence from a mixture of both sides: T^2 KL(p_T || a p_T + (1 - a) q_T) in nats.

    The mixture is nowhere much smaller than p, so that no class has a large gradient because the student
    leaves it out.

    Args:
        temperature: T > 0.
        alpha: a, the share of the first distribution in the mixture, above 0 and below 1.
        direction: `forward`, as above; `reverse`, T^2 KL(q_T || a q_T + (1 - a) p_T).
        label_smoothing: e, from 0 to below 1, as of `kl`: the target is (1 - e) p_T + e / V.
        reduction: see Criterion.

    Source:
        Ko et al. 2024, DistiLLM, arXiv:2402.03898, for language models.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        alpha: float = 0.1,
        direction: SkewDirection = "forward",
        label_smoothing: float = 0.0,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(temperature, label_smoothing, reduction)
        self.alpha = check_share("alpha", alpha)
        self.direction: SkewDirection = check_choice("direction", direction, SkewDirection)

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, V) and (N, V) logits -> (N,) nats."""
        first, second = (log_probabilities(x, self.temperature) for x in (target, student))
        if self.direction == "reverse":
            first, second = second, first
        mixture = log_mixture(first, second, self.alpha)
        return self.temperature**2 * (first.exp() * (first - mixture)).sum(-1)


class JensenShannon(TemperatureCriterion):
    """Generalised Jensen-Shannon divergence: T^2 (b KL(p_T || m) + (1 - b) KL(q_T || m)) in nats.

    m is the mixture b p_T + (1 - b) q_T. The value is at most T^2 times the entropy of (b, 1 - b) in nats.

    Args:
        temperature: T > 0.
        beta: b, above 0 and below 1; 1/2 is the usual Jensen-Shannon divergence. Near 0 the gradient is that
            of the forward KL times b, near 1 that of the reverse KL times 1 - b.
        label_smoothing: e, from 0 to below 1, as of `kl`: the target is (1 - e) p_T + e / V.
        reduction: see Criterion.

    Source:
        Agarwal et al. 2024, generalised knowledge distillation, arXiv:2306.13649, for language models.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        beta: float = 0.5,
        label_smoothing: float = 0.0,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(temperature, label_smoothing, reduction)
        self.beta = check_share("beta", beta)

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, V) and (N, V) logits -> (N,) nats."""
        log_p, log_q = (log_probabilities(x, self.temperature) for x in (target, student))
        mixture = log_mixture(log_p, log_q, self.beta)
        ours, theirs = ((x.exp() * (x - mixture)).sum(-1) for x in (log_q, log_p))
        return self.temperature**2 * (self.beta * theirs + (1 - self.beta) * ours)


class AdaptiveKL(TemperatureCriterion):
    """Forward and reverse KL divergence, weighted by where the student is wrong, at each position.

    T^2 (w KL(p_T || q_T) + (1 - w) KL(q_T || p_T)) in nats. w is the share that the head, the teacher's most
    probable classes, has in the sum of |p_T(v) - q_T(v)| over all classes. The forward KL learns the head
    first, the reverse KL the tail. The weights are constant in the gradient.

    Args:
        temperature: T > 0.
        head: m, above 0 and below 1: the head is as many of the most probable classes as have a sum of
            probabilities of at most m, and at least one.
        label_smoothing: e, from 0 to below 1, as of `kl`: the target is (1 - e) p_T + e / V.
        reduction: see Criterion.

    Source:
        Wu et al. 2024, arXiv:2404.02657, for language models. The head, its least size and the constant
        weights are those of the authors' code, which has m = 1/2.
    """

    exempt = {"finite_differences": "the weights are constant in the gradient"}

    def __init__(
        self,
        temperature: float = 1.0,
        head: float = 0.5,
        label_smoothing: float = 0.0,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(temperature, label_smoothing, reduction)
        self.head = check_share("head", head)

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, V) and (N, V) logits -> (N,) nats."""
        log_p, log_q = (log_probabilities(x, self.temperature) for x in (target, student))
        p, q, gap = log_p.exp(), log_q.exp(), log_p - log_q
        share = self.share_of_head(p, q.detach())
        return self.temperature**2 * (share * (p * gap).sum(-1) - (1 - share) * (q * gap).sum(-1))

    def share_of_head(self, p: Tensor, q: Tensor) -> Tensor:
        """Return w from (N, V) probabilities of teacher and student: (N,); 0 where they are equal."""
        ordered, order = p.sort(-1, descending=True)
        errors = (ordered - q.gather(-1, order)).abs()
        tail = ordered.cumsum(-1) > self.head
        tail[..., 0] = False
        total = errors.sum(-1).clamp(min=torch.finfo(errors.dtype).tiny)
        return errors.masked_fill(tail, 0.0).sum(-1) / total


class DecoupledKL(TemperatureCriterion):
    """KL divergence in two parts: target class or not, and which class if not; each with a weight of its own.

    T^2 (a KL((p_t, 1 - p_t) || (q_t, 1 - q_t)) + b KL(p' || q')), p' and q' the distributions over the
    other classes. The KL divergence is a = 1 and b = 1 - p_t, which is small where the teacher is sure.

    Args:
        temperature: T > 0.
        target_class: t, `blank` of CTC, class 0; or `top`, the teacher's most probable class.
        alpha: a > 0.
        beta: b > 0.
        label_smoothing: e, from 0 to below 1, as of `kl`: the target is (1 - e) p_T + e / V.
        reduction: see Criterion.

    Source:
        Zhao et al. 2022, decoupled knowledge distillation, arXiv:2203.08679, for images: t is the label.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        target_class: TargetClass = "blank",
        alpha: float = 1.0,
        beta: float = 1.0,
        label_smoothing: float = 0.0,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(temperature, label_smoothing, reduction)
        self.target_class: TargetClass = check_choice("target_class", target_class, TargetClass)
        self.of_blank = target_class == "blank"
        self.alpha, self.beta = check_positive("alpha", alpha), check_positive("beta", beta)

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, V) and (N, V) logits -> (N,) nats."""
        chosen = target.argmax(-1, keepdim=True)
        if self.target_class == "blank":
            chosen = torch.full_like(chosen, BLANK)
        (p, others_p), (q, others_q) = (self._parts(x, chosen) for x in (target, student))
        whether = (p.exp() * (p - q)).sum(-1)
        which = (others_p.exp() * (others_p - others_q)).sum(-1)
        return self.temperature**2 * (self.alpha * whether + self.beta * which)

    def _parts(self, logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of target class and rest, (N, 2), and of the others, (N, V)."""
        others = (logits / self.temperature).scatter(-1, chosen, -torch.inf)
        excluded = others == -torch.inf
        alone = excluded.all(-1, keepdim=True)
        others = others.masked_fill(alone, 0.0)  # a sum of nothing has no gradient, and gives NaN
        rest = others.logsumexp(-1, keepdim=True)
        pair = [logits.gather(-1, chosen) / self.temperature, rest.masked_fill(alone, -torch.inf)]
        both = torch.cat(pair, -1).log_softmax(-1).clamp(min=LOG_ZERO)
        # The chosen class counts as equal on both sides; if all others are impossible, so are they.
        return both, (others - rest).masked_fill(excluded, LOG_ZERO)
