"""Reduce values per utterance to a loss whose gradient is computed in the forward pass."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from espnet_kd.rnnt.device import full_precision
from espnet_kd.rnnt.gradient import Gradients
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice

Reduction = Literal["mean", "sum", "none"]
Compute = Callable[[Joint, Gradients | None], tuple[Tensor, ...]]


class LatticeLoss(NamedTuple):
    """The loss over a lattice and its two terms, in nats; scalars, or (B,) for the reduction `none`.

    Attributes:
        loss: rnnt_weight * rnnt + kd_weight * kd; carries the gradient.
        rnnt: RNN-T loss, detached; NaN if it is left out.
        kd: distillation term, detached; NaN if it is left out.
    """

    loss: Tensor
    rnnt: Tensor
    kd: Tensor


class LatticeTerms(Protocol):
    """Computes the terms of a loss, and their gradients, in passes over a lattice.

    Attributes:
        weights: factors of the RNN-T loss and of the distillation term; None leaves a term out.
        chunk: nodes whose logits are held at a time.
    """

    weights: tuple[float | None, float | None]
    chunk: int

    def __call__(
        self, student: Joint, lattice: Lattice, share: float, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """Compute both terms, rnnt and kd, as a sum or (B,), and add the gradient of the loss.

        Args:
            student: detached.
            lattice: real nodes.
            share: factor of each utterance in the loss.
            gradients: the sums to add to; None computes values only.
        """

    def utterance(self, number: int) -> "LatticeTerms":
        """Return the same computation for one utterance of the batch."""


class _FormedInForward(torch.autograd.Function):
    """A scalar whose gradients are computed together with its value, in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, enc: Tensor, dec: Tensor, weight: Tensor, bias: Tensor, joint: Joint, compute: Compute
    ) -> tuple[Tensor, ...]:
        """Compute the loss and its two terms, and keep the gradients."""
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
        """Scale the gradients that the forward pass computed."""
        return *(None if g is None else gradient * g for g in ctx.saved_tensors), None, None


def reduce_terms(student: Joint, lattice: Lattice, terms: LatticeTerms, reduction: Reduction) -> LatticeLoss:
    """Compute the terms of a loss and reduce them over the batch.

    Args:
        student: receives gradient.
        lattice: real nodes.
        terms: computes both terms and their gradients.
        reduction: `mean` over the batch, `sum`, or `none`.

    Raises:
        ValueError: the reduction is unknown.
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}: use one of {', '.join(get_args(Reduction))}")
    batch = lattice.shape[0]
    if reduction == "none":
        each = (
            reduce_terms(student.utterance(b), lattice.utterance(b), terms.utterance(b), "sum")
            for b in range(batch)
        )
        return LatticeLoss(*(torch.stack(values) for values in zip(*each, strict=True)))
    share = 1.0 / batch if reduction == "mean" else 1.0

    def compute(joint: Joint, gradients: Gradients | None) -> tuple[Tensor, ...]:
        clean = lattice.without_padding(joint, terms.chunk)
        rnnt, kd = (share * values.double().sum() for values in terms(clean, lattice, share, gradients))
        loss = sum(w * term for w, term in zip(terms.weights, (rnnt, kd), strict=True) if w)
        return tuple(torch.as_tensor(x).to(joint.enc) for x in (loss, rnnt, kd))

    dtype = torch.promote_types(student.enc.dtype, torch.float32)
    with full_precision(student.enc.device):
        wide = student.map(lambda x: x.to(dtype)).without_tanh()
        if not torch.is_grad_enabled():
            wide = wide.map(torch.Tensor.detach)  # or the forward pass would compute gradients in vain
        return LatticeLoss(*_FormedInForward.apply(wide.enc, wide.dec, wide.weight, wide.bias, wide, compute))
