"""Hold the tensors of a transducer's joint network, from which any part of its lattice can be computed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


class InPlace(NamedTuple):
    """An activation that is computed in place, and whose gradient follows from its output.

    Attributes:
        apply: overwrites its argument with the output.
        backward: (gradient by the output, output) -> gradient by the input; may overwrite the gradient.
    """

    apply: Activation
    backward: Callable[[Tensor, Tensor], Tensor]


def _sigmoid_backward(gradient: Tensor, y: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.sigmoid_backward.grad_input(gradient, y, grad_input=gradient)
    return result


ACTIVATIONS: Mapping[str, InPlace] = {
    "tanh": InPlace(torch.tanh_, torch.ops.aten.tanh_backward),
    "sigmoid": InPlace(torch.sigmoid_, _sigmoid_backward),
    "sigmoid_of_double": InPlace(
        lambda x: x.mul_(2).sigmoid_(),
        lambda gradient, y: _sigmoid_backward(gradient, y).mul_(2),
    ),
    "relu": InPlace(torch.relu_, lambda gradient, y: torch.ops.aten.threshold_backward(gradient, y, 0)),
    "identity": InPlace(lambda x: x, lambda gradient, _: gradient),
}


@dataclass(frozen=True)
class Joint:
    """The tensors of logits[b, t, u] = weight @ activation(enc[b, t] + dec[b, u]) + bias.

    The logits of the whole lattice are never in memory.

    Attributes:
        enc: (B, T, J) projected encoder output.
        dec: (B, U, J) projected output of the prediction network, U = longest label sequence + 1.
        weight: (V, J) of the output layer.
        bias: (V,) of the output layer.
        activation: a key of ACTIVATIONS, or an elementwise function that does not overwrite its argument.
    """

    enc: Tensor
    dec: Tensor
    weight: Tensor
    bias: Tensor
    activation: str | Activation = "tanh"

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: the shapes do not fit each other, or the activation is unknown.
        """
        if isinstance(self.activation, str) and self.activation not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.activation!r}: use {', '.join(ACTIVATIONS)}, or a function"
            )
        shapes = {name: tuple(getattr(self, name).shape) for name in ("enc", "dec", "weight", "bias")}
        enc, dec, weight, bias = shapes.values()
        fits = [len(enc), len(dec), len(weight), len(bias)] == [3, 3, 2, 1]
        if not (fits and enc[0] == dec[0] and enc[2] == dec[2] == weight[1] and weight[0] == bias[0]):
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"{listed} do not fit: give (B, T, J), (B, U, J), (V, J) and (V,)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (B, T, U), the shape of the lattice."""
        return (*self.enc.shape[:2], self.dec.shape[1])

    @property
    def classes(self) -> int:
        """Return V, the size of the vocabulary with the blank."""
        return len(self.weight)

    def hidden(self, enc: Tensor, dec: Tensor, out: Tensor) -> Tensor:
        """Compute the activation at the nodes of some frames and rows, (b, F, J) and (b, R, J) -> (N, J).

        Args:
            enc, dec: projected outputs; N = b * F * R.
            out: (N, J), memory for the sum; overwritten by the result if the activation has a name.
        """
        shape = (*enc.shape[:2], *dec.shape[1:])
        x = torch.add(enc[:, :, None], dec[:, None], out=out.view(shape)).flatten(0, 2)
        if not isinstance(self.activation, str):
            return self.activation(x)
        return ACTIVATIONS[self.activation].apply(x)

    def backward(self, gradient: Tensor, hidden: Tensor, enc: Tensor, dec: Tensor) -> Tensor:
        """Compute the gradient by enc + dec, (b, F, R, J); may overwrite the given one by hidden, (N, J)."""
        if isinstance(self.activation, str):
            gradient = ACTIVATIONS[self.activation].backward(gradient, hidden)
        else:
            with torch.enable_grad():
                x = (enc[:, :, None] + dec[:, None]).flatten(0, 2).requires_grad_()
                (gradient,) = torch.autograd.grad(self.activation(x), x, gradient)
        return gradient.view(*enc.shape[:2], *dec.shape[1:])

    def without_tanh(self) -> "Joint":
        """Return a joint network with the same logits, but sigmoid in place of tanh.

        tanh x = 2 sigmoid(2 x) - 1, and a CPU computes the sigmoid in a third of the time.
        """
        if self.activation != "tanh":
            return self
        bias = self.bias - self.weight.sum(1)
        return replace(self, weight=2 * self.weight, bias=bias, activation="sigmoid_of_double")

    def map(self, function: Callable[[Tensor], Tensor]) -> "Joint":
        """Apply a function to each of the four tensors."""
        return self.with_tensors(*(function(x) for x in (self.enc, self.dec, self.weight, self.bias)))

    def with_tensors(self, enc: Tensor, dec: Tensor, weight: Tensor, bias: Tensor) -> "Joint":
        """Return a joint network with these tensors and the same activation."""
        return replace(self, enc=enc, dec=dec, weight=weight, bias=bias)

    def utterance(self, number: int) -> "Joint":
        """Return one utterance, as a batch of one."""
        one = slice(number, number + 1)
        return replace(self, enc=self.enc[one], dec=self.dec[one])


class JointNetwork(Protocol):
    """The attributes of ESPnet's espnet2.asr_transducer.joint_network.JointNetwork that `joint_of` reads."""

    lin_enc: torch.nn.Module
    lin_dec: torch.nn.Module
    lin_out: torch.nn.Linear
    joint_activation: torch.nn.Module


def joint_of(network: JointNetwork, encoder_out: Tensor, decoder_out: Tensor) -> Joint:
    """Project encoder and decoder outputs, and take the output layer, of an ESPnet joint network.

    Args:
        network: ESPnet's JointNetwork.
        encoder_out: (B, T, D) encoder output.
        decoder_out: (B, U, D') output of the prediction network.
    """
    enc, dec = network.lin_enc(encoder_out), network.lin_dec(decoder_out)
    activation = network.joint_activation
    by_name = "tanh" if isinstance(activation, torch.nn.Tanh) else activation
    return Joint(enc, dec, network.lin_out.weight, network.lin_out.bias, by_name)
