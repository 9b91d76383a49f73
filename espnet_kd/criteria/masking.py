"""Which positions count: alignment of student and target, selection of real ones, reduction to a scalar."""

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "utterance", "sum"]


def check_aligned(student: Tensor, target: Tensor, mask: Tensor) -> None:
    """Check that student, target and mask speak of the same positions.

    Args:
        student: (B, *P, V) logits or hidden vectors.
        target: (B, *P, V'), V' free: what the last axis must be is the criterion's business.
        mask: (B, *P) bool.

    Raises:
        ValueError: the positions differ, or the mask is not boolean or has another shape.
    """
    ours, theirs, real = tuple(student.shape), tuple(target.shape), tuple(mask.shape)
    if len(ours) < 2:
        raise ValueError(f"student {ours} and target {theirs} need a batch axis: (batch, frames, classes)")
    if ours[:-1] != theirs[:-1]:
        raise ValueError(
            f"student {ours} and target {theirs} do not have the same positions (all axes but the last): "
            "use the same batch and the same subsampling in both models"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}: make it torch.bool, True where a position is real")
    if real != ours[:-1]:
        raise ValueError(
            f"mask {real} does not fit student {ours} and target {theirs}: "
            f"give a mask of shape {ours[:-1]}, True where a position is real"
        )


def real_positions(student: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Find the positions that are not padding.

    Args:
        student: (B, *P, V), named in the error only.
        target: (B, *P, V'), named in the error only.
        mask: (B, *P) bool, True where the position is real.

    Returns:
        (N,) int64: indices into the flattened positions.

    Raises:
        ValueError: no position is real.
    """
    positions = mask.flatten().nonzero().squeeze(-1)
    if not len(positions):
        raise ValueError(
            f"the mask has no real position, for student {tuple(student.shape)} and target "
            f"{tuple(target.shape)}: check the lengths, or leave empty utterances out"
        )
    return positions


def select(values: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """Take the real positions, (B, *P, V) -> (N, V), then convert them to dtype."""
    # Several times faster than values[mask], whose backward accumulates with index_put.
    return values.flatten(0, -2).index_select(0, positions).to(dtype)


def reduce(per_position: Tensor, batch_size: int, reduction: Reduction) -> Tensor:
    """Turn one number per real position, (N,), into a scalar.

    Args:
        per_position: (N,) over the real positions of all utterances.
        batch_size: B, counting utterances without a real position.
        reduction: see Criterion.
    """
    if reduction == "mean":
        return per_position.mean()
    total = per_position.sum()
    return total / batch_size if reduction == "utterance" else total
