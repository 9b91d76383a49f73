"""Base class of every criterion: selects real positions, weights and reduces; and checks of options."""

import difflib
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_kd.rnnt.device import to_device

Reduction = Literal["mean", "utterance", "sum"]
FrameWeights = Literal["none", "activation", "deviation", "nonblank"]
# Numbers of the student that are compared at a time: what a CPU can cache, or what keeps a GPU busy.
CPU_CHUNK, GPU_CHUNK = 2**18, 2**24
MOST_NAMES, FEW_NAMES = 40, 10  # of a list in a message: all of them up to the first number, else these
BLANK = 0  # index of the blank: the first token of ESPnet's token lists


class Criterion(nn.Module):
    """Base class; a subclass defines `per_position`, and `check_sizes` if its last axes may differ.

    Args:
        reduction: how the values of N real positions in B utterances become one. `utterance`: their sum
            divided by B, as ESPnet normalises its own losses, so that an utterance's gradient does not
            depend on the others in the batch, and the mean over processes (DDP) is the mean over the whole
            batch; `mean`: their sum divided by N; `sum`: their sum.

    Attributes:
        needs: what the criterion compares: `logits`, `hidden` vectors, `codes` of the teacher's hidden
            vectors with the student's hidden vectors, a `lattice` (rnnt.Joint), or, for the logits of CTC,
            the probability of the label `sequence`.
        guide_tap: layer of the teacher whose values weight the positions; None: no weights of this sort.
        any_classes: student and teacher may have other classes.
        temperature: softmax divisor of both sides; None if there is no softmax.
        kind: for a criterion on the lattice, what of it is compared; `sequence` where it is the probability
            of the labels, whatever the model.
        k: number of most probable classes that are compared; None for all.
        student_dim: size of the student's hidden vectors; None if it is to be taken from the models (options
            ``student_dim`` and ``teacher_dim``); 0 for any size.
        of_ctc: an option of the criterion compares frames of CTC with others, or leaves some out.
        of_blank: it treats the blank as no other class, so that it is for CTC alone.
        by_blank: which frames count depends on the blank, the teacher's class 0.
        exempt: properties of the contract test that do not apply, name -> reason.
    """

    needs: Literal["logits", "hidden", "codes", "lattice", "sequence"] = "logits"
    guide_tap: str | None = None
    any_classes: bool = False
    temperature: float | None = None
    kind: str | None = None
    k: int | None = None
    student_dim: int | None = 0
    of_ctc: bool = False
    of_blank: bool = False
    by_blank: bool = False
    exempt: dict[str, str] = {}

    def __init__(self, reduction: Reduction = "utterance") -> None:
        super().__init__()
        self.reduction: Reduction = check_choice("reduction", reduction, Reduction)

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare real positions, (N, V) and (N, V) float -> (N,)."""
        raise NotImplementedError

    def matches(self, student: Tensor, target: Tensor, mask: Tensor, positions: Tensor) -> "Matches | None":
        """Say which position of the student each real position of the target is compared with.

        None, the default: the same, and all count.

        Args:
            student: (B, *P, V).
            target: (B, *P, V').
            mask: (B, *P) bool, True where the position is real; on the host, if it can be.
            positions: (N,) real positions, on the student's device.
        """
        return None

    def importance(self, target: Tensor, guide: Tensor | None, counts: Tensor) -> Tensor | None:
        """Compute the importance of real positions, (N,); None weights all equally.

        Args:
            target: (N, V), utterance by utterance.
            guide: (N, G), values of the teacher at `guide_tap`, if there is one.
            counts: (B,) number of positions of each utterance.
        """
        return None

    def check_sizes(self, student: Tensor, target: Tensor) -> None:
        """Check the last axes of (B, *P, V) and (B, *P, V').

        Raises:
            ValueError: they differ.
        """
        if student.shape[-1] != target.shape[-1]:
            of_classes = self.needs == "logits"
            what = "number of classes" if of_classes else "size of vectors"
            way_out = "train both models on the same token list" if of_classes else "take layers of one size"
            raise ValueError(
                f"student {tuple(student.shape)} and target {tuple(target.shape)} do not have the same "
                f"{what} (last axis): {way_out}"
            )

    def constant(self, target: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Select the real positions of a (B, *P, V) target for `per_position`: (N, V) in dtype."""
        return select(target.detach(), positions, dtype)

    def forward(self, student: Tensor, target: Tensor, mask: Tensor, guide: Tensor | None = None) -> Tensor:
        """Compare student and target where the mask is True.

        Args:
            student: (B, *P, V) logits, or (B, T, D) hidden vectors; receives gradient.
            target: the teacher's at the same positions, codes as whole numbers of any type; constant.
            mask: (B, *P) bool, True where the position is real. Padding may hold anything, even NaN. With a
                mask on the host, the host does not wait for the values' GPU.
            guide: (B, *P, G) values of the teacher at ``guide_tap``; constant.

        Returns:
            Scalar, float64 for a float64 student, else float32, under autocast too.

        Raises:
            ValueError: the shapes do not fit each other, or no position is real.
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
            rows, matches = chunk_rows(student), self.matches(student, target, mask, positions)
            if matches is not None:
                pairs = matches.student, positions
                values = _InChunks.apply(student.flatten(0, -2), target, *pairs, self, dtype, rows)
                values = values.masked_fill(~matches.counted, 0.0)
                if self.reduction != "mean":
                    return reduce(values, len(mask), self.reduction)
                mean: Tensor = values.sum() / matches.counted.sum().clamp(min=1)
                return mean
            if len(positions) > rows and self._takes_chunks():
                values = _InChunks.apply(student.flatten(0, -2), target, positions, None, self, dtype, rows)
                return reduce(values, len(mask), self.reduction)
            constant = self.constant(target, positions, dtype)
            distances = self.per_position(select(student, positions, dtype), constant)
            guides = None if guide is None else select(guide.detach(), positions, dtype)
            counts = to_device(mask.flatten(1).sum(1), student.device)
            importance = self.importance(constant, guides, counts)
            if importance is not None:
                distances = distances * mean_one(importance, positions, mask)
            return reduce(distances, len(mask), self.reduction)

    def _takes_chunks(self) -> bool:
        """Return whether positions are compared independently of each other, and only the student learns."""
        independent = type(self).importance is Criterion.importance
        return self.needs == "logits" and independent and next(self.parameters(), None) is None


class Matches(NamedTuple):
    """Pairs of positions that are compared.

    Attributes:
        student: (N,) position of the student for each real position of the target.
        counted: (N,) bool, False where nothing is compared.
    """

    student: Tensor
    counted: Tensor


class _InChunks(torch.autograd.Function):
    """`Criterion.per_position` for some positions at a time, again in the backward pass.

    Of the size of the logits there is nothing in memory but the logits and their gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        target: Any,
        positions: Tensor,
        places: Tensor | None,
        criterion: Criterion,
        dtype: Any,
        rows: int,
    ) -> Tensor:
        """Compare (*, V) logits with a target at (N,) positions, in chunks of `rows`: (N,) in dtype.

        `places` are the positions of the target, if they are others than those of the student.
        """
        ctx.save_for_backward(student, positions, places)
        ctx.rest = target, criterion, dtype, rows
        pairs = zip(positions.split(rows), (positions if places is None else places).split(rows), strict=True)
        values = [
            criterion.per_position(select(student, ours, dtype), criterion.constant(target, theirs, dtype))
            for ours, theirs in pairs
        ]
        return torch.cat(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradient by the student's logits, chunk by chunk."""
        (student, positions, places), (target, criterion, dtype, rows) = ctx.saved_tensors, ctx.rest
        # A position of the student that is compared several times has the sum of the gradients.
        result = torch.zeros_like(student, dtype=student.dtype if places is None else dtype)
        device = student.device.type
        others = (positions if places is None else places).split(rows)
        for ours, theirs, share in zip(positions.split(rows), others, gradient.split(rows), strict=True):
            with torch.enable_grad(), torch.autocast(device, enabled=False):
                logits = select(student, ours, dtype).requires_grad_()
                values = criterion.per_position(logits, criterion.constant(target, theirs, dtype))
            (found,) = torch.autograd.grad(values, logits, share)
            if places is None:
                result.index_copy_(0, ours, found.to(result.dtype))
            else:
                result.index_add_(0, ours, found)
        return result.to(student.dtype), None, None, None, None, None, None


def chunk_rows(student: Tensor) -> int:
    """Return the number of positions of (B, *P, V) values that are compared at a time."""
    return max(1, (CPU_CHUNK if student.device.type == "cpu" else GPU_CHUNK) // student.shape[-1])


def check_aligned(student: Tensor, target: Tensor, mask: Tensor) -> None:
    """Check that student, target and mask have the same positions.

    Args:
        student: (B, *P, V) logits or hidden vectors.
        target: (B, *P, V'); `Criterion.check_sizes` checks the last axis.
        mask: (B, *P) bool.

    Raises:
        ValueError: the positions differ, or the mask is not boolean or has another shape.
    """
    ours, theirs, real = tuple(student.shape), tuple(target.shape), tuple(mask.shape)
    if len(ours) < 2:
        raise ValueError(
            f"student {ours} and target {theirs} have no batch axis: give (batch, frames, classes)"
        )
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
        student: (B, *P, V), for the message only.
        target: (B, *P, V'), for the message only.
        mask: (B, *P) bool, True where the position is real.

    Returns:
        (N,) int64: indices into the flattened positions, on the student's device.

    Raises:
        ValueError: no position is real.
    """
    positions = mask.flatten().nonzero().squeeze(-1)
    if not len(positions):
        raise ValueError(
            f"the mask has no real position, for student {tuple(student.shape)} and target "
            f"{tuple(target.shape)}: check the lengths, or leave empty utterances out"
        )
    return to_device(positions, student.device)


def select(values: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """Take the real positions, (B, *P, V) -> (N, V), then convert them to dtype."""
    # Several times faster than values[mask], whose backward pass accumulates with index_put.
    return values.flatten(0, -2).index_select(0, positions).to(dtype)


def reduce(per_position: Tensor, batch_size: int, reduction: Reduction) -> Tensor:
    """Reduce one number per real position to a scalar.

    Args:
        per_position: (N,) values of the real positions of all utterances.
        batch_size: B, with utterances that have no real position.
        reduction: see Criterion.
    """
    if reduction == "mean":
        return per_position.mean()
    total = per_position.sum()
    return total / batch_size if reduction == "utterance" else total


def mean_one(importance: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Divide by the mean over the real positions of each utterance, so that T weights sum to T.

    Args:
        importance: (N,) values of the real positions, none below 0.
        positions: (N,) indices of these among all positions.
        mask: (B, *P) bool, True where the position is real.

    Returns:
        (N,) weights; all 1 in an utterance where all importance is 0.
    """
    counts = to_device(mask.flatten(1).sum(1), importance.device)
    every = importance.new_zeros(mask.numel()).index_copy(0, positions, importance)
    mean = every.view(len(mask), -1).sum(1) / counts.clamp(min=1)  # (B,)
    mine = mean.repeat_interleave(counts, output_size=len(importance))
    return torch.where(mine == 0, torch.ones_like(importance), importance / mine)  # NaN stays NaN


def activation(hidden: Tensor, counts: Tensor, power: float) -> Tensor:
    """Compute the norm of hidden vectors, relative to the largest of the utterance, to a power.

    After a layer normalisation all norms are about the square root of D, and nearly equal.

    Args:
        hidden: (N, D), utterance by utterance.
        counts: (B,) number of vectors of each utterance; they sum to N.
        power: exponent.

    Returns:
        (N,), at most 1; a high power of the norm itself would overflow.
    """
    norm: Tensor = torch.linalg.vector_norm(hidden, dim=-1)
    utterance = _utterances(counts, len(hidden))
    largest = norm.new_zeros(len(counts)).scatter_reduce(0, utterance, norm, "amax")
    return (norm / largest.clamp(min=torch.finfo(norm.dtype).tiny)[utterance]).pow(power)


def deviation(hidden: Tensor, counts: Tensor, power: float) -> Tensor:
    """Compute the distance from the mean of the utterance, relative to the largest one, to a power.

    Unlike the norm, it differs between frames after a layer normalisation, too. Arguments and result, (N,),
    as of `activation`.
    """
    utterance = _utterances(counts, len(hidden))
    total = hidden.new_zeros(len(counts), hidden.shape[1]).index_add(0, utterance, hidden)
    return activation(hidden - (total / counts.clamp(min=1)[:, None])[utterance], counts, power)


def nonblank(logits: Tensor) -> Tensor:
    """Compute 1 - P(blank) from CTC logits, (N, V) -> (N,)."""
    return -logits.log_softmax(-1)[:, BLANK].clamp(max=0.0).expm1()


def _utterances(counts: Tensor, positions: int) -> Tensor:
    """Return the utterance of each of N positions, (N,), from the numbers of each utterance, (B,)."""
    places = torch.arange(len(counts), device=counts.device)
    return places.repeat_interleave(counts, output_size=positions)


def learned_map(inputs: int, outputs: int) -> nn.Linear:
    """Make a linear layer with bias; the random numbers of the training stay as they are."""
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(inputs, outputs)


def mapped(values: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a linear layer, (N, D) -> (N, D'), in the precision of the values, not of its parameters."""
    return F.linear(values, layer.weight.to(values.dtype), layer.bias.to(values.dtype))


def near_misses(name: object, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: "did you mean x? known: x, y"."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name).lower(), names, cutoff=0.5)  # finds kl for k1
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    shown = names if len(names) <= MOST_NAMES else [*names[:FEW_NAMES], f"... ({len(names)} in all)"]
    return f"{meant}known: {', '.join(shown) or 'none'}"


def check_choice(option: str, value: Any, choices: Any) -> Any:
    """Return the value of an option if it is one of the strings of the Literal type `choices`.

    Raises:
        ValueError: it is not; lists the choices.
    """
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"{option} is {value!r}; {near_misses(value, known)}")
    return value


def check_positive(option: str, value: Any) -> float:
    """Return the value of an option if it is a finite number above 0.

    Raises:
        ValueError: it is not; note that YAML reads 1e-1 as a string.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{option} is {value!r}: give a finite number above 0, written like 2.0")
    return value


def check_share(option: str, value: float, zero: bool = False) -> float:
    """Return the value of an option if it is above 0 and below 1, or with ``zero`` 0.

    Raises:
        ValueError: it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 < value < 1 or (zero and value == 0)):
        range_ = "from 0 to below 1" if zero else "above 0 and below 1"
        raise ValueError(f"{option} is {value!r}: give a number {range_}")
    return float(value)


def check_size(option: str, value: Any) -> int:
    """Return the value of an option if it is an integer of at least 1.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{option} is {value!r}: give an integer of at least 1")
    return value
