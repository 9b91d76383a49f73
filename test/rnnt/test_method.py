"""A term that is left out is not computed; a term of weight 0 has a value and no gradient."""

import pytest
import torch
from lattices import assert_same, every_kind, lattices, run
from torch import nan

from espnet_kd.rnnt import kinds, rnnt_distillation, rnnt_loss


@every_kind
def test_without_the_distillation_term_the_teacher_is_not_computed(kind):
    given = lattices()
    unusable = given.teacher.map(lambda x: torch.full_like(x, nan))
    (loss, rnnt, kd), found = run(
        rnnt_distillation, given, unusable, kind=kind, rnnt_weight=0.5, kd_weight=None
    )
    (alone,), expected = run(rnnt_loss, given)
    assert_same(([loss, rnnt], found), ([0.5 * alone, alone], [0.5 * g for g in expected]), 1e-14)
    assert kd.isnan()


@every_kind
def test_at_weight_0_a_term_has_its_value_and_no_gradient(kind):
    given = lattices()
    options = {"kind": kind, "fastemit": 0.3, "delay": 1}
    (_, *expected), _ = run(
        rnnt_distillation, given, given.teacher, rnnt_weight=0.7, kd_weight=1.3, **options
    )
    for weights, alone in (((0.7, 0), (0.7, None)), ((0, 1.3), (None, 1.3))):
        (loss, rnnt, kd), found = run(
            rnnt_distillation, given, given.teacher, rnnt_weight=weights[0], kd_weight=weights[1], **options
        )
        torch.testing.assert_close([rnnt, kd], expected)
        (total, *_), gradients = run(
            rnnt_distillation, given, given.teacher, rnnt_weight=alone[0], kd_weight=alone[1], **options
        )
        assert torch.equal(loss, total) and all(map(torch.equal, found, gradients))


@every_kind
def test_without_the_rnnt_term_the_loss_is_not_computed(kind, monkeypatch):
    given = lattices()
    _, rnnt, kd = rnnt_distillation(
        given.student, given.teacher, *given.batch, kind=kind, rnnt_weight=0.7, kd_weight=1.3
    )
    assert rnnt > 0
    monkeypatch.setattr(kinds, "rnnt_gradient", None)
    monkeypatch.setattr(kinds, "log_likelihood", None)
    loss, rnnt, alone = rnnt_distillation(
        given.student, given.teacher, *given.batch, kind=kind, rnnt_weight=None, kd_weight=1.3
    )
    assert rnnt.isnan() and torch.equal(kd, alone) and loss.item() == pytest.approx(1.3 * kd.item())


@every_kind
def test_without_any_weight_the_loss_is_zero(kind):
    given = lattices()
    for none in (0, None):
        (loss, *values), found = run(
            rnnt_distillation, given, given.teacher, kind=kind, rnnt_weight=none, kd_weight=none
        )
        assert loss == 0 and all((gradient == 0).all() for gradient in found)
        assert all(value > 0 or none is None and value.isnan() for value in values)


@pytest.mark.parametrize("kind", ["full", "collapsed"])
def test_nodes_are_compared_without_scoring_alignments(kind, monkeypatch):
    given = lattices()
    monkeypatch.setattr(kinds, "arc_scores", None)
    loss = rnnt_distillation(
        given.student, given.teacher, *given.batch, kind=kind, rnnt_weight=None, kd_weight=1.0
    ).loss
    assert loss > 0
