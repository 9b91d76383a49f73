"""Layers that compute with the values which int8 graphs have: ONNX's DynamicQuantizeLinear, per channel weights.

What `espnet-kd export --int8` writes quantises the inputs of a layer with one range for a whole call. A
training has batches, so that the ranges are here those of the calls of a search: of the encoder an utterance
is one, of a decoder or a joint network a step is one.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from espnet_kd.criteria.criterion import near_misses
from espnet_kd.errors import UserError
from espnet_kd.methods.quantise import LATTICE_LAYER
from espnet_kd.rnnt.device import to_device

FRONT_END = "frontend"  # stays in float in exported graphs, too
STEPWISE = ("decoder.", "joint_network.")  # parts that a search calls step by step
ATTENDED = ("linear_k", "linear_v")  # but these read all that is attended to
SELF_ATTENTION = "self_attn"
ROUNDING = 1e-4  # of a number of frames


class Switch:
    """What the layers of a model share.

    Attributes:
        on: they compute with int8 values.
        share: (B,) part of each utterance of a batch that is no padding; None before the first.
    """

    def __init__(self) -> None:
        self.on = False
        self.share: Tensor | None = None

    def begin(self, encoder: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Forward pre-hook of an encoder: note the share of real frames of each utterance."""
        if self.on:
            features, lengths = [*inputs, *named.values()][:2]
            self.share = to_device(lengths, features.device) / features.shape[1]


class _StraightThrough(torch.autograd.Function):
    """Values in place of others, which get their gradient."""

    @staticmethod
    def forward(ctx: Any, replaced: Tensor, values: Tensor) -> Tensor:
        """Return the values in the type of what they replace."""
        return values.to(replaced.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Hand the gradient on."""
        return gradient, None


def int8_weights(weight: Tensor) -> Tensor:
    """Return weights as onnxruntime's ``quantize_dynamic`` rounds them, with a straight-through gradient.

    Args:
        weight: (O, ...) of O output channels.

    Returns:
        Of the same shape: multiples, -127 to 127, of a scale per channel.

    Source:
        The gradient: Bengio et al. 2013, arXiv:1308.3432; training so: Jacob et al. 2018, arXiv:1712.05877
        (both unverified).
    """
    with torch.no_grad():
        whole = weight.float()
        scale = whole.flatten(1).abs().amax(1) / 127
        scale = scale.where(scale > 0, 1.0).reshape(-1, *[1] * (weight.dim() - 1))
        rounded = (whole / scale).round() * scale
    return _StraightThrough.apply(weight, rounded)  # type: ignore[no-any-return]


def int8_activations(values: Tensor, stepwise: bool, real: Tensor | None = None) -> Tensor:
    """Return inputs of a layer as ONNX's DynamicQuantizeLinear rounds them, with a straight-through gradient.

    Args:
        values: (B, ...).
        stepwise: each vector has a range of its own; else each of the B.
        real: True where values are no padding, broadcast to ``values``; padding is no part of a range.

    Returns:
        Of the same shape: 256 equally spaced values over the range, of which 0 is one.
    """
    with torch.no_grad():
        whole = values.float()
        ranged = whole if real is None else whole.masked_fill(~real, 0.0)
        axes = [-1] if stepwise else list(range(1, values.dim()))
        low = ranged.amin(axes, keepdim=True).clamp(max=0)
        scale = (ranged.amax(axes, keepdim=True).clamp(min=0) - low) / 255
        scale = scale.where(scale > 0, 1.0)
        zero = (-low / scale).round()
        rounded = (((whole / scale).round() + zero).clamp(0, 255) - zero) * scale
    return _StraightThrough.apply(values, rounded)  # type: ignore[no-any-return]


class Quantised:
    """Mixin of a layer: its weights and inputs are those of int8 graphs while the switch is on.

    Attributes:
        kd_switch: of the model.
        kd_stepwise: see ``int8_activations``.
        kd_time: axis of the frames of the encoder in its input; None where it has others.
    """

    kd_switch: Switch
    kd_stepwise: bool
    kd_time: int | None

    def forward(self, values: Tensor) -> Tensor:
        """Compute the output."""
        if not self.kd_switch.on:
            return super().forward(values)  # type: ignore[misc,no-any-return]
        inputs = int8_activations(values, self.kd_stepwise, self._real(values))
        weight = int8_weights(self.weight)  # type: ignore[attr-defined]
        if isinstance(self, nn.Conv1d):
            return self._conv_forward(inputs, weight, self.bias)
        return nn.functional.linear(inputs, weight, self.bias)  # type: ignore[attr-defined]

    def _real(self, values: Tensor) -> Tensor | None:
        """Return which frames are no padding, None if the range of each needs no others."""
        share = self.kd_switch.share
        if self.kd_stepwise or self.kd_time is None or share is None or len(share) != len(values):
            return None
        frames = values.shape[self.kd_time]
        number = (share * frames - ROUNDING).ceil()
        real = torch.arange(frames, device=values.device) < number[:, None]  # (B, T)
        shape = [len(values)] + [1] * (values.dim() - 1)
        shape[self.kd_time] = frames
        return real.reshape(shape)


class QuantisedLinear(Quantised, nn.Linear):
    """A linear layer."""


class QuantisedConv1d(Quantised, nn.Conv1d):
    """A convolution over single frames."""


def int8_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers that exported int8 graphs quantise: linear ones and convolutions over one frame."""
    for name, layer in model.named_modules():
        plain = type(layer) is nn.Conv1d and (layer.kernel_size, layer.stride, layer.padding, layer.groups) == (
            (1,), (1,), (0,), 1,
        )  # fmt: skip
        if (plain or type(layer) is nn.Linear) and not name.startswith((FRONT_END, "kd_")):
            yield name, layer


def quantise(model: nn.Module, keep_float: Collection[str]) -> Switch:
    """Make the layers of a model those of ``Quantised``, in place; names and tensors stay.

    Args:
        model: an ESPnet model.
        keep_float: layers to leave; ``LATTICE_LAYER`` is left in any case.

    Returns:
        Their switch, which is off.

    Raises:
        UserError: there is no layer of a name.
    """
    layers, switch = dict(int8_layers(model)), Switch()
    for name in keep_float:
        if name not in layers:
            raise UserError(f"quantise: keep_float has {name}: {near_misses(name, list(layers))}")
    for name in layers.keys() - {*keep_float, LATTICE_LAYER}:
        layer = layers[name]
        attended = name.startswith(STEPWISE[0]) and name.endswith(ATTENDED)
        of_tokens = name.startswith(STEPWISE[0]) and SELF_ATTENTION in name
        layer.kd_switch = switch
        layer.kd_stepwise = name.startswith(STEPWISE) and not attended
        layer.kd_time = None if of_tokens else (2 if isinstance(layer, nn.Conv1d) else 1)
        layer.__class__ = QuantisedConv1d if isinstance(layer, nn.Conv1d) else QuantisedLinear
    model.encoder.register_forward_pre_hook(switch.begin, with_kwargs=True)
    return switch
