"""Sizes of lattices, and random joint networks of these sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_kd.rnnt import Joint

JOINT_SPACE = 512


@dataclass(frozen=True)
class LatticeCase:
    """B utterances, T frames, U rows (labels + 1), V classes, J dimensions; ragged: different lengths."""

    batch: int
    frames: int
    rows: int
    classes: int
    space: int = JOINT_SPACE
    ragged: bool = False

    def __str__(self) -> str:
        """Return the name of the case in tables."""
        sizes = f"({self.batch}, {self.frames}, {self.rows}, {self.classes})"
        return f"{sizes} ragged, {self.real:.0%} real" if self.ragged else sizes

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Return frames and labels of each utterance; ragged ones shrink evenly to 47 % of the longest."""
        share = [1 - (0.53 * b / (self.batch - 1) if self.ragged else 0) for b in range(self.batch)]
        return [round(s * self.frames) for s in share], [round(s * (self.rows - 1)) for s in share]

    @property
    def nodes(self) -> int:
        """Return the number of real nodes of the batch."""
        return sum(t * (u + 1) for t, u in zip(*self.lengths, strict=True))

    @property
    def real(self) -> float:
        """Return the share of real nodes in the padded lattice."""
        return self.nodes / (self.batch * self.frames * self.rows)

    def gemm_flops(self, passes: int) -> int:
        """Return the operations of some passes through the output layer (training: 3, a teacher: 1)."""
        return passes * 2 * self.nodes * self.space * self.classes


@dataclass(frozen=True)
class LatticeInputs:
    """Two joint networks and labels of a case; the student's tensors require gradients."""

    student: Joint
    teacher: Joint
    labels: Tensor
    enc_lens: Tensor
    label_lens: Tensor

    def clear(self) -> None:
        """Remove the gradients."""
        for tensor in (self.student.enc, self.student.dec, self.student.weight, self.student.bias):
            tensor.grad = None


CASES = {
    "small": LatticeCase(4, 100, 20, 500),
    "large": LatticeCase(8, 200, 40, 500),
    "long": LatticeCase(4, 250, 50, 1000),
    "wide": LatticeCase(2, 400, 60, 5000),
    "ragged": LatticeCase(8, 200, 40, 500, ragged=True),
}
LARGER = ("large", "long", "wide")


def make(case: LatticeCase, device: str = "cpu") -> LatticeInputs:
    """Make random joint networks with values of about the size of trained ones."""
    random = torch.Generator().manual_seed(0)

    def joint() -> Joint:
        shapes = (
            ((case.batch, case.frames, case.space), 0.5),
            ((case.batch, case.rows, case.space), 0.5),
            ((case.classes, case.space), case.space**-0.5),
            ((case.classes,), 0.1),
        )
        return Joint(*(scale * torch.randn(shape, generator=random).to(device) for shape, scale in shapes))

    student, teacher = joint().map(lambda x: x.requires_grad_()), joint()
    labels = torch.randint(1, case.classes, (case.batch, case.rows - 1), generator=random)
    frames, label_lens = (torch.tensor(n) for n in case.lengths)
    return LatticeInputs(student, teacher, labels.to(device), frames.to(device), label_lens.to(device))
