"""The base class of every criterion: real positions, reduction, frame weights and checks of options."""

import difflib
import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

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


def near_misses(name: object, known: Iterable[str]) -> str:
    """Say what a misspelt name may have meant and what there is: "did you mean x? known: x, y"."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name).lower(), names, cutoff=0.5)  # k1 is near kl
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}known: {', '.join(names) or 'none'}"


def check_choice(option: str, value: Any, choices: Any) -> Any:
    """Return value if it is one of the strings of the Literal type `choices`.

    Raises:
        ValueError: it is not.
    """
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"{option} is {value!r}; {near_misses(value, known)}")
    return value


def check_positive(option: str, value: Any) -> float:
    """Return value if it is a finite number above 0.

    Raises:
        ValueError: it is not; YAML reads 1e-1 as a string.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{option} is {value!r}: give a finite number above 0, written like 2.0")
    return value


def check_size(option: str, value: Any) -> int:
    """Return value if it is an integer of at least 1.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{option} is {value!r}: give an integer of at least 1")
    return value


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


class Criterion(nn.Module):
    """Base class; a subclass writes `per_position`, and `check_sizes` if its last axes may differ.

    Args:
        reduction: how the values of N real positions in B utterances become one. `utterance`: their sum
            divided by B, as ESPnet normalises its own losses, so that an utterance's gradient does not
            depend on the others in the batch, and the mean over processes (DDP) is that over the whole
            batch; `mean`: their sum divided by N; `sum`.

    Attributes:
        needs: what the model hands over: `logits`, `hidden` vectors, or a `lattice` (rnnt.Joint).
        guide_tap: a second tap of the teacher that the positions are weighted by, None without one.
        temperature: softmax divisor of both sides, None without one.
        kind: of a criterion on the lattice, what of it is compared.
        k: how many of the most probable classes are compared, None for all.
        student_dim: size of the student's hidden vectors, None where the options ``student_dim`` and
            ``teacher_dim`` are to be taken from the models, 0 for any.
        exempt: properties of the contract test that cannot hold, name -> reason.
    """

    needs: Literal["logits", "hidden", "lattice"] = "logits"
    guide_tap: str | None = None
    temperature: float | None = None
    kind: str | None = None
    k: int | None = None
    student_dim: int | None = 0
    exempt: dict[str, str] = {}

    def __init__(self, reduction: Reduction = "utterance") -> None:
        super().__init__()
        self.reduction: Reduction = check_choice("reduction", reduction, Reduction)

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare real positions, (N, V) and (N, V) float -> (N,)."""
        raise NotImplementedError

    def importance(self, target: Tensor, guide: Tensor | None, counts: Tensor) -> Tensor | None:
        """Return what real positions weigh, (N,), or None: all the same.

        Args:
            target: (N, V), utterance by utterance.
            guide: (N, G), if there is one.
            counts: (B,) how many of the N are of each utterance.
        """
        return None

    def check_sizes(self, student: Tensor, target: Tensor) -> None:
        """Check the last axes of (B, *P, V) and (B, *P, V').

        Raises:
            ValueError: they differ.
        """
        if student.shape[-1] != target.shape[-1]:
            raise ValueError(
                f"student {tuple(student.shape)} and target {tuple(target.shape)} do not have the same "
                "number of classes (last axis): train both models on the same token list"
            )

    def constant(self, target: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """What `per_position` gets of a (B, *P, V) target at the real positions: (N, V) in dtype."""
        return select(target.detach(), positions, dtype)

    def forward(self, student: Tensor, target: Tensor, mask: Tensor, guide: Tensor | None = None) -> Tensor:
        """Compare student and target where the mask is True.

        Args:
            student: (B, *P, V) logits, or (B, T, D) hidden vectors; receives gradient.
            target: the same of the teacher; constant.
            mask: (B, *P) bool, True where the position is real. Padding may hold anything, NaN included.
            guide: (B, *P, G) what the teacher has at ``guide_tap``; constant.

        Returns:
            Scalar, float64 for a float64 student, else float32, under autocast too.

        Raises:
            ValueError: the shapes do not fit, or no position is real.
        """
        check_aligned(student, target, mask)
        self.check_sizes(student, target)
        if (guide is None) != (self.guide_tap is None) or (
            guide is not None and guide.shape[:-1] != mask.shape
        ):
            found = None if guide is None else tuple(guide.shape)
            raise ValueError(
                f"student {tuple(student.shape)} and target {tuple(target.shape)} come with a guide {found}: "
                f"give the teacher's {self.guide_tap} at the same positions"
            )
        positions = real_positions(student, target, mask)
        dtype = torch.promote_types(student.dtype, torch.float32)
        with torch.autocast(student.device.type, enabled=False):
            constant = self.constant(target, positions, dtype)
            distances = self.per_position(select(student, positions, dtype), constant)
            guides = None if guide is None else select(guide.detach(), positions, dtype)
            importance = self.importance(constant, guides, mask.flatten(1).sum(1))
            if importance is not None:
                distances = distances * mean_one(importance, positions, mask)
            return reduce(distances, len(mask), self.reduction)
