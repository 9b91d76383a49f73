"""Sizes of lattices, and random joint networks of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_kd.rnnt import Joint

JOINT_SPACE = 512


@dataclass(frozen=True)
class Case:
    """B utterances, T frames, U rows (labels + 1), V classes, J joint space; ragged: of different lengths."""

    batch: int
    frames: int
    rows: int
    classes: int
    space: int = JOINT_SPACE
    ragged: bool = False

    def __str__(self) -> str:
        """As the tables name it."""
        sizes = f"({self.batch}, {self.frames}, {self.rows}, {self.classes})"
        return f"{sizes} ragged, {self.real:.0%} real" if self.ragged else sizes

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Frames and labels by utterance; ragged ones shrink evenly to 47 % of the longest."""
        share = [1 - (0.53 * b / (self.batch - 1) if self.ragged else 0) for b in range(self.batch)]
        return [round(s * self.frames) for s in share], [round(s * (self.rows - 1)) for s in share]

    @property
    def nodes(self) -> int:
        """Real nodes of the batch."""
        return sum(t * (u + 1) for t, u in zip(*self.lengths, strict=True))

    @property
    def real(self) -> float:
        """Share of the padded lattice that is real."""
        return self.nodes / (self.batch * self.frames * self.rows)

    def gemm_flops(self, passes: int) -> int:
        """Of so many passes through the output layer; a training pass is three, a teacher's one."""
        return passes * 2 * self.nodes * self.space * self.classes


@dataclass(frozen=True)
class Inputs:
    """Two joint networks and labels of a case; the student's tensors want gradients."""

    student: Joint
    teacher: Joint
    labels: Tensor
    enc_lens: Tensor
    label_lens: Tensor

    def clear(self) -> None:
        """Forget the gradients."""
        for tensor in (self.student.enc, self.student.dec, self.student.weight, self.student.bias):
            tensor.grad = None


CASES = {
    "small": Case(4, 100, 20, 500),
    "large": Case(8, 200, 40, 500),
    "long": Case(4, 250, 50, 1000),
    "wide": Case(2, 400, 60, 5000),
    "ragged": Case(8, 200, 40, 500, ragged=True),
}
LARGER = ("large", "long", "wide")


def make(case: Case, device: str = "cpu") -> Inputs:
    """Random numbers of about the size that trained networks have."""
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
    return Inputs(student, teacher, labels.to(device), frames.to(device), label_lens.to(device))
