"""Essence distillation: of the teacher's distribution only the K most probable classes count."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from espnet_kd.criteria.criterion import (
    Criterion,
    Reduction,
    check_choice,
    check_positive,
    check_size,
    select,
)
from espnet_kd.criteria.distribution import LOG_ZERO, log_probabilities

Tail = Literal["drop", "other"]


@dataclass(frozen=True)
class TopClasses:
    """The most probable classes at every position, best first.

    Attributes:
        tokens: (B, *P, K) int64.
        log_probs: (B, *P, K) their log-probabilities among all V classes, softened by the temperature.
    """

    tokens: Tensor
    log_probs: Tensor

    @property
    def shape(self) -> torch.Size:
        """(B, *P, K)."""
        return self.log_probs.shape

    def __getitem__(self, key: Any) -> "TopClasses":
        """Some of the positions or classes."""
        return TopClasses(self.tokens[key], self.log_probs[key])


def top_classes(logits: Tensor, k: int, temperature: float = 1.0) -> TopClasses:
    """The k most probable classes of softmax(logits / temperature), (*, V) logits."""
    found = log_probabilities(logits, temperature).topk(k)
    return TopClasses(found.indices, found.values)


class TopK(Criterion):
    """Cross entropy with what the teacher's K most probable classes hold: -T^2 sum_{v in S} p(v) log q_T(v).

    The student's q is over all V classes. With K = V it is CrossEntropy.

    Args:
        k: K, from 1 to V.
        renorm: p is divided by its sum over S, so that it sums to 1; with `tail: other` it does anyhow.
        tail: `drop`: the classes outside S count as nothing; `other`: all together, as one more class, of
            which K = V leaves none.
        temperature: T > 0.
        reduction: see Criterion.

    Source:
        Yang et al. 2019, arXiv:1906.10834; there the positions are frames of a hybrid acoustic model, here
        CTC frames or decoder steps. Renormalisation, K, T and the tail are not verified against the paper.
    """

    exempt = {"zero_at_equality": "as CrossEntropy; without the dropped classes equality is no minimum"}

    def __init__(
        self,
        k: int = 8,
        renorm: bool = True,
        tail: Tail = "drop",
        temperature: float = 1.0,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(reduction)
        self.k: int = check_size("k", k)
        if not isinstance(renorm, bool):
            raise ValueError(f"renorm is {renorm!r}: give true or false")
        self.renorm = renorm
        self.tail: Tail = check_choice("tail", tail, Tail)
        self.temperature: float = check_positive("temperature", temperature)

    def check_sizes(self, student: Tensor, target: Tensor | TopClasses) -> None:
        """See Criterion; a target of TopClasses needs at least k of them."""
        if isinstance(target, Tensor):
            super().check_sizes(student, target)
        sizes = f"student {tuple(student.shape)} and target {tuple(target.shape)}"
        if self.k > min(student.shape[-1], target.shape[-1]):
            raise ValueError(f"k is {self.k}, but {sizes} have fewer classes (last axis): make it smaller")

    def constant(  # type: ignore[override]  # classes of what is stored, or of logits
        self, target: Tensor | TopClasses, positions: Tensor, dtype: torch.dtype
    ) -> TopClasses:
        """(N, K) of the real positions."""
        if isinstance(target, Tensor):
            return top_classes(super().constant(target, positions, dtype), self.k, self.temperature)
        kept = target[..., : self.k]
        log_probs = select(kept.log_probs.detach(), positions, dtype)
        return TopClasses(select(kept.tokens, positions, torch.int64), log_probs)

    def per_position(self, student: Tensor, target: TopClasses) -> Tensor:  # type: ignore[override]
        """(N, V) logits and (N, K) -> (N,) nats."""
        log_q = log_probabilities(student, self.temperature)
        p = target.log_probs.softmax(-1) if self.renorm and self.tail == "drop" else target.log_probs.exp()
        entropy = -(p * log_q.gather(-1, target.tokens)).sum(-1)
        if self.tail == "other" and target.tokens.shape[-1] < log_q.shape[-1]:
            # Without other classes 1 - sum would be rounding, times LOG_ZERO.
            # Summed up rather than 1 - sum over S, of which float32 leaves nothing where the student is sure.
            rest = log_q.scatter(-1, target.tokens, LOG_ZERO).logsumexp(-1)
            entropy = entropy - (1 - p.sum(-1)).clamp(min=0) * rest
        return self.temperature**2 * entropy
