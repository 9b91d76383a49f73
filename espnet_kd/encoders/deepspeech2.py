"""Deep Speech 2: 2-D convolutions over time and frequency, then recurrent layers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import Tensor, nn

from espnet_kd.encoders.masked import (
    MaskedBatchNorm,
    odd,
    on_real_frames,
    real_frames,
    reversed_in_time,
    strided,
    without_padding,
)
from espnet_kd.errors import UserError

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}
DIRECTIONS = ("sum", "concat", "forward")
CLIP = 20.0  # upper limit of the clipped ReLU
KEYS = ("channels", "kernel", "stride")
# Kernels and strides are (time, frequency).
CONVOLUTIONS = [
    {"channels": 32, "kernel": [11, 41], "stride": [2, 2]},
    {"channels": 32, "kernel": [11, 21], "stride": [1, 2]},
]


class DeepSpeech2(AbsEncoder):
    """The encoder of Deep Speech 2; the model's CTC layer takes the place of the last fully connected layer.

    Layers that criteria can use: ``encoder.layers.N``, ``encoder.lookahead``, ``encoder.projection`` and
    ``encoder`` return (B, T, D).

    Args:
        input_size: features per frame; the paper uses a spectrogram of 160 bins.
        convolutions: channels, kernel and stride of each, the latter two as [time, frequency].
        layers: number of recurrent layers.
        hidden: units per layer and direction.
        cell: `gru` or `lstm`.
        directions: `sum`, the sum of forward and backward outputs, as in the paper; `concat`, both side by
            side; `forward`, forward only.
        batch_norm: whether to normalise the input of each recurrent layer but the first, over all frames of
            the batch.
        dropout: probability after each recurrent layer.
        lookahead: future frames that a convolution per channel after the recurrent layers uses (row
            convolution), for `directions: forward`; 0 leaves it out.
        projection: units of a last linear layer; None leaves it out.

    Raises:
        UserError: an option is unknown or unusable.

    Source:
        Amodei et al. 2016, arXiv:1512.02595, section 3.
    """

    def __init__(
        self,
        input_size: int,
        convolutions: Sequence[Mapping[str, Any]] = CONVOLUTIONS,
        layers: int = 5,
        hidden: int = 800,
        cell: str = "gru",
        directions: str = "sum",
        batch_norm: bool = True,
        dropout: float = 0.0,
        lookahead: int = 0,
        projection: int | None = None,
    ) -> None:
        super().__init__()
        for option, value, known in (("cell", cell, CELLS), ("directions", directions, DIRECTIONS)):
            if value not in known:
                raise UserError(f"deepspeech2: {option} is {value!r}; known: {', '.join(known)}")
        if min(layers, hidden, lookahead + 1) < 1:
            raise UserError(
                f"deepspeech2: layers is {layers}, hidden {hidden}, lookahead {lookahead}: "
                "give at least one layer and one unit, and a lookahead of 0 or more"
            )
        self.convolutions = nn.ModuleList()
        self.strides: list[int] = []  # over time
        channels, size = 1, input_size
        for i, mapping in enumerate(convolutions):
            self.convolutions.append(PlaneConvolution(channels, i, mapping))
            self.strides.append(mapping["stride"][0])
            channels, size = mapping["channels"], strided(size, mapping["stride"][1])
        self.stride = math.prod(self.strides)
        self.layers = nn.ModuleList()
        size *= channels
        for i in range(layers):
            self.layers.append(RecurrentLayer(size, hidden, cell, directions, batch_norm and i > 0, dropout))
            size = 2 * hidden if directions == "concat" else hidden
        self.lookahead = Lookahead(size, lookahead) if lookahead else None
        self.projection = nn.Linear(size, projection) if projection else None
        self._output_size = projection or size

    def output_size(self) -> int:
        """Return D, the number of features of the output."""
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
        x, olens = without_padding(xs_pad, ilens).unsqueeze(2), ilens  # (B, T, 1, F)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            olens = strided(olens, stride)
            x = convolution(x, real_frames(olens, strided(x.shape[1], stride)))
        x, real = x.flatten(2), real_frames(olens, x.shape[1])
        for layer in self.layers:
            x = layer(x, olens, real)
        if self.lookahead is not None:
            x = self.lookahead(x)
        if self.projection is not None:
            x = on_real_frames(self.projection, x, real)
        return x[:, : int(olens.max())], olens, None


def _are_sizes(mapping: Mapping[str, Any]) -> bool:
    """Return True if channels is an integer of at least 1, and kernel and stride are two of them each."""
    pairs = [mapping["kernel"], mapping["stride"]]
    if not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        return False
    return all(isinstance(n, int) and n >= 1 for n in (mapping["channels"], *pairs[0], *pairs[1]))


class PlaneConvolution(nn.Module):
    """Convolution over time and frequency, batch normalisation, ReLU clipped at 20."""

    def __init__(self, channels: int, index: int, mapping: Mapping[str, Any]) -> None:
        super().__init__()
        name = f"deepspeech2: convolutions[{index}]"
        if not isinstance(mapping, Mapping) or set(mapping) != set(KEYS) or not _are_sizes(mapping):
            raise UserError(
                f"{name} is {mapping!r}: "
                "write {channels: 32, kernel: [time, frequency], stride: [time, frequency]}"
            )
        time, frequency = (odd(k, name) for k in mapping["kernel"])
        self.stride: int = mapping["stride"][0]
        self.convolution = nn.Conv2d(
            channels, mapping["channels"], (time, frequency), mapping["stride"], (time // 2, frequency // 2),
            bias=False,
        )  # fmt: skip
        self.norm = MaskedBatchNorm(mapping["channels"])

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Compute (B, T, C, F) -> (B, T', D, F'); real: (N,) indices of the real frames among B * T'."""
        x = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return self.norm(x, real).clamp(0.0, CLIP)


class FromLastFrame:
    """Mixin before a recurrent layer: read each utterance from the last frame to the first."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (B, T, C), (B,) frames -> (B, T, D), in the order of x, and the layer's last state."""
        y, state = super().forward(reversed_in_time(x, lengths))  # type: ignore[misc]
        return reversed_in_time(y, lengths), state


class BackwardGRU(FromLastFrame, nn.GRU):  # type: ignore[misc]  # lengths in the place of a first state
    """A GRU from the last frame to the first."""


class BackwardLSTM(FromLastFrame, nn.LSTM):  # type: ignore[misc]  # as above
    """An LSTM from the last frame to the first."""


BACKWARD = {"gru": BackwardGRU, "lstm": BackwardLSTM}


class RecurrentLayer(nn.Module):
    """Batch normalisation, one recurrent layer in one or both directions, dropout."""

    def __init__(
        self, size: int, hidden: int, cell: str, directions: str, batch_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(size) if batch_norm else None
        # One module per direction: packed sequences are slow on CPUs, and need the lengths copied from a GPU.
        self.rnns = nn.ModuleList([CELLS[cell](size, hidden, batch_first=True)])
        if directions != "forward":
            self.rnns.append(BACKWARD[cell](size, hidden, batch_first=True))
        self.sum = directions == "sum"
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor, real: Tensor) -> Tensor:
        """Compute (B, T, C), (B,) frames, (N,) indices of real frames -> (B, T, D), zero in the padding."""
        if self.norm is not None:
            x = self.norm(x, real)
        y = self.rnns[0](x)[0]
        if len(self.rnns) == 2:
            z = self.rnns[1](x, lengths)[0]
            y = y + z if self.sum else torch.cat([y, z], -1)
        return self.dropout(without_padding(y, lengths))


class Lookahead(nn.Module):
    """Row convolution: sum each channel over a frame and the next ones, with weights."""

    def __init__(self, channels: int, future: int) -> None:
        super().__init__()
        self.future = future
        self.convolution = nn.Conv1d(channels, channels, future + 1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, T, C) -> (B, T, C)."""
        return self.convolution(F.pad(x.transpose(1, 2), (0, self.future))).transpose(1, 2)
