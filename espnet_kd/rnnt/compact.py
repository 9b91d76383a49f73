"""Targets on a lattice that are small enough to be stored."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Alignment

Tail = Literal["drop", "other"]


@dataclass(frozen=True)
class CollapsedTargets:
    """Log-probabilities of the next label, the blank and all other classes, for the kind `collapsed`.

    Attributes:
        log_probs: (B, T, U, 3); -inf for the label of the last row; padding may hold anything.
        temperature: of the softmax that made them; None if unknown.
    """

    log_probs: Tensor
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            ValueError: the shape is not (B, T, U, 3).
        """
        if self.log_probs.dim() != 4 or self.log_probs.shape[-1] != 3:
            raise ValueError(f"collapsed targets {tuple(self.log_probs.shape)} are not (B, T, U, 3)")

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (B, T, U), the shape of the lattice."""
        return tuple(self.log_probs.shape[:3])

    def utterance(self, number: int) -> "CollapsedTargets":
        """Return the targets of one utterance, as a batch of one."""
        return CollapsedTargets(self.log_probs[number : number + 1], self.temperature)


@dataclass(frozen=True)
class OneBestTargets:
    """The K most probable classes at the nodes of the teacher's best alignment, for the kind `one_best`.

    Attributes:
        alignment: the teacher's best alignment.
        tokens: (B, P, K) int64, different classes at a node.
        log_probs: (B, P, K) log-probabilities of these tokens.
        tail: what becomes of the probability outside the K classes: `drop` ignores it, `other` makes it the
            probability of one more class.
        renorm: whether the K probabilities are divided by their sum; only with the tail `drop`.
        temperature: of the softmax that made them; None if unknown.
    """

    alignment: Alignment
    tokens: Tensor
    log_probs: Tensor
    tail: Tail = "drop"
    renorm: bool = True
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Check shapes and options.

        Raises:
            ValueError: the shapes do not fit each other, or the tail is unknown.
        """
        tokens, log_probs = tuple(self.tokens.shape), tuple(self.log_probs.shape)
        nodes, rows = tuple(self.alignment.frames.shape), tuple(self.alignment.rows.shape)
        if tokens != log_probs or len(tokens) != 3 or tokens[:2] != nodes or nodes != rows:
            raise ValueError(
                f"tokens {tokens} and log_probs {log_probs} are not (B, P, K) for an alignment {nodes}"
            )
        if self.tail not in get_args(Tail):
            raise ValueError(f"tail is {self.tail!r}: use one of {', '.join(get_args(Tail))}")

    def classes(self) -> Tensor:
        """Return (B, P, K + 1) log-probabilities; the last is that of all other classes, -inf if dropped."""
        log_probs = self.log_probs
        if self.tail == "other":
            kept = log_probs.double().exp().sum(-1, keepdim=True).clamp(max=1.0)
            return torch.cat([log_probs, (1.0 - kept).log().to(log_probs)], -1)
        if self.renorm:
            log_probs = log_probs.log_softmax(-1)
        return torch.nn.functional.pad(log_probs, (0, 1), value=-torch.inf)

    def utterance(self, number: int) -> "OneBestTargets":
        """Return the targets of one utterance, as a batch of one."""
        one = slice(number, number + 1)
        alignment = Alignment(
            self.alignment.frames[one], self.alignment.rows[one], self.alignment.lengths[one]
        )
        tokens, log_probs = self.tokens[one], self.log_probs[one]
        return OneBestTargets(alignment, tokens, log_probs, self.tail, self.renorm, self.temperature)
