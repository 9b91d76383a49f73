"""What every criterion shares: it sees real positions only, in float32 or float64, and returns a scalar."""

from typing import Literal

import torch
from torch import Tensor, nn

from espnet_kd.criteria.masking import Reduction, check_aligned, real_positions, reduce, select
from espnet_kd.criteria.options import check_choice
from espnet_kd.criteria.weights import mean_one


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
        exempt: properties of the contract test that cannot hold, name -> reason.
    """

    needs: Literal["logits", "hidden", "lattice"] = "logits"
    guide_tap: str | None = None
    temperature: float | None = None
    kind: str | None = None
    k: int | None = None
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
