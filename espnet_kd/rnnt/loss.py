"""Compute the exact RNN-T loss without the logits of the whole lattice in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs, log_likelihood, posterior
from espnet_kd.rnnt.gradient import Gradients, sweep
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice, default_chunk, lattice_of
from espnet_kd.rnnt.scalar import LatticeTerms, Reduction, reduce_terms
from espnet_kd.rnnt.sweep import arc_scores


@dataclass(frozen=True)
class _RnntTerm(LatticeTerms):
    """Compute the RNN-T loss alone; see scalar.LatticeTerms."""

    chunk: int
    fastemit: float
    weights = (1.0, None)

    def __call__(
        self, student: Joint, lattice: Lattice, share: float, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss of each utterance, (B,), and zeros for the missing second term."""
        (arcs,) = arc_scores(student, lattice, self.chunk)
        if gradients is None:
            rnnt = -log_likelihood(arcs, lattice)
        else:
            rnnt, arc_gradient = rnnt_gradient(arcs, lattice, share, self.fastemit)
            sweep(student, lattice, self.chunk, arc_gradient, None, 0.0, gradients)
        return rnnt, torch.zeros_like(rnnt)

    def utterance(self, _: int) -> "_RnntTerm":
        """Return itself: nothing here depends on the utterance."""
        return self


def rnnt_loss(
    joint: Joint,
    labels: Tensor,
    enc_lens: Tensor,
    label_lens: Tensor,
    *,
    blank: int = 0,
    fastemit: float = 0.0,
    reduction: Reduction = "mean",
    chunk: int | None = None,
) -> Tensor:
    """Compute the negative log-likelihood of the labels, summed over all alignments, in nats.

    Args:
        joint: tensors of the joint network; enc, dec, weight and bias receive gradient.
        labels: (B, L) integers without the blank; padding may hold anything.
        enc_lens: (B,) frames of each utterance.
        label_lens: (B,) labels of each utterance, 0 allowed.
        blank: index of the blank.
        fastemit: lambda >= 0; multiplies the gradients by the log-probabilities of labels, not of blanks, by
            1 + lambda, which makes the model emit earlier. The value stays the negative log-likelihood.
        reduction: `mean` over the batch, `sum`, or `none`, (B,).
        chunk: nodes whose logits are held at a time; the default suits the device.

    Returns:
        Scalar or (B,), float64 for a float64 joint, else float32, under autocast too.

    Raises:
        ValueError: lengths, labels or options do not fit each other.

    Source:
        Graves 2012, arXiv:1211.3711; FastEmit: Yu et al. 2021, arXiv:2010.11148.
    """
    lattice = lattice_of(joint, labels, enc_lens, label_lens, blank)
    check_number("fastemit", fastemit)
    terms = _RnntTerm(chunk_size(chunk, joint), fastemit)
    return reduce_terms(joint, lattice, terms, reduction).loss


def rnnt_gradient(arcs: Arcs, lattice: Lattice, scale: float, fastemit: float = 0.0) -> tuple[Tensor, Arcs]:
    """Compute the RNN-T loss, (B,), and scale times its gradient by the arcs' log-probabilities."""
    found = posterior(arcs, lattice)
    return -found.total, Arcs(-scale * found.arcs.blank, -scale * (1.0 + fastemit) * found.arcs.label)


def chunk_size(chunk: int | None, joint: Joint) -> int:
    """Return the number of nodes whose logits are held at a time: `chunk`, or a default for the device.

    Raises:
        ValueError: chunk is not a positive integer.
    """
    if chunk is None:
        return default_chunk(joint)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk is {chunk!r}: give a number of nodes, an integer of at least 1")
    return chunk


def check_number(name: str, value: float, above_zero: bool = False) -> None:
    """Check that value is a finite number of at least 0, or above 0.

    Raises:
        ValueError: it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf") or (above_zero and value == 0):
        raise ValueError(
            f"{name} is {value!r}: give a finite number {'above 0' if above_zero else 'of at least 0'}"
        )
