"""What a teacher says about a lattice in a form that is small enough to keep."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Path

Tail = Literal["drop", "other"]


@dataclass(frozen=True)
class CollapsedTargets:
    """Log-probabilities of next label, blank and all the rest, for the kind `collapsed`.

    Attributes:
        log_probs: (B, T, U, 3); -inf for the label of the last row; padding may hold anything.
        temperature: of the softmax that made them; None if unknown.
    """

    log_probs: Tensor
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            ValueError: it is another.
        """
        if self.log_probs.dim() != 4 or self.log_probs.shape[-1] != 3:
            raise ValueError(f"collapsed targets {tuple(self.log_probs.shape)} are not (B, T, U, 3)")

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, T, U)."""
        return tuple(self.log_probs.shape[:3])

    def utterance(self, number: int) -> "CollapsedTargets":
        """One utterance as a batch of its own."""
        return CollapsedTargets(self.log_probs[number : number + 1], self.temperature)


@dataclass(frozen=True)
class PathTargets:
    """The K most probable classes at the nodes of the teacher's best alignment, for the kind `one_best`.

    Attributes:
        path: frames and rows, (B, P), and the number of nodes by utterance.
        tokens: (B, P, K) int64, different classes at a node.
        log_probs: (B, P, K) of them.
        tail: `drop`: what the K classes leave counts as nothing; `other`: as one more class.
        renorm: the K probabilities are divided by their sum; only with the tail `drop`.
        temperature: of the softmax that made them; None if unknown.
    """

    path: Path
    tokens: Tensor
    log_probs: Tensor
    tail: Tail = "drop"
    renorm: bool = True
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Check shapes and options.

        Raises:
            ValueError: they do not fit.
        """
        tokens, log_probs, nodes = (tuple(x.shape) for x in (self.tokens, self.log_probs, self.path.frames))
        if tokens != log_probs or len(tokens) != 3 or tokens[:2] != nodes or nodes != self.path.rows.shape:
            raise ValueError(f"tokens {tokens} and log_probs {log_probs} are not (B, P, K) of a path {nodes}")
        if self.tail not in get_args(Tail):
            raise ValueError(f"tail is {self.tail!r}: use one of {', '.join(get_args(Tail))}")

    def classes(self) -> Tensor:
        """(B, P, K + 1) log-probabilities, that of the rest last, -inf if it counts as nothing."""
        log_probs = self.log_probs
        if self.tail == "other":
            kept = log_probs.double().exp().sum(-1, keepdim=True).clamp(max=1.0)
            return torch.cat([log_probs, (1.0 - kept).log().to(log_probs)], -1)
        if self.renorm:
            log_probs = log_probs.log_softmax(-1)
        return torch.nn.functional.pad(log_probs, (0, 1), value=-torch.inf)

    def utterance(self, number: int) -> "PathTargets":
        """One utterance as a batch of its own."""
        one = slice(number, number + 1)
        path = Path(self.path.frames[one], self.path.rows[one], self.path.lengths[one])
        tokens, log_probs = self.tokens[one], self.log_probs[one]
        return PathTargets(path, tokens, log_probs, self.tail, self.renorm, self.temperature)
