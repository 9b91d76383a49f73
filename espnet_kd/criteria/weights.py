"""How much each frame counts in a criterion: what the teacher attends to, with mean 1 in every utterance."""

from typing import Literal

import torch
from torch import Tensor

FrameWeights = Literal["none", "activation", "nonblank"]

BLANK = 0  # ESPnet's token lists start with it


def activation(hidden: Tensor, power: float) -> Tensor:
    """The norm of hidden vectors to a power, (N, D) -> (N,)."""
    norm: Tensor = torch.linalg.vector_norm(hidden, dim=-1)
    return norm.pow(power)


def nonblank(logits: Tensor) -> Tensor:
    """1 - P(blank) of CTC logits, (N, V) -> (N,)."""
    return -logits.log_softmax(-1)[:, BLANK].clamp(max=0.0).expm1()


def mean_one(importance: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Divide by the mean over the real positions of each utterance, so that T weights sum to T.

    Args:
        importance: (N,) of the real positions, none below 0.
        positions: (N,) their indices among all positions.
        mask: (B, *P) bool, True where the position is real.

    Returns:
        (N,); 1 throughout an utterance where all importance is 0.
    """
    count = mask.flatten(1).sum(1)
    every = importance.new_zeros(mask.numel()).index_copy(0, positions, importance)
    mean = every.view(len(mask), -1).sum(1) / count.clamp(min=1)  # (B,)
    mine = mean.repeat_interleave(count)
    return torch.where(mine == 0, torch.ones_like(importance), importance / mine)  # NaN stays NaN
