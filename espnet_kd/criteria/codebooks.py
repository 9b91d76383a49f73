"""A criterion that predicts the codes of quantised hidden vectors of the teacher."""

import torch.nn.functional as F
from torch import Tensor, nn

from espnet_kd.criteria.criterion import Criterion, Reduction, check_size, learned_map, mapped

CENTROIDS = 256  # of a codebook, so that a code is a byte


class CodebookPrediction(Criterion):
    """Predict the codes of the teacher's hidden vectors, each with a linear layer of its own.

    The cross-entropy of a frame is averaged over the codebooks.

    Args:
        student_dim: D_S, of the student's hidden vectors. None if it is not known yet, to check options
            before there is a model; the criterion cannot be called then.
        teacher_dim: M, number of codebooks; None as for student_dim.
        reduction: see Criterion.

    Source:
        Guo et al. 2022, MVQ-KD, arXiv:2211.00508. The paper's predictors are not verified; here they are
        independent of each other, and left out after training.
    """

    needs = "codes"
    exempt = {"zero_at_equality": "codes are chosen by a learned layer"}

    def __init__(
        self,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(reduction)
        if (student_dim is None) != (teacher_dim is None):
            raise ValueError(
                f"student_dim is {student_dim} and teacher_dim {teacher_dim}: give both, or neither to take "
                "them from the student and the store"
            )
        self.student_dim, self.teacher_dim = student_dim, teacher_dim
        self.predictor: nn.Linear | None = None
        if student_dim is not None and teacher_dim is not None:
            check_size("student_dim", student_dim)
            outputs = check_size("teacher_dim", teacher_dim) * CENTROIDS
            self.predictor = learned_map(student_dim, outputs)

    def check_sizes(self, student: Tensor, target: Tensor) -> None:
        """Check the last axes of (B, T, D_S) and (B, T, M).

        Raises:
            ValueError: they are not student_dim and teacher_dim, or these are not known yet.
        """
        ours, theirs = tuple(student.shape), tuple(target.shape)
        if self.predictor is None:
            raise ValueError(
                f"the predictor from student {ours} to codes {theirs} does not exist yet: "
                f"set student_dim: {ours[-1]} and teacher_dim: {theirs[-1]}"
            )
        if (ours[-1], theirs[-1]) != (self.student_dim, self.teacher_dim):
            raise ValueError(
                f"student {ours} and codes {theirs} do not end in student_dim {self.student_dim} and "
                f"teacher_dim {self.teacher_dim}: correct the dimensions, or choose another layer or store"
            )

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, D_S) with codes (N, M) -> (N,)."""
        assert self.predictor is not None
        logits, codes = mapped(student, self.predictor), target.long()
        losses = F.cross_entropy(logits.view(-1, CENTROIDS), codes.flatten(), reduction="none")
        return losses.view(codes.shape).mean(-1)
