"""Stored targets of a lattice: their values, gradients and checks."""

from dataclasses import replace
from math import log

import pytest
import rnnt_reference as reference
import torch
from lattices import assert_same, lattices, leaf, padding, run
from torch import nan, tensor

from espnet_kd.rnnt import CollapsedTargets, OneBestTargets, one_best_targets, rnnt_distillation
from espnet_kd.rnnt.alignment import Alignment

TEACHER_ONLY = {"rnnt_weight": 0, "kd_weight": 1.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_classes_have_no_mass_when_k_is_the_vocabulary(dtype):
    given = lattices(dtype=dtype)
    options = {"kind": "one_best", **TEACHER_ONLY}
    whole = run(rnnt_distillation, given, given.teacher, **options)
    stored = one_best_targets(given.teacher, *given.batch, k=6, tail="other")
    assert_same(
        run(rnnt_distillation, given, stored, **options), whole, 1e-5 if dtype == torch.float32 else 1e-10
    )


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize(
    "options", [{}, {"renorm": False}, {"tail": "other"}], ids=["renorm", "drop", "other"]
)
@pytest.mark.parametrize("delay", [0, 2])
def test_one_best_targets_equal_the_plain_computation(k, options, delay):
    given, settings = lattices(), {"kind": "one_best", "rnnt_weight": 0.7, "kd_weight": 1.3}
    settings |= {"delay": delay, "temperature": 1.5, "reduction": "none"}
    stored = one_best_targets(given.teacher, *given.batch, k=k, temperature=1.5, **options)
    fast = run(rnnt_distillation, given, stored, chunk=5, **settings)
    assert_same(fast, run(reference.rnnt_distillation, given, stored, **settings))


def kept(tail="drop", renorm=True):
    """Return targets of one frame without labels: of 4 classes, class 2 has 1/2 and class 0 has 1/4."""
    alignment = Alignment(*torch.zeros(2, 1, 1, dtype=torch.long), (1,))
    return OneBestTargets(alignment, tensor([[[2, 0]]]), tensor([[[0.5, 0.25]]]).double().log(), tail, renorm)


# Student 1/4 everywhere.
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (kept(), 2 / 3 * log(8 / 3) + 1 / 3 * log(4 / 3)),  # (2/3, 1/3) against 1/4 each
        (kept(renorm=False), log(2) / 2),  # 1/2 ln 2 + 1/4 ln 1
        (kept("other"), log(2) / 2 + log(1 / 2) / 4),  # 1/2 ln 2 + 1/4 ln 1 + 1/4 ln((1/4) / (1/2))
    ],
    ids=["renorm", "drop", "other"],
)
def test_value_of_top_k_classes(targets, expected):
    value, _ = run(rnnt_distillation, single(), targets, kind="one_best", **TEACHER_ONLY)
    assert value[0].item() == pytest.approx(expected, rel=1e-12)


# q = 1/4 everywhere, p~ = (1/3, 0, 2/3, 0), p 1[S] = (1/4, 0, 1/2, 0), m = 3/4; the rest: p 1/4, q 1/2.
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (kept(), [1 / 4 - 1 / 3, 1 / 4, 1 / 4 - 2 / 3, 1 / 4]),  # q - p~
        (kept(renorm=False), [3 / 16 - 1 / 4, 3 / 16, 3 / 16 - 1 / 2, 3 / 16]),  # m q - p 1[S]
        (kept("other"), [0, 1 / 8, -1 / 4, 1 / 8]),  # q - p; in the rest q - (1/4) q / (1/2)
    ],
    ids=["renorm", "drop", "other"],
)
def test_gradient_of_top_k_classes(targets, expected):
    _, (*_, bias) = run(rnnt_distillation, single(), targets, kind="one_best", **TEACHER_ONLY)
    torch.testing.assert_close(bias, tensor(expected, dtype=torch.float64))


def single():
    """Return one frame, no label, 4 equally probable classes: the bias gets the gradient of the logits."""
    given = lattices(frames=(1,), labels=(0,), classes=4)
    return replace(given, student=leaf(given.student.map(torch.zeros_like)))


def test_padding_of_stored_targets_is_ignored():
    given, options = lattices(), {"kind": "one_best", **TEACHER_ONLY}
    clean = one_best_targets(given.teacher, *given.batch, k=3)
    beyond = padding(clean.tokens, tensor(clean.alignment.lengths))
    assert beyond.any()
    frames, rows, tokens = (
        x.masked_fill(beyond.view(*beyond.shape, *[1] * (x.dim() - 2)), 10**6)
        for x in (clean.alignment.frames, clean.alignment.rows, clean.tokens)
    )
    log_probs = clean.log_probs.masked_fill(beyond[..., None], nan)
    dirty = OneBestTargets(Alignment(frames, rows, clean.alignment.lengths), tokens, log_probs)
    assert_same(
        run(rnnt_distillation, given, dirty, **options), run(rnnt_distillation, given, clean, **options), 0.0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_enough_to_store(dtype):
    given, options = lattices(), {"kind": "one_best", **TEACHER_ONLY}
    stored = one_best_targets(given.teacher, *given.batch, k=3)
    narrow = replace(stored, log_probs=stored.log_probs.to(dtype))
    (value, *_), _ = run(rnnt_distillation, given, narrow, **options)
    (exact, *_), _ = run(rnnt_distillation, given, stored, **options)
    torch.testing.assert_close(value, exact, rtol=1e-2, atol=0.0)


def test_stored_targets_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"collapsed targets \(2, 5, 3\) are not \(B, T, U, 3\)"):
        CollapsedTargets(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match=r"collapsed targets \(2, 5, 3, 4\) are not \(B, T, U, 3\)"):
        CollapsedTargets(torch.zeros(2, 5, 3, 4))
    alignment = Alignment(*torch.zeros(2, 1, 4, dtype=torch.long), (4,))
    for tokens, log_probs in [((1, 4, 2), (1, 4, 3)), ((1, 5, 2), (1, 5, 2)), ((1, 4), (1, 4))]:
        with pytest.raises(
            ValueError, match=r"tokens .* and log_probs .* are not \(B, P, K\) for an alignment \(1, 4\)"
        ):
            OneBestTargets(alignment, torch.zeros(tokens, dtype=torch.long), torch.zeros(log_probs))


def test_an_unknown_tail_is_refused():
    with pytest.raises(ValueError, match="tail is 'rest': use one of drop, other"):
        kept("rest")
