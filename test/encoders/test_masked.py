"""Layers that ignore padding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from espnet_kd.encoders.masked import (
    MaskedBatchNorm,
    TimeConvolution,
    on_real_frames,
    real_frames,
    strided,
    without_padding,
)

LENGTHS = torch.tensor([3, 1])
REAL = real_frames(LENGTHS, 4)


def batch(*shape: int) -> torch.Tensor:
    """Make a (2, 4, *shape) batch with arbitrary values in the padding."""
    x = torch.randn(2, 4, *shape, generator=torch.Generator().manual_seed(0)) * 2 + 3
    x[0, 3:], x[1, 1:] = float("nan"), 1e30
    return x


def test_real_frames() -> None:
    assert REAL.tolist() == [0, 1, 2, 4]
    x = torch.arange(8.0).view(2, 4, 1)
    assert on_real_frames(lambda n: n + 1, x, REAL).flatten().tolist() == [1, 2, 3, 0, 5, 0, 0, 0]
    assert without_padding(batch(1), LENGTHS)[..., 0].count_nonzero() == 4


@pytest.mark.parametrize("shape", [(5,), (5, 6)], ids=["frames", "planes"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_uses_the_real_frames_only(shape: tuple[int, ...], training: bool) -> None:
    ours, stock = MaskedBatchNorm(5), nn.BatchNorm1d(5)
    for norm in (ours, stock):
        norm.train(training)
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    x = batch(*shape)
    y = ours(x, REAL)
    frames = x.flatten(0, 1)[REAL]
    torch.testing.assert_close(y.flatten(0, 1)[REAL], stock(frames))
    assert (y[0, 3] == 0).all() and (y[1, 1:] == 0).all()
    torch.testing.assert_close((ours.running_mean, ours.running_var), (stock.running_mean, stock.running_var))
    assert (ours.running_mean.abs().max() > 0) == training


def test_batch_norm_on_paper() -> None:
    # frames 1, 2, 3 and 6: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5, unbiased 14 / 3
    x = torch.tensor([[1.0, 2.0, 3.0, 1e9], [6.0, 1e9, 1e9, 1e9]])[..., None]
    norm = MaskedBatchNorm(1, eps=1e-12, momentum=1.0)
    y = norm(x, REAL).flatten()
    assert y.tolist() == pytest.approx(
        [(v - 3) / 3.5**0.5 if v else 0 for v in (1, 2, 3, 0, 6, 0, 0, 0)], abs=1e-6
    )
    assert (norm.running_mean.item(), norm.running_var.item()) == pytest.approx((3, 14 / 3))


def test_no_gradient_reaches_padding() -> None:
    x = batch(5).requires_grad_()
    MaskedBatchNorm(5)(x, REAL).square().sum().backward()
    assert (x.grad[0, 3] == 0).all() and (x.grad[1, 1:] == 0).all() and x.grad[0, 0].abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_are_computed_in_float32(dtype: torch.dtype) -> None:
    # 4096 frames of 100 and 101 in turn: the mean, 100.5, and sums of squares are beyond either type.
    x = (100 + torch.arange(4096) % 2).to(dtype).view(1, -1, 1)
    real = real_frames(torch.tensor([4096]), 4096)
    norm = MaskedBatchNorm(1, momentum=1.0)
    with torch.autocast("cpu", dtype):
        y = norm(x, real)
    assert y.dtype == dtype and norm.running_mean.dtype == torch.float32
    expected = x.double().mean().item(), x.double().var().item()
    assert (norm.running_mean.item(), norm.running_var.item()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_half_precision_updates_its_statistics(dtype: torch.dtype) -> None:
    norm = MaskedBatchNorm(1, momentum=1.0).to(dtype)
    assert norm(torch.tensor([[[1.0], [3.0]]], dtype=dtype), torch.tensor([0, 1])).dtype == dtype
    assert norm.running_mean.dtype == dtype and norm.running_mean.item() == 2.0


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("separable", [False, True])
def test_convolution_keeps_frames_in_their_place(stride: int, kernel: int, separable: bool) -> None:
    convolution = TimeConvolution(4, 6, kernel, stride, separable=separable)
    x = torch.randn(2, 11, 4)
    y = convolution(x)
    assert y.shape == (2, strided(11, stride), 6)
    changed = x.clone()
    changed[:, 10] += 1  # the last frame is in reach of half a kernel before it, and of no other
    reached = [t for t in range(y.shape[1]) if t * stride + kernel // 2 >= 10]
    moved = (convolution(changed) - y).abs().amax((0, 2)).nonzero().flatten().tolist()
    assert moved == reached


def test_a_dilated_convolution_equals_that_of_torch() -> None:
    convolution = TimeConvolution(4, 6, 3, dilation=2)
    x = torch.randn(1, 9, 4)
    expected = F.conv1d(x.transpose(1, 2), convolution.over_time.weight, padding=2, dilation=2)
    torch.testing.assert_close(convolution(x), expected.transpose(1, 2))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="a kernel of 4: give an odd number"):
        TimeConvolution(4, 6, 4)
