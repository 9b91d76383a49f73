"""The distillation term at the nodes of a lattice: values on paper, and properties of every kind."""

from dataclasses import replace
from math import inf, log, nan

import pytest
import torch
from lattices import KINDS, assert_same, every_kind, filled, gradients, lattices, leaf, run
from torch import tensor

from espnet_kd.rnnt import Joint, rnnt_distillation
from espnet_kd.rnnt.gradient import sweep
from espnet_kd.rnnt.lattice import lattice_of
from espnet_kd.rnnt.soft import FullKL, GroupedKL

ALONE = {"rnnt_weight": 0, "kd_weight": 1.0}
TEACHER, STUDENT = [1 / 4, 1 / 4, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 8, 1 / 8]
FULL = log(2) / 4  # 1/4 (ln 1/2 + ln 1 + ln 2 + ln 2)
# Label, blank, rest: 1/4, 1/4, 1/2 against 1/4, 1/2, 1/4; in the last row, without label,
# 1/4, 3/4 against 1/2, 1/2.
COLLAPSED = log(1 / 2) / 4 + log(2) / 2, log(1 / 2) / 4 + 3 * log(3 / 2) / 4


def bias_only(probabilities, frames=1):
    """Make a joint network that has the same distribution at every node, for one label."""
    enc, dec = torch.zeros(1, frames, 1).double(), torch.zeros(1, 2, 1).double()
    bias = tensor(probabilities).double().log()
    return Joint(enc, dec, torch.zeros(len(bias), 1).double(), bias)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("full", {}, 4 * FULL),  # 2 frames * 2 rows
        ("full", {"normalize": "nodes"}, FULL),
        ("full", {"delay": 1}, 2 * FULL),
        ("full", {"delay": 1, "normalize": "nodes"}, FULL),
        ("full", {"delay": 2}, 0.0),
        ("collapsed", {}, 2 * sum(COLLAPSED)),
        ("collapsed", {"normalize": "nodes"}, sum(COLLAPSED) / 2),
        ("one_best", {}, 3 * FULL),  # 2 frames + 1 label
        ("one_best", {"normalize": "nodes"}, FULL),
        ("one_best", {"delay": 1}, FULL),  # of (0, 0), (1, 0), (1, 1) one is early enough
        ("occupancy", {}, 3 * FULL),  # the weights of an alignment's nodes have the same sum
        ("occupancy", {"normalize": "nodes"}, FULL),
        ("occupancy", {"delay": 1}, 3 / 2 * FULL),  # (0, 0) is passed, (0, 1) by one of two alignments
    ],
)
def test_values_on_paper(kind, options, expected):
    batch = tensor([[1]]), tensor([2]), tensor([1])
    student, teacher = bias_only(STUDENT, 2), bias_only(TEACHER, 2)
    kd = rnnt_distillation(student, teacher, *batch, kind=kind, **ALONE, **options).kd
    assert kd.item() == pytest.approx(expected, rel=1e-12)


def test_temperature_divides_logits_and_multiplies_the_divergence_by_its_square():
    # student (1/2, 1/4, 1/8, 1/8)^2 at T = 1/2, over its sum 11/32: (8, 2, 1/2, 1/2) / 11; 2 nodes, T^2 = 1/4
    kl = sum(log(1 / 4 / (q / 11)) / 4 for q in (8, 2, 1 / 2, 1 / 2))
    batch = tensor([[1]]), tensor([1]), tensor([1])
    options = {"kind": "full", "temperature": 0.5, **ALONE}
    kd = rnnt_distillation(bias_only(STUDENT), bias_only(TEACHER), *batch, **options).kd
    assert kd.item() == pytest.approx(2 * kl / 4)


@every_kind
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.7, "normalize": "nodes"}], ids=["plain", "options"]
)
def test_zero_without_gradient_at_equality(kind, options):
    given = lattices()
    (_, _, kd), found = run(
        rnnt_distillation, given, given.student, kind=kind, reduction="none", **ALONE, **options
    )
    assert kd.abs().max() < 1e-12 and all(gradient.abs().max() < 1e-12 for gradient in found)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_full_is_zero_at_equality_in_float32_too(reduction):
    given = lattices(dtype=torch.float32)
    (_, _, kd), found = run(
        rnnt_distillation, given, given.student, kind="full", reduction=reduction, **ALONE
    )
    assert (kd == 0).all()
    assert all(
        gradient.abs().max() <= (1e-7 if reduction == "mean" else 0) for gradient in found
    )  # 1/3 rounds


@every_kind
@pytest.mark.parametrize("delay", [1, 2, 4])
def test_a_student_that_is_late_by_the_delay_has_zero_loss(kind, delay):
    given = lattices(filling=0.0)
    late = replace(given.teacher, enc=given.teacher.enc.roll(delay, 1))
    given = replace(given, student=leaf(late))
    (_, _, kd), found = run(rnnt_distillation, given, given.teacher, kind=kind, delay=delay, **ALONE)
    assert kd.abs() < 1e-12 and all(gradient.abs().max() < 1e-12 for gradient in found)
    assert rnnt_distillation(given.student, given.teacher, *given.batch, kind=kind, **ALONE).kd > 1e-3


@every_kind
@pytest.mark.parametrize("filling", [nan, inf, 1e30])
def test_padding_changes_nothing(kind, filling):
    clean = lattices(filling=0.0)
    options = {"kind": kind, "rnnt_weight": 0.7, "kd_weight": 1.3, "delay": 1}
    dirty = replace(filled(clean, filling), labels=clean.labels.masked_fill(clean.labels < 0, 10**9))
    one, other = (run(rnnt_distillation, given, given.teacher, **options) for given in (dirty, clean))
    assert_same(one, other, 0.0)


def test_grouping_classes_never_adds_divergence_at_any_node():
    given = lattices(frames=(3, 2), labels=(1, 2), filling=0.0)
    student = given.student.map(torch.Tensor.detach)
    lattice = lattice_of(student, *given.batch, 0)
    for node in lattice.real().nonzero().tolist():
        here = torch.zeros(lattice.shape).double()
        here[tuple(node)] = 1.0
        full, collapsed = (
            sweep(student, lattice, 100, None, soft, 1.0, None).sum()
            for soft in (FullKL(given.teacher, here, 0, 1.0), GroupedKL(here, 1.0, teacher=given.teacher))
        )
        assert 0 < collapsed <= full


def test_gradient_of_the_logits_is_student_minus_teacher():
    # two nodes: 2 (q - p)
    student = leaf(bias_only(STUDENT))
    loss = rnnt_distillation(
        student, bias_only(TEACHER), tensor([[1]]), tensor([1]), tensor([1]), kind="full", **ALONE
    ).loss
    expected = 2 * (tensor(STUDENT) - tensor(TEACHER)).double()
    torch.testing.assert_close(gradients(loss, student)[3], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_with_float64_for_large_logits(kind):
    wide = lattices(filling=0.0, classes=50)
    wide = replace(
        wide,
        student=leaf(replace(wide.student, weight=30 * wide.student.weight)),
        teacher=replace(wide.teacher, weight=30 * wide.teacher.weight),
    )
    narrow = replace(
        wide, student=leaf(wide.student.map(torch.Tensor.float)), teacher=wide.teacher.map(torch.Tensor.float)
    )
    options = {"kind": kind, "rnnt_weight": 1.0, "kd_weight": 1.0}
    exact = run(rnnt_distillation, wide, wide.teacher, **options)
    found = run(rnnt_distillation, narrow, narrow.teacher, **options)
    widened = [[x.double() for x in part] for part in found]
    assert_same(widened, exact, 1e-3)
