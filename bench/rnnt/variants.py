"""The variants to compare: one forward and backward pass of espnet_kd.rnnt, plain torch, and others."""

from collections.abc import Callable

import torch
import torchaudio
from torch import Tensor

from bench.rnnt.cases import LatticeInputs
from espnet_kd.rnnt import Joint, rnnt_distillation, rnnt_loss

Variant = Callable[[LatticeInputs], Tensor]


def distil(kind: str, rnnt_weight: float | None, chunk: int | None = None) -> Variant:
    """Return espnet_kd's KL, with or without the RNN-T loss."""

    def loss(x: LatticeInputs) -> Tensor:
        lattice = (x.student, x.teacher, x.labels, x.enc_lens, x.label_lens)
        weights = {"rnnt_weight": rnnt_weight, "kd_weight": 1.0}
        return rnnt_distillation(*lattice, kind=kind, **weights, chunk=chunk).loss

    return loss


def transducer(x: LatticeInputs) -> Tensor:
    """Compute espnet_kd's RNN-T loss."""
    return rnnt_loss(x.student, x.labels, x.enc_lens, x.label_lens)


def plain(rnnt: bool, kl: bool) -> Variant:
    """Return the simplest version: whole lattices of logits, autograd, torchaudio's RNN-T loss."""

    def loss(x: LatticeInputs) -> Tensor:
        logits = materialise(x.student)
        total = logits.new_zeros(())
        if rnnt:
            sizes = (t.int() for t in (x.labels, x.enc_lens, x.label_lens))
            total = total + torchaudio.functional.rnnt_loss(logits, *sizes, blank=0, reduction="mean")
        if kl:
            with torch.no_grad():
                target = materialise(x.teacher).log_softmax(-1)
            divergence = torch.nn.functional.kl_div(
                logits.log_softmax(-1), target, reduction="none", log_target=True
            ).sum(-1)
            total = total + divergence[real(x, logits)].sum() / len(logits)
        return total

    return loss


def materialise(joint: Joint) -> Tensor:
    """Compute the logits of the whole lattice, (B, T, U, V)."""
    hidden = torch.tanh(joint.enc[:, :, None] + joint.dec[:, None])
    return torch.nn.functional.linear(hidden, joint.weight, joint.bias)


def real(x: LatticeInputs, logits: Tensor) -> Tensor:
    """Return (B, T, U) bool, True at nodes that are not padding."""
    frames, rows = (torch.arange(n, device=logits.device) for n in logits.shape[1:3])
    return (frames < x.enc_lens[:, None])[:, :, None] & (rows <= x.label_lens[:, None])[:, None]


def train(variant: Variant, inputs: LatticeInputs) -> None:
    """Run one forward and backward pass, and wait for the GPU."""
    inputs.clear()
    variant(inputs).backward()
    if inputs.labels.is_cuda:
        torch.cuda.synchronize()


# Name to the pass, and its number of passes through the output layer (3, and 1 for a teacher).
OURS: dict[str, tuple[Variant, int]] = {
    "full KL": (distil("full", None), 4),
    "RNN-T + full KL": (distil("full", 1.0), 4),
    "RNN-T": (transducer, 3),
    "RNN-T + collapsed": (distil("collapsed", 1.0), 4),
    "RNN-T + one-best": (distil("one_best", 1.0), 4),
    "RNN-T + occupancy": (distil("occupancy", 1.0), 4),
    "RNN-T + alignments": (distil("alignments", 1.0), 4),
}
PLAIN: dict[str, Variant] = {
    "full KL": plain(rnnt=False, kl=True),
    "RNN-T + full KL": plain(rnnt=True, kl=True),
    "RNN-T": plain(rnnt=True, kl=False),
}
