"""Which entries of the tensors of ESPnet's models belong to the same channel.

A channel is one unit of a layer's width: of the vectors that a stack of layers passes on (`output_size`), of
a feed-forward layer (`linear_units`), of an attention head, of a convolution. To remove one, its entries must
go from every tensor that writes or reads it.

Relied upon: the parts of Transformer and Conformer encoders and of Transformer decoders that ``_Describer``
names, with their layouts. A tensor that is not described has no channels that could be removed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from espnet_kd.host.installed import check_espnet

check_espnet()  # before anything of ESPnet is imported

from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule
from espnet2.legacy.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import PositionwiseFeedForward
from torch import nn

from espnet_kd.host.models import Model, ctc_layer

ENCODER_LAYERS, DECODER_LAYERS = "encoder.encoders", "decoder.decoders"  # module paths of the stacks


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor: ``copies`` blocks, each with ``entries`` neighbours for every channel.

    Attributes:
        group: of the channels.
        copies: blocks of all channels, one after another: 2 where a gated unit makes values and gates.
        entries: of one channel side by side: the frequencies that a linear layer reads of a convolution.
    """

    group: str
    copies: int = 1
    entries: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of one kind, in one place.

    Attributes:
        size: number of channels.
        heads: of attention, each with ``size / heads`` of the channels; 1 elsewhere.
        pair: name of the other group of the same heads: queries and keys have one, values another.
        are_frequencies: the channels are sines and cosines of a positional encoding, which no layer writes.
    """

    size: int
    heads: int = 1
    pair: str = ""
    are_frequencies: bool = False

    @property
    def width(self) -> int:
        """Return the channels of a head."""
        return self.size // self.heads


@dataclass
class Channels:
    """The channels of a model.

    Attributes:
        groups: by name, which begins with a module path.
        axes: tensor -> its axes; None for an axis without channels.
        powers: tensor -> group and power: where a head, or a vector, gets narrower by a factor, the tensor is
            multiplied by the factor to this power, so that what ESPnet computes stays the same: it divides
            products of queries and keys by the root of a head's width, and multiplies the input of the
            first layer by the root of ``output_size``.
        norms: weights of layer normalisations -> group; ESPnet divides by the root mean square of the group.
    """

    groups: dict[str, ChannelGroup] = field(default_factory=dict)
    axes: dict[str, tuple[Axis | None, ...]] = field(default_factory=dict)
    powers: dict[str, tuple[str, float]] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)


def channels_of(model: Model) -> Channels:
    """Describe the channels of a model."""
    found = _Describer()
    encoder, decoder = model.encoder, getattr(model, "decoder", None)
    encoded = None
    if isinstance(encoder, ConformerEncoder | TransformerEncoder):
        encoded = found.group("encoder:vectors", encoder.output_size())
        found.stack("encoder", encoder, encoder.encoders, ENCODER_LAYERS, encoded, None)
        if encoder.conditioning_layer is not None:
            found.linear("encoder.conditioning_layer", encoder.conditioning_layer, encoded, None)
    if getattr(model, "postencoder", None) is not None:
        encoded = None
    if ctc_layer(model) is not None and hasattr(model, "ctc"):
        found.linear("ctc.ctc_lo", ctc_layer(model), None, encoded)
    if isinstance(decoder, TransformerDecoder) and encoded is not None:
        vectors = found.group("decoder:vectors", encoder.output_size())
        found.stack("decoder", decoder, decoder.decoders, DECODER_LAYERS, vectors, encoded)
        if decoder.output_layer is not None:
            found.linear("decoder.output_layer", decoder.output_layer, None, vectors)
    return found.channels


def feed_forwards(model: Model) -> dict[str, Any]:
    """Return the feed-forward layers whose channels can be removed, by module path; w_1 writes, w_2 reads."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, PositionwiseFeedForward)}
    groups = channels_of(model).groups if found else {}
    return {name: part for name, part in found.items() if name in groups}


class _Describer:
    """Collect the channels of a model, part by part."""

    def __init__(self) -> None:
        self.channels = Channels()

    def group(self, name: str, size: int, **kind: Any) -> Axis:
        """Add a group, and return an axis of it."""
        self.channels.groups[name] = ChannelGroup(size, **kind)
        return Axis(name)

    def size(self, axis: Axis) -> int:
        """Return the number of channels of an axis."""
        return self.channels.groups[axis.group].size

    def tensor(self, name: str, *axes: Axis | None) -> None:
        """Describe a tensor."""
        self.channels.axes[name] = axes

    def linear(self, path: str, layer: Any, out: Axis | None, inp: Axis | None, *rest: None) -> None:
        """Describe a linear layer or a convolution: weight (out, in, ...) and bias (out)."""
        self.tensor(f"{path}.weight", out, inp, *rest)
        if layer.bias is not None:
            self.tensor(f"{path}.bias", out)

    def stack(
        self, path: str, part: Any, layers: Any, layers_path: str, vectors: Axis, memory: Axis | None
    ) -> None:
        """Describe an encoder or a decoder."""
        self._embed(f"{path}.embed", part.embed, vectors)
        if hasattr(part, "after_norm"):
            self._layer_norm(f"{path}.after_norm", part.after_norm, vectors)
        positions = self.group(f"{path}:positions", self.size(vectors), are_frequencies=True)
        known: dict[type, Callable[[str, Any], None]] = {
            nn.LayerNorm: lambda at, norm: self._layer_norm(at, norm, vectors),
            PositionwiseFeedForward: lambda at, part: self._feed_forward(at, part, vectors),
            ConvolutionModule: lambda at, part: self._convolution(at, part, vectors),
        }
        for i, layer in enumerate(layers):
            for name, child in layer.named_children():
                at = f"{layers_path}.{i}.{name}"
                if isinstance(child, MultiHeadedAttention):
                    read = memory if name == "src_attn" and memory is not None else vectors
                    self._attention(at, child, vectors, read, positions)
                for kind, describe in known.items():
                    if isinstance(child, kind):
                        describe(at, child)

    def _embed(self, path: str, embed: Any, vectors: Axis) -> None:
        """Describe what makes the vectors of the first layer: convolutions, or an embedding of tokens."""
        last: str | None = None
        names: tuple[str, ...] = ()
        if isinstance(embed, nn.Sequential) and isinstance(embed[0], nn.Embedding):
            last, names, encoding = f"{path}.0", ("weight",), embed[-1]
            self.tensor(f"{path}.0.weight", None, vectors)
        elif hasattr(embed, "conv") and isinstance(getattr(embed, "out", None), nn.Linear):
            last, names, encoding, before = f"{path}.out", ("weight", "bias"), embed.pos_enc, None
            for i, layer in enumerate(embed.conv):
                if isinstance(layer, nn.Conv1d | nn.Conv2d):
                    out = self.group(f"{path}.conv.{i}", layer.out_channels)
                    kernel = [None] * len(layer.kernel_size)
                    self.linear(f"{path}.conv.{i}", layer, out, before, *kernel)
                    before = out
            assert before is not None
            read = Axis(before.group, entries=embed.out.in_features // self.size(before))
            self.linear(f"{path}.out", embed.out, vectors, read)
        if last is not None and math.isclose(getattr(encoding, "xscale", 1.0), math.sqrt(self.size(vectors))):
            self.channels.powers |= {f"{last}.{name}": (vectors.group, 0.5) for name in names}

    def _layer_norm(self, path: str, norm: Any, vectors: Axis) -> None:
        self.linear(path, norm, vectors, None)
        self.tensor(f"{path}.weight", vectors)
        self.channels.norms[f"{path}.weight"] = vectors.group

    def _feed_forward(self, path: str, part: Any, vectors: Axis) -> None:
        inner = self.group(path, part.w_1.out_features)
        self.linear(f"{path}.w_1", part.w_1, inner, vectors)
        self.linear(f"{path}.w_2", part.w_2, vectors, inner)

    def _convolution(self, path: str, part: Any, vectors: Axis) -> None:
        inner = self.group(path, part.depthwise_conv.out_channels)
        self.linear(f"{path}.pointwise_conv1", part.pointwise_conv1, Axis(path, copies=2), vectors, None)
        self.linear(f"{path}.depthwise_conv", part.depthwise_conv, inner, None, None)
        self.linear(f"{path}.pointwise_conv2", part.pointwise_conv2, vectors, inner, None)
        if isinstance(part.norm, nn.BatchNorm1d):
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.tensor(f"{path}.norm.{name}", inner)

    def _attention(self, path: str, part: Any, vectors: Axis, read: Axis, positions: Axis) -> None:
        names = f"{path}:queries", f"{path}:values"
        compared = self.group(names[0], part.h * part.d_k, heads=part.h, pair=names[1])
        values = self.group(names[1], part.h * part.d_k, heads=part.h, pair=names[0])
        self.linear(f"{path}.linear_q", part.linear_q, compared, vectors)
        self.linear(f"{path}.linear_k", part.linear_k, compared, read)
        self.linear(f"{path}.linear_v", part.linear_v, values, read)
        self.linear(f"{path}.linear_out", part.linear_out, vectors, values)
        scaled = ["linear_q.weight", "linear_q.bias"]
        if hasattr(part, "linear_pos"):
            self.linear(f"{path}.linear_pos", part.linear_pos, compared, positions)
            for name in ("pos_bias_u", "pos_bias_v"):
                self.tensor(f"{path}.{name}", compared)
                scaled.append(name)
        if isinstance(part.q_norm, nn.Identity):  # otherwise a norm follows, which undoes any factor
            self.channels.powers |= {f"{path}.{name}": (names[0], -0.5) for name in scaled}
