"""Layers that ignore padding: the output for an utterance is the same alone and in any batch.

Axes: B utterances, T frames, C channels, N real frames of all utterances. Normalisation sets padding to zero,
so that the next convolution reads zeros beyond the end of each utterance, as for an utterance alone.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from espnet_kd.errors import UserError


def strided[Length: (int, Tensor)](length: Length, stride: int) -> Length:
    """Return the number of output frames of a convolution whose odd kernel is padded by half its size.

    Args:
        length: number of input frames, an integer or (B,).
        stride: of the convolution.
    """
    return (length - 1) // stride + 1


def real_frames(lengths: Tensor, frames: int) -> Tensor:
    """Return indices, (N,), of the real frames among the B * T of a batch with (B,) lengths."""
    if torch.compiler.is_exporting():  # one utterance without padding; N must be known
        return torch.arange(lengths.shape[0] * frames, device=lengths.device)
    mask = torch.arange(frames, device=lengths.device) < lengths[:, None]
    return mask.flatten().nonzero().squeeze(-1)


def on_real_frames(function: Callable[[Tensor], Tensor], x: Tensor, real: Tensor) -> Tensor:
    """Apply a function (N, ...) -> (N, ...) to the real frames of (B, T, ...), and set padding to zero."""
    result = function(x.flatten(0, 1).index_select(0, real))
    empty = result.new_zeros(x.shape[0] * x.shape[1], *result.shape[1:])
    return empty.index_copy(0, real, result).unflatten(0, x.shape[:2])


def without_padding(xs: Tensor, lengths: Tensor) -> Tensor:
    """Set the padding of (B, T, D), beyond (B,) lengths, to zero; it may hold NaN."""
    mask = torch.arange(xs.shape[1], device=xs.device) < lengths[:, None]
    return xs.masked_fill(~mask[..., None], 0.0)


def reversed_in_time(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the real frames, (B,) of them, of each utterance of (B, T, C); leave padding in place."""
    frames = torch.arange(x.shape[1], device=x.device)
    order = torch.where(frames < lengths[:, None], lengths[:, None] - 1 - frames, frames)
    return x.gather(1, order[..., None].expand_as(x))


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation with statistics, also running ones, of the real frames only, in float32."""

    def forward(self, x: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise each channel.

        Args:
            x: (B, T, C) or (B, T, C, F), where the F values of a frame share the channel's statistics.
            real: (N,) indices of the real frames.

        Returns:
            The same shape, zero in the padding.
        """
        return on_real_frames(self._normalise, x, real)

    def _normalise(self, x: Tensor) -> Tensor:
        """Normalise (N, C) or (N, C, F)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        mean, variance = self.running_mean.to(dtype), self.running_var.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            y = F.batch_norm(
                x.to(dtype), mean, variance, self.weight.to(dtype), self.bias.to(dtype), self.training,
                self.momentum, self.eps,
            )  # fmt: skip
        if self.training and mean is not self.running_mean:  # the model is kept in half precision
            self.running_mean.copy_(mean)
            self.running_var.copy_(variance)
        return y.to(x.dtype)


def odd(kernel: int, name: str) -> int:
    """Return the size of a kernel if it is odd.

    Raises:
        UserError: it is even; such a kernel has no middle and would shift the frames.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise UserError(f"{name} has a kernel of {kernel}: give an odd number")
    return kernel


class TimeConvolution(nn.Module):
    """Convolution over time without bias.

    Separable: a convolution per channel, then a 1x1 convolution. A kernel of 1 has the 1x1 convolution only.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        separable: bool = False,
    ) -> None:
        super().__init__()
        pointwise = kernel == stride == 1
        inner = channels if separable else filters
        self.over_time = None if pointwise else nn.Conv1d(
            channels, inner, odd(kernel, "a convolution"), stride, dilation * (kernel // 2), dilation,
            groups=channels if separable else 1, bias=False,
        )  # fmt: skip
        self.pointwise = nn.Linear(channels, filters, bias=False) if pointwise or separable else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, T, C) with zeros in the padding -> (B, T', D) with any values in the padding."""
        if self.over_time is not None:
            x = self.over_time(x.transpose(1, 2)).transpose(1, 2)
        return x if self.pointwise is None else self.pointwise(x)
