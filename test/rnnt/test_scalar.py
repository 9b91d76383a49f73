"""Gradients are formed where they are wanted, in float32 or wider, and scale; reductions agree."""

from dataclasses import replace

import pytest
import torch
from lattices import KINDS, TENSORS, Lattices, assert_same, gradients, lattices, leaf, run

from espnet_kd.rnnt import LatticeLoss, rnnt_distillation, rnnt_loss
from espnet_kd.rnnt.gradient import Gradients

every_kind = pytest.mark.parametrize("kind", KINDS)


def distil(given: Lattices, kind="full", **options) -> LatticeLoss:
    weights = {"rnnt_weight": 0.7, "kd_weight": 1.3}
    return rnnt_distillation(given.student, given.teacher, *given.batch, kind=kind, **weights | options)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    loss, rnnt, kd = distil(lattices())
    torch.testing.assert_close(loss.detach(), 0.7 * rnnt + 1.3 * kd)
    assert loss.requires_grad and not rnnt.requires_grad and not kd.requires_grad


@every_kind
@pytest.mark.parametrize("normalize", [None, "nodes"])
def test_reductions_agree(kind, normalize):
    given = lattices()
    none, total, mean = (
        distil(given, kind, reduction=r, normalize=normalize) for r in ("none", "sum", "mean")
    )
    for each, one, other in zip(none, total, mean, strict=True):
        assert each.shape == (3,)
        torch.testing.assert_close(each.sum(), one)
        torch.testing.assert_close(each.mean(), other)


@every_kind
def test_an_utterance_does_not_know_the_others_of_its_batch(kind):
    given = lattices()
    each = distil(given, kind, reduction="none").loss
    for b, (frames, labels) in enumerate(given.sizes):
        one = slice(b, b + 1)
        student, teacher = (
            replace(j, enc=j.enc[one, :frames], dec=j.dec[one, : labels + 1])
            for j in (given.student, given.teacher)
        )
        alone = Lattices(student, teacher, given.labels[one, :labels], given.enc_lens[one], given.label_lens[one])
        torch.testing.assert_close(distil(alone, kind).loss, each[b])


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_no_gradient_is_wanted_none_is_formed(kind, mode, monkeypatch):
    given = lattices()
    expected = rnnt_loss(given.student, *given.batch) if kind is None else distil(given, kind).loss
    monkeypatch.setattr(Gradients, "add", None)
    with mode():
        value = rnnt_loss(given.student, *given.batch) if kind is None else distil(given, kind).loss
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach())
