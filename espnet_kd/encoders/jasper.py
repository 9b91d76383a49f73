"""Jasper: blocks of 1-D convolutions with residual connections. With separable convolutions: Jasper Mini."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import Tensor, nn

from espnet_kd.encoders.masked import (
    MaskedBatchNorm,
    TimeConvolution,
    odd,
    real_frames,
    strided,
    without_padding,
)
from espnet_kd.errors import UserError

RESIDUALS = ("dense", "plain", "none")
EPSILON = 1e-3  # of batch normalisation


@dataclass(frozen=True)
class SubBlockSizes:
    """Options of a sub-block: a convolution with batch normalisation, ReLU and dropout."""

    channels: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    dropout: float = 0.0


# Jasper 10x5 as published.
PROLOGUE = {"channels": 256, "kernel": 11, "stride": 2, "dropout": 0.2}
BLOCKS = [
    {"channels": channels, "kernel": kernel, "dropout": dropout}
    for channels, kernel, dropout in (
        (256, 11, 0.2), (384, 13, 0.2), (512, 17, 0.2), (640, 21, 0.3), (768, 25, 0.3)
    )
    for _ in range(2)
]  # fmt: skip
EPILOGUE = [
    {"channels": 896, "kernel": 29, "dilation": 2, "dropout": 0.4},
    {"channels": 1024, "kernel": 1, "dropout": 0.4},
]


class Jasper(AbsEncoder):
    """The encoder of Jasper; the model's CTC layer takes the place of the last 1x1 convolution.

    Layers that criteria can use: ``encoder.prologue``, ``encoder.blocks.N``, ``encoder.epilogue.N`` and
    ``encoder`` return (B, T, C).

    Args:
        input_size: features per frame; the paper uses 64 log-mel features.
        prologue: options of the first sub-block: channels, kernel, dilation (1) and dropout (0.0), which all
            sub-blocks have, and stride (1).
        blocks: options of the sub-blocks of each block.
        repeat: sub-blocks per block.
        epilogue: options of the sub-blocks after the blocks.
        residual: what is added before the last ReLU of a block, each through a 1x1 convolution and batch
            normalisation: `dense`, the outputs of the prologue and of all blocks before; `plain`, the block's
            input; `none`.
        separable: whether convolutions over time are split into one per channel and a 1x1 convolution.

    Raises:
        UserError: an option is unknown or unusable.

    Source:
        Li et al. 2019, arXiv:1904.03288: the defaults are Jasper 10x5 DR.
    """

    def __init__(
        self,
        input_size: int,
        prologue: Mapping[str, Any] = PROLOGUE,
        blocks: Sequence[Mapping[str, Any]] = BLOCKS,
        repeat: int = 5,
        epilogue: Sequence[Mapping[str, Any]] = EPILOGUE,
        residual: str = "dense",
        separable: bool = False,
    ) -> None:
        super().__init__()
        if residual not in RESIDUALS:
            raise UserError(f"jasper: residual is {residual!r}; known: {', '.join(RESIDUALS)}")
        first = _sizes("prologue", prologue)
        self.stride = first.stride
        self.prologue = SubBlock(input_size, first, separable)
        outputs = [first.channels]
        self.blocks = nn.ModuleList()
        for i, mapping in enumerate(blocks):
            sizes = _sizes_without_stride(f"blocks[{i}]", mapping)
            sources = {"dense": outputs, "plain": outputs[-1:], "none": []}[residual]
            self.blocks.append(JasperBlock(outputs[-1], sizes, repeat, separable, sources))
            outputs.append(sizes.channels)
        self._output_size = outputs[-1]
        self.epilogue = nn.ModuleList()
        for i, mapping in enumerate(epilogue):
            sizes = _sizes_without_stride(f"epilogue[{i}]", mapping)
            self.epilogue.append(SubBlock(self._output_size, sizes, separable))
            self._output_size = sizes.channels

    def output_size(self) -> int:
        """Return C, the number of channels of the output."""
        return self._output_size

    def forward(
        self, xs_pad: Tensor, ilens: Tensor, prev_states: Tensor | None = None
    ) -> tuple[Tensor, Tensor, None]:
        """Encode a batch.

        Args:
            xs_pad: (B, T, input_size); padding may hold anything.
            ilens: (B,) number of frames.
            prev_states: not used.

        Returns:
            (B, T', output_size), zero in the padding; (B,) number of frames; None.
        """
        olens = strided(ilens, self.stride)
        real = real_frames(olens, strided(xs_pad.shape[1], self.stride))
        outputs = [self.prologue(without_padding(xs_pad, ilens), real)]
        for block in self.blocks:
            outputs.append(block(outputs, real))
        x = outputs[-1]
        for layer in self.epilogue:
            x = layer(x, real)
        return x[:, : int(olens.max())], olens, None


class SubBlock(nn.Module):
    """Convolution, batch normalisation, sum with residual connections, ReLU, dropout."""

    def __init__(self, channels: int, sizes: SubBlockSizes, separable: bool) -> None:
        super().__init__()
        self.convolution = TimeConvolution(
            channels, sizes.channels, sizes.kernel, sizes.stride, sizes.dilation, separable
        )
        self.norm = MaskedBatchNorm(sizes.channels, eps=EPSILON)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, real: Tensor, residual: Tensor | None = None) -> Tensor:
        """Compute (B, T, C) and the sum of residual connections, (B, T', D), -> (B, T', D).

        `real` is (N,), indices of the real frames among B * T'.
        """
        x = self.norm(self.convolution(x), real)
        return self.dropout(torch.relu(x if residual is None else x + residual))


class Shortcut(nn.Module):
    """Residual connection: 1x1 convolution and batch normalisation."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.convolution = TimeConvolution(channels, filters)
        self.norm = MaskedBatchNorm(filters, eps=EPSILON)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Compute (B, T, C) -> (B, T, D)."""
        return self.norm(self.convolution(x), real)


class JasperBlock(nn.Module):
    """Sub-blocks of one size; residual connections from earlier outputs end before the last ReLU."""

    def __init__(
        self, channels: int, sizes: SubBlockSizes, repeat: int, separable: bool, sources: Sequence[int]
    ) -> None:
        super().__init__()
        if repeat < 1:
            raise UserError(f"jasper: repeat is {repeat}: give the number of layers in a block, at least 1")
        inputs = [channels] + [sizes.channels] * (repeat - 1)
        self.layers = nn.ModuleList(SubBlock(size, sizes, separable) for size in inputs)
        self.shortcuts = nn.ModuleList(Shortcut(size, sizes.channels) for size in sources)

    def forward(self, outputs: Sequence[Tensor], real: Tensor) -> Tensor:
        """Compute the outputs, (B, T, C) each, of the prologue and all blocks before -> (B, T, D)."""
        x = outputs[-1]
        for layer in self.layers[:-1]:
            x = layer(x, real)
        residual = None
        sources = outputs[len(outputs) - len(self.shortcuts) :]
        for shortcut, source in zip(self.shortcuts, sources, strict=True):
            term = shortcut(source, real)
            residual = term if residual is None else residual + term
        return self.layers[-1](x, real, residual)


def _sizes(name: str, mapping: Mapping[str, Any]) -> SubBlockSizes:
    """Check the options of a sub-block.

    Raises:
        UserError: a key is unknown, missing or has an unusable value.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"jasper: {name} is {mapping!r}: write {{channels: 256, kernel: 11}}")
    known = [field.name for field in fields(SubBlockSizes)]
    unknown = [str(key) for key in mapping if key not in known]
    if unknown:
        raise UserError(f"jasper: {name}: unknown key {', '.join(unknown)}; known: {', '.join(known)}")
    missing = [key for key in ("channels", "kernel") if key not in mapping]
    if missing:
        raise UserError(f"jasper: {name}: {', '.join(missing)} is missing")
    sizes = SubBlockSizes(**mapping)
    for key in ("channels", "kernel", "stride", "dilation"):
        value = getattr(sizes, key)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"jasper: {name}: {key} is {value!r}: give an integer of at least 1")
    odd(sizes.kernel, f"jasper: {name}")
    return sizes


def _sizes_without_stride(name: str, mapping: Mapping[str, Any]) -> SubBlockSizes:
    """Check the options of a sub-block that has no stride.

    Raises:
        UserError: a stride is set, or an option is unusable.
    """
    sizes = _sizes(name, mapping)
    if sizes.stride != 1:
        raise UserError(
            f"jasper: {name}: stride is {sizes.stride}, but only the prologue may have one: leave it out"
        )
    return sizes
