"""From numbers by utterance to a loss with a gradient, which is formed in the forward pass."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from espnet_kd.rnnt.gradient import Gradients
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice

Reduction = Literal["mean", "sum", "none"]
Compute = Callable[[Joint, Gradients | None], tuple[Tensor, ...]]


class LatticeLoss(NamedTuple):
    """What a training step logs, in nats; scalars, or (B,) for the reduction `none`.

    Attributes:
        loss: rnnt_weight * rnnt + kd_weight * kd; has the gradient.
        rnnt: RNN-T loss, detached; NaN if it is left out.
        kd: the teacher's term, detached; NaN if it is left out.
    """

    loss: Tensor
    rnnt: Tensor
    kd: Tensor


class Method(Protocol):
    """What is computed in the passes over a lattice."""

    weights: tuple[float | None, float | None]  # None: the term is left out

    def __call__(
        self, student: Joint, lattice: Lattice, share: float, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """Terms of the loss by utterance, rnnt and kd, (B,) each; their gradients are added.

        Args:
            student: detached.
            lattice: its real nodes.
            share: of an utterance in the loss.
            gradients: of the loss, are added to; None: only the values are wanted.
        """

    def utterance(self, number: int) -> "Method":
        """The same for one utterance of the batch."""


class _FormedInForward(torch.autograd.Function):
    """A scalar whose gradients are known when its value is."""

    @staticmethod
    def forward(
        ctx: Any, enc: Tensor, dec: Tensor, weight: Tensor, bias: Tensor, joint: Joint, compute: Compute
    ) -> tuple[Tensor, ...]:
        """The loss and its two parts, reduced."""
        detached = joint.with_tensors(*(x.detach() for x in (enc, dec, weight, bias)))
        needed = ctx.needs_input_grad[:4]
        gradients = Gradients(detached, needed) if any(needed) else None
        loss, rnnt, kd = compute(detached, gradients)
        ctx.mark_non_differentiable(rnnt, kd)
        ctx.save_for_backward(*(gradients or ()))
        return loss, rnnt, kd

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass formed."""
        return *(None if g is None else gradient * g for g in ctx.saved_tensors), None, None


def reduced(student: Joint, lattice: Lattice, method: Method, reduction: Reduction) -> LatticeLoss:
    """Apply a method to the student and reduce over the batch.

    Args:
        student: receives gradient.
        lattice: its real nodes.
        method: gives both terms and their gradients.
        reduction: `mean` over the batch, `sum`, or `none`.

    Raises:
        ValueError: unknown reduction.
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}: use one of {', '.join(get_args(Reduction))}")
    batch = lattice.shape[0]
    if reduction == "none":
        each = (
            reduced(student.utterance(b), lattice.utterance(b), method.utterance(b), "sum")
            for b in range(batch)
        )
        return LatticeLoss(*(torch.stack(values) for values in zip(*each, strict=True)))
    share = 1.0 / batch if reduction == "mean" else 1.0

    def compute(joint: Joint, gradients: Gradients | None) -> tuple[Tensor, ...]:
        rnnt, kd = (share * values.double().sum() for values in method(joint, lattice, share, gradients))
        loss = sum(w * term for w, term in zip(method.weights, (rnnt, kd), strict=True) if w)
        return tuple(torch.as_tensor(x).to(joint.enc) for x in (loss, rnnt, kd))

    dtype = torch.promote_types(student.enc.dtype, torch.float32)
    with torch.autocast(student.enc.device.type, enabled=False):
        wide = student.map(lambda x: x.to(dtype)).without_tanh()
        if not torch.is_grad_enabled():
            wide = wide.map(torch.Tensor.detach)  # else gradients would be formed, for nobody
        return LatticeLoss(*_FormedInForward.apply(wide.enc, wide.dec, wide.weight, wide.bias, wide, compute))
