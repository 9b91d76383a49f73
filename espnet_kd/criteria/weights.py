"""How much each frame counts in a criterion: what the teacher attends to, with mean 1 in every utterance."""

from typing import Literal

import torch
from torch import Tensor

FrameWeights = Literal["none", "activation", "deviation", "nonblank"]

BLANK = 0  # ESPnet's token lists start with it


def activation(hidden: Tensor, counts: Tensor, power: float) -> Tensor:
    """Return the norm of hidden vectors to a power, up to a factor for each utterance.

    Behind a layer normalisation all norms are about the square root of D and say little.

    Args:
        hidden: (N, D), utterance by utterance.
        counts: (B,) how many of the N are of each utterance.
        power: exponent.

    Returns:
        (N,), at most 1: a high power of the norm itself would overflow.
    """
    norm: Tensor = torch.linalg.vector_norm(hidden, dim=-1)
    utterance = _utterances(counts)
    largest = norm.new_zeros(len(counts)).scatter_reduce(0, utterance, norm, "amax")
    return (norm / largest.clamp(min=torch.finfo(norm.dtype).tiny)[utterance]).pow(power)


def deviation(hidden: Tensor, counts: Tensor, power: float) -> Tensor:
    """Return the same of the distance from the mean of the utterance, which a layer normalisation keeps."""
    utterance = _utterances(counts)
    total = hidden.new_zeros(len(counts), hidden.shape[1]).index_add(0, utterance, hidden)
    return activation(hidden - (total / counts.clamp(min=1)[:, None])[utterance], counts, power)


def _utterances(counts: Tensor) -> Tensor:
    """(B,) positions of each utterance -> (N,) the utterance of each position."""
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


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
