"""A term without weight costs nothing, and nothing is done twice."""

import pytest
import torch
from lattices import assert_same, every_kind, lattices, run
from torch import nan

from espnet_kd.rnnt import method, rnnt_distillation, rnnt_loss


@every_kind
def test_without_weight_the_teacher_is_not_asked(kind):
    given = lattices()
    unusable = given.teacher.map(lambda x: torch.full_like(x, nan))
    (loss, rnnt, kd), found = run(rnnt_distillation, given, unusable, kind=kind, rnnt_weight=0.5, kd_weight=0)
    (alone,), expected = run(rnnt_loss, given)
    assert_same(([loss, rnnt], found), ([0.5 * alone, alone], [0.5 * g for g in expected]), 1e-14)
    assert kd == 0


@every_kind
def test_without_weight_the_labels_are_not_summed_over(kind, monkeypatch):
    given = lattices()
    _, rnnt, kd = rnnt_distillation(
        given.student, given.teacher, *given.batch, kind=kind, rnnt_weight=0.7, kd_weight=1.3
    )
    assert rnnt > 0
    monkeypatch.setattr(method, "transducer_gradient", None)
    loss, rnnt, alone = rnnt_distillation(
        given.student, given.teacher, *given.batch, kind=kind, rnnt_weight=0, kd_weight=1.3
    )
    assert rnnt == 0 and torch.equal(kd, alone) and loss.item() == pytest.approx(1.3 * kd.item())


@every_kind
def test_without_any_weight_the_loss_is_zero(kind):
    given = lattices()
    values, found = run(rnnt_distillation, given, given.teacher, kind=kind, rnnt_weight=0, kd_weight=0)
    assert all(x == 0 for x in values) and all((gradient == 0).all() for gradient in found)


@pytest.mark.parametrize("kind", ["full", "collapsed"])
def test_nodes_are_compared_without_scoring_alignments(kind, monkeypatch):
    given = lattices()
    monkeypatch.setattr(method, "arc_scores", None)
    loss = rnnt_distillation(
        given.student, given.teacher, *given.batch, kind=kind, rnnt_weight=0, kd_weight=1.0
    ).loss
    assert loss > 0
