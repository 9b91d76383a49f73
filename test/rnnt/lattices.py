"""Make small random lattices with arbitrary values in their padding; compute losses with gradients."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nan

from espnet_kd.rnnt import Joint

KINDS = ("full", "collapsed", "one_best", "occupancy", "alignments")
TENSORS = ("enc", "dec", "weight", "bias")
LATTICES = {
    "ragged": {},
    "nearly of one size": {"frames": (6, 6, 5), "labels": (4, 4, 3)},  # they share a block
    "no labels": {"frames": (4, 2), "labels": (0, 0)},
    "some without labels": {"frames": (4, 3), "labels": (2, 0)},
    "one frame": {"frames": (1, 1), "labels": (2, 0)},
    "fewer frames than rows": {"frames": (2, 3), "labels": (3, 4)},
    "two classes, blank last": {"classes": 2, "blank": 1},
    "three classes": {"classes": 3, "blank": 1},
    "blank last": {"blank": 5},
    "sigmoid": {"activation": "sigmoid"},
    "relu": {"activation": "relu"},
    "identity": {"activation": "identity"},
    "function": {"activation": lambda x: x.sin()},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_lattice = pytest.mark.parametrize("lattice", LATTICES.values(), ids=LATTICES.keys())


@dataclass(frozen=True)
class Lattices:
    """A student of 4 dimensions that requires gradient, and a teacher of 3, for the same utterances."""

    student: Joint
    teacher: Joint
    labels: Tensor
    enc_lens: Tensor
    label_lens: Tensor

    @property
    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.labels, self.enc_lens, self.label_lens

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Return the number of frames and of labels of each utterance."""
        return list(zip(self.enc_lens.tolist(), self.label_lens.tolist(), strict=True))


def lattices(
    frames=(5, 3, 4),
    labels=(2, 3, 1),
    classes=6,
    blank=0,
    activation="tanh",
    dtype=torch.float64,
    filling=nan,
) -> Lattices:
    """Make random lattices, with one frame and one row more of padding than the longest utterance needs."""
    random = torch.Generator().manual_seed(1)
    shape = len(frames), max(frames) + 1, max(labels) + 2
    sizes = torch.tensor(frames), torch.tensor(labels)

    def joint(space: int) -> Joint:
        enc, dec, weight, bias = (
            torch.randn(size, generator=random, dtype=torch.float64).to(dtype)
            for size in [(*shape[:2], space), (shape[0], shape[2], space), (classes, space), (classes,)]
        )
        for padded, lengths in ((enc, sizes[0]), (dec, sizes[1] + 1)):
            padded[padding(padded, lengths)] = filling
        return Joint(enc, dec, weight, bias, activation)

    used = [v for v in range(classes) if v != blank]
    y = torch.tensor(used)[torch.randint(len(used), (shape[0], shape[2] - 1), generator=random)]
    y[padding(y, sizes[1])] = -1
    return Lattices(leaf(joint(4)), joint(3), y, *sizes)


def padding(values: Tensor, lengths: Tensor) -> Tensor:
    """Return (B, N) bool, True in the padding of (B, N, ...) values."""
    return torch.arange(values.shape[1]) >= lengths[:, None]


def leaf(joint: Joint) -> Joint:
    """Copy the tensors, as leaves that require gradient."""
    return joint.map(lambda x: x.detach().clone().requires_grad_())


def gradients(value: Tensor, joint: Joint) -> tuple[Tensor, ...]:
    """Compute the gradients of the joint's four tensors; several values get the weights 1, 2, ..."""
    weights = torch.arange(1.0, value.numel() + 1, dtype=value.dtype, device=value.device)
    tensors = [getattr(joint, name) for name in TENSORS]
    return torch.autograd.grad(value.flatten() @ weights, tensors, materialize_grads=True)


def run(function, given: Lattices, *teacher, **options) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Return the values of rnnt_loss or rnnt_distillation, fast or plain, and the gradients of the first."""
    found = function(given.student, *teacher, *given.batch, **options)
    values = [found] if isinstance(found, Tensor) else list(found)
    return [x.detach() for x in values], gradients(values[0], given.student)


def assert_same(one, other, tolerance=1e-10) -> None:
    """Assert that two results of `run` have the same values and gradients."""
    for name, a, b in zip(("loss", "rnnt", "kd"), one[0], other[0], strict=False):
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )
    for name, a, b in zip(TENSORS, one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"d {n}: {m}")


def filled(given: Lattices, filling: float) -> Lattices:
    """Return the same lattices with `filling` in the padding."""

    def fill(joint: Joint) -> Joint:
        enc, dec = joint.enc.detach().clone(), joint.dec.detach().clone()
        enc[padding(enc, given.enc_lens)] = filling
        dec[padding(dec, given.label_lens + 1)] = filling
        return replace(joint, enc=enc, dec=dec)

    return replace(given, student=leaf(fill(given.student)), teacher=fill(given.teacher))
