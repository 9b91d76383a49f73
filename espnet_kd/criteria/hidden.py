"""A criterion that compares hidden vectors of teacher and student, frame by frame."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_kd.criteria.criterion import (
    Criterion,
    FrameWeights,
    Reduction,
    activation,
    check_choice,
    check_positive,
    check_size,
    deviation,
    learned_map,
    mapped,
    nonblank,
)

Distance = Literal["mse", "l1", "cosine"]
Projection = Literal["linear", "none"]
ZERO_NORM = 1e-8  # a shorter vector counts as zero; the threshold of F.cosine_similarity


def cosine_distance(student: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - cos, (N, D) and (N, D) -> (N,) in [0, 2]; 1 without gradient where a vector is zero."""
    shortest = torch.minimum(student.detach().norm(dim=-1), target.norm(dim=-1))
    cosine = F.cosine_similarity(student, target, dim=-1, eps=ZERO_NORM)
    return 1 - cosine.masked_fill(shortest <= ZERO_NORM, 0.0)


class HiddenDistance(Criterion):
    """Pull the student's hidden vectors, mapped into the teacher's space, to the teacher's: d(g(h_S), h_T).

    Args:
        distance: `mse`, squared difference averaged over the D features; `l1`, absolute difference averaged
            over them; `cosine`, 1 - cos.
        projection: `linear`, g is learned, D_S -> D_T with bias; `none`, g is the identity and D_S = D_T.
        student_dim: D_S. None if it is not known yet, to check options before there is a model; a criterion
            with a projection cannot be called then.
        teacher_dim: D_T; None as for student_dim.
        frame_weights: which frames weigh more: `activation`, those where the norm of h_T is large;
            `deviation`, those where h_T is far from its mean over the utterance; `nonblank`, those where the
            teacher's CTC layer gives the blank a low probability; `none`, all equally. The weights of an
            utterance have mean 1. After a layer normalisation (the output of a Transformer or Conformer, and
            of each Conformer block) the norm is nearly constant, and `activation` has almost no effect.
        weight_power: exponent of the norm for `activation`, of the distance for `deviation`.
        reduction: see Criterion.

    Source:
        Yoon et al. 2020, TutorNet, arXiv:2008.00671, representation-level distillation (mse, linear). The
        paper weights frames, too; its formula for the weights is not verified.
    """

    needs = "hidden"

    def __init__(
        self,
        distance: Distance = "mse",
        projection: Projection = "linear",
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        frame_weights: FrameWeights = "none",
        weight_power: float = 1.0,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(reduction)
        self.distance: Distance = check_choice("distance", distance, Distance)
        self.frame_weights: FrameWeights = check_choice("frame_weights", frame_weights, FrameWeights)
        self.weight_power = check_positive("weight_power", weight_power)
        if frame_weights not in ("activation", "deviation") and weight_power != 1:
            raise ValueError(
                f"weight_power is {weight_power}, but frame_weights is {frame_weights!r}: write activation "
                "or deviation, or leave weight_power out"
            )
        self.guide_tap = "ctc.ctc_lo" if frame_weights == "nonblank" else None
        self.learned = check_choice("projection", projection, Projection) == "linear"
        if self.learned:
            self.exempt = {"zero_at_equality": "a learned projection is not the identity"}
        self.student_dim, self.teacher_dim = self._checked_dims(student_dim, teacher_dim)
        self.projection: nn.Linear | None = None
        if self.learned and self.student_dim is not None and self.teacher_dim is not None:
            self.projection = learned_map(self.student_dim, self.teacher_dim)

    def _checked_dims(
        self, student_dim: int | None, teacher_dim: int | None
    ) -> tuple[int | None, int | None]:
        """Return both dimensions if they are usable.

        Raises:
            ValueError: only one is given, one is no positive integer, or they differ without a projection.
        """
        if student_dim is None and teacher_dim is None:
            return None, None
        if student_dim is None or teacher_dim is None:
            raise ValueError(
                f"student_dim is {student_dim} and teacher_dim {teacher_dim}: give both, or neither to take "
                "them from the models"
            )
        dims = check_size("student_dim", student_dim), check_size("teacher_dim", teacher_dim)
        if not self.learned and student_dim != teacher_dim:
            raise ValueError(
                f"student_dim {student_dim} and teacher_dim {teacher_dim} differ: use `projection: linear`"
            )
        return dims

    def check_sizes(self, student: Tensor, target: Tensor) -> None:
        """Check the last axes of (B, T, D_S) and (B, T, D_T).

        Raises:
            ValueError: they are not student_dim and teacher_dim, or differ without a projection.
        """
        ours, theirs = tuple(student.shape), tuple(target.shape)
        if self.student_dim is None and self.learned:
            raise ValueError(
                f"the projection from student {ours} to target {theirs} does not exist yet: "
                f"set student_dim: {ours[-1]} and teacher_dim: {theirs[-1]}"
            )
        if self.student_dim is not None and (ours[-1], theirs[-1]) != (self.student_dim, self.teacher_dim):
            raise ValueError(
                f"student {ours} and target {theirs} do not end in student_dim {self.student_dim} "
                f"and teacher_dim {self.teacher_dim}: correct the dimensions, or choose other layers"
            )
        if not self.learned and ours[-1] != theirs[-1]:
            raise ValueError(
                f"student {ours} and target {theirs} differ in the last axis: use `projection: linear`"
            )

    def importance(self, target: Tensor, guide: Tensor | None, counts: Tensor) -> Tensor | None:
        """Compute the frame weights from (N, D_T) hidden vectors, or (N, V) CTC logits for `nonblank`."""
        if guide is not None:
            return nonblank(guide)
        if self.frame_weights == "none":
            return None
        weigh = activation if self.frame_weights == "activation" else deviation
        return weigh(target, counts, self.weight_power)

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, D_S) and (N, D_T) -> (N,)."""
        if self.projection is not None:
            student = mapped(student, self.projection)
        if self.distance == "mse":
            return (student - target).square().mean(-1)
        if self.distance == "l1":
            return (student - target).abs().mean(-1)
        return cosine_distance(student, target)
