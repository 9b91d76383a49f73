"""Jasper: blocks of 1-D convolutions with residual connections; with separable convolutions Jasper Mini."""

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
class Layer:
    """A convolution with batch normalisation, ReLU and dropout; a block has several of one kind."""

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
    """The encoder; the CTC layer of the model is its last 1x1 convolution.

    Taps: ``encoder.prologue``, ``encoder.blocks.N``, ``encoder.epilogue.N`` and ``encoder`` give (B, T, C).

    Args:
        input_size: features of a frame, published: 64 log-mel.
        prologue: a layer, with its stride in time.
        blocks: one layer per block.
        repeat: layers in each block.
        epilogue: layers after the blocks.
        residual: what is added before the last ReLU of a block, each through a 1x1 convolution and batch
            normalisation: `dense`, the outputs of the prologue and all blocks before it; `plain`, its input;
            `none`.
        separable: all convolutions over time per channel, then 1x1.

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
        first = _layer("prologue", prologue)
        self.stride = first.stride
        self.prologue = SubBlock(input_size, first, separable)
        outputs = [first.channels]
        self.blocks = nn.ModuleList()
        for i, mapping in enumerate(blocks):
            layer = _unstrided(f"blocks[{i}]", mapping)
            sources = {"dense": outputs, "plain": outputs[-1:], "none": []}[residual]
            self.blocks.append(Block(outputs[-1], layer, repeat, separable, sources))
            outputs.append(layer.channels)
        self._output_size = outputs[-1]
        self.epilogue = nn.ModuleList()
        for i, mapping in enumerate(epilogue):
            layer = _unstrided(f"epilogue[{i}]", mapping)
            self.epilogue.append(SubBlock(self._output_size, layer, separable))
            self._output_size = layer.channels

    def output_size(self) -> int:
        """Channels of the last layer."""
        return self._output_size

    def forward(
        self, xs_pad: Tensor, ilens: Tensor, prev_states: Tensor | None = None
    ) -> tuple[Tensor, Tensor, None]:
        """Encode a batch.

        Args:
            xs_pad: (B, T, input_size); padding may hold anything.
            ilens: (B,) frames.
            prev_states: not used.

        Returns:
            (B, T', output_size), zero in padding; (B,) frames; None.
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

    def __init__(self, channels: int, layer: Layer, separable: bool) -> None:
        super().__init__()
        self.convolution = TimeConvolution(
            channels, layer.channels, layer.kernel, layer.stride, layer.dilation, separable
        )
        self.norm = MaskedBatchNorm(layer.channels, eps=EPSILON)
        self.dropout = nn.Dropout(layer.dropout)

    def forward(self, x: Tensor, real: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B, T, C) and what to add, (B, T', D) -> (B, T', D); real: (N,) indices of the frames of T'."""
        x = self.norm(self.convolution(x), real)
        return self.dropout(torch.relu(x if residual is None else x + residual))


class Shortcut(nn.Module):
    """A residual connection: 1x1 convolution and batch normalisation."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.convolution = TimeConvolution(channels, filters)
        self.norm = MaskedBatchNorm(filters, eps=EPSILON)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, D)."""
        return self.norm(self.convolution(x), real)


class Block(nn.Module):
    """Layers of one size; residual connections from earlier outputs end before the last ReLU."""

    def __init__(
        self, channels: int, layer: Layer, repeat: int, separable: bool, sources: Sequence[int]
    ) -> None:
        super().__init__()
        if repeat < 1:
            raise UserError(f"jasper: repeat is {repeat}: give the number of layers in a block, at least 1")
        inputs = [channels] + [layer.channels] * (repeat - 1)
        self.layers = nn.ModuleList(SubBlock(size, layer, separable) for size in inputs)
        self.shortcuts = nn.ModuleList(Shortcut(size, layer.channels) for size in sources)

    def forward(self, outputs: Sequence[Tensor], real: Tensor) -> Tensor:
        """Outputs (B, T, C) of the prologue and the blocks so far -> (B, T, D)."""
        x = outputs[-1]
        for layer in self.layers[:-1]:
            x = layer(x, real)
        residual = None
        sources = outputs[len(outputs) - len(self.shortcuts) :]
        for shortcut, source in zip(self.shortcuts, sources, strict=True):
            term = shortcut(source, real)
            residual = term if residual is None else residual + term
        return self.layers[-1](x, real, residual)


def _layer(name: str, mapping: Mapping[str, Any]) -> Layer:
    if not isinstance(mapping, Mapping):
        raise UserError(f"jasper: {name} is {mapping!r}: write {{channels: 256, kernel: 11}}")
    known = [field.name for field in fields(Layer)]
    unknown = [str(key) for key in mapping if key not in known]
    if unknown:
        raise UserError(f"jasper: {name}: unknown key {', '.join(unknown)}; known: {', '.join(known)}")
    missing = [key for key in ("channels", "kernel") if key not in mapping]
    if missing:
        raise UserError(f"jasper: {name}: {', '.join(missing)} is missing")
    layer = Layer(**mapping)
    for key in ("channels", "kernel", "stride", "dilation"):
        value = getattr(layer, key)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"jasper: {name}: {key} is {value!r}, not a whole number from 1")
    odd(layer.kernel, f"jasper: {name}")
    return layer


def _unstrided(name: str, mapping: Mapping[str, Any]) -> Layer:
    layer = _layer(name, mapping)
    if layer.stride != 1:
        raise UserError(f"jasper: {name}: stride is {layer.stride}: only the prologue may have one")
    return layer
