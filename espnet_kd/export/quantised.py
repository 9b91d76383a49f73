"""Layers that compute with the values of int8 graphs, for training: what int8.py writes, in torch.

onnxruntime quantises the inputs of a layer with one range for a whole call. A training has batches, so that
the ranges are here those of the calls of a search: of the encoder an utterance is one, of a decoder or a
joint network a step is one.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from espnet_kd.config import refuse_unknown
from espnet_kd.criteria.criterion import near_misses
from espnet_kd.errors import UserError
from espnet_kd.export.int8 import FRONT_END
from espnet_kd.rnnt.device import to_device
from espnet_kd.schedule import batches

KEYS = ("weights", "activations", "begin", "keep_float")
INT8 = "int8"
LATTICE_LAYER = "joint_network.lin_out"  # its inputs, one for each node of the lattice, are never in memory
STEPWISE = ("decoder.", "joint_network.")  # parts that a search calls step by step
ATTENDED = ("linear_k", "linear_v")  # but these read all that is attended to
SELF_ATTENTION = "self_attn"
ROUNDING = 1e-4  # of a number of frames


class Quantise(NamedTuple):
    """How a student is quantised in training.

    Attributes:
        begin: training batches before it.
        keep_float: layers that stay in float, ``LATTICE_LAYER`` among them.
    """

    begin: int = 0
    keep_float: tuple[str, ...] = (LATTICE_LAYER,)


def quantise_options(quantise: Mapping[str, Any]) -> Quantise:
    """Check the option ``quantise``.

    Keys:
        weights (int8; int8): of linear layers and convolutions over one frame, with a scale per output
            channel.
        activations (int8; int8): inputs of these layers, with a range that is measured as they come.
        begin (integer; 0): training batches in float before the first in int8; validation is as the
            training is by then.
        keep_float (list; none): layers that stay in float, by module path; of a transducer
            ``joint_network.lin_out`` does so by itself. `espnet-kd export --int8` leaves the same in float.

    Raises:
        UserError: a key is unknown or its value unusable.
    """
    if not isinstance(quantise, Mapping):
        raise UserError("quantise: write `quantise: {weights: int8, activations: int8, begin: 2000}`")
    refuse_unknown("quantise", quantise, KEYS)
    for key in KEYS[:2]:
        if quantise.get(key, INT8) != INT8:
            raise UserError(f"quantise: {key} is {quantise[key]!r}: int8 is what exported graphs have")
    begin, names = batches(quantise.get("begin", 0), "quantise.begin"), quantise.get("keep_float") or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"quantise: keep_float is {names!r}: give a list of layers, such as [ctc.ctc_lo]")
    return Quantise(begin, (*names, LATTICE_LAYER))


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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
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
            return nn.functional.conv1d(inputs, weight, self.bias)
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


def int8_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers that exported int8 graphs quantise: linear ones and convolutions over one frame."""
    for name, layer in model.named_modules():
        single = type(layer) is nn.Conv1d and layer.kernel_size == layer.stride == (1,)
        single = single and layer.padding == (0,) and layer.groups == 1
        if (single or type(layer) is nn.Linear) and not name.startswith((FRONT_END, "kd_")):
            yield name, layer


def check_kept(model: Any, keep_float: Collection[str]) -> None:
    """Refuse layers to leave in float that the model has not.

    Raises:
        UserError: there is no layer of a name.
    """
    layers = dict(int8_layers(model))
    for name in keep_float:
        if name not in {*layers, LATTICE_LAYER}:
            raise UserError(f"quantise: keep_float has {name}: {near_misses(name, list(layers))}")


def quantise(model: Any, keep_float: Collection[str]) -> Switch:
    """Make the layers of a model those of ``Quantised``, in place; names and tensors stay.

    Args:
        model: an ESPnet model.
        keep_float: layers to leave.

    Returns:
        Their switch, which is off.

    Raises:
        UserError: there is no layer of a name.
    """
    check_kept(model, keep_float)
    layers, switch = dict(int8_layers(model)), Switch()
    for name in layers.keys() - set(keep_float):
        layer = layers[name]
        attended = name.startswith(STEPWISE[0]) and name.endswith(ATTENDED)
        of_tokens = name.startswith(STEPWISE[0]) and SELF_ATTENTION in name
        layer.kd_switch = switch
        layer.kd_stepwise = name.startswith(STEPWISE) and not attended
        layer.kd_time = None if of_tokens else (2 if isinstance(layer, nn.Conv1d) else 1)
        layer.__class__ = QuantisedConv1d if isinstance(layer, nn.Conv1d) else QuantisedLinear
    model.encoder.register_forward_pre_hook(switch.begin, with_kwargs=True)
    return switch
