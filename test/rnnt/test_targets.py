"""Distillation from stored targets equals distillation from the teacher itself."""

from dataclasses import replace
from math import nan

import pytest
import rnnt_reference as reference
import torch
from lattices import assert_same, every_lattice, lattices, run
from torch import inf

from espnet_kd.rnnt import collapsed_targets, one_best_targets, rnnt_distillation

BOTH_TERMS = {"rnnt_weight": 0.7, "kd_weight": 1.3}


def on_alignment(values, stored):
    """Select the real nodes of (B, P, ...) values."""
    steps = torch.arange(values.shape[1])
    return values[steps < torch.tensor(stored.alignment.lengths)[:, None]]


@every_lattice
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "chunk": 5}], ids=["plain", "options"])
def test_collapsed_targets_equal_the_plain_ones(lattice, options):
    given, blank = lattices(**lattice), lattice.get("blank", 0)
    found = collapsed_targets(given.teacher, *given.batch, blank=blank, **options).log_probs
    options.pop("chunk", None)
    expected = reference.collapsed_targets(given.teacher, *given.batch, blank=blank, **options).log_probs
    for b, (frames, labels) in enumerate(given.sizes):
        real = b, slice(frames), slice(labels + 1)
        torch.testing.assert_close(found[real], expected[real])
        assert (found[b, :frames, labels, 0] == -inf).all()
        torch.testing.assert_close(found[real].exp().sum(-1), torch.ones(frames, labels + 1).double())


@every_lattice
@pytest.mark.parametrize("k", [1, 2])
def test_one_best_targets_equal_the_plain_ones(lattice, k):
    given, options = lattices(**lattice), {"k": k, "temperature": 1.5, "blank": lattice.get("blank", 0)}
    found = one_best_targets(given.teacher, *given.batch, chunk=5, **options)
    expected = reference.one_best_targets(given.teacher, *given.batch, **options)
    assert found.alignment.lengths == expected.alignment.lengths
    assert torch.equal(found.alignment.frames, expected.alignment.frames)
    assert torch.equal(found.alignment.rows, expected.alignment.rows)
    assert torch.equal(on_alignment(found.tokens, found), on_alignment(expected.tokens, found))
    torch.testing.assert_close(on_alignment(found.log_probs, found), on_alignment(expected.log_probs, found))


@every_lattice
@pytest.mark.parametrize("delay", [0, 1])
def test_stored_collapsed_targets_equal_the_teacher(lattice, delay):
    given, blank = lattices(**lattice), lattice.get("blank", 0)
    stored = collapsed_targets(given.teacher, *given.batch, blank=blank)
    stored.log_probs[:, -1], stored.log_probs[:, :, -1] = nan, nan  # a frame and a row of padding
    options = {"kind": "collapsed", "blank": blank, "delay": delay, **BOTH_TERMS}
    found = run(rnnt_distillation, given, stored, **options)
    assert_same(found, run(rnnt_distillation, given, given.teacher, **options))


@pytest.mark.parametrize(
    "options", [{"temperature": 2.0, "normalize": "nodes"}, {"reduction": "none"}], ids=str
)
def test_stored_collapsed_targets_take_all_options(options):
    given = lattices()
    stored = collapsed_targets(given.teacher, *given.batch, temperature=options.get("temperature", 1.0))
    found = run(rnnt_distillation, given, stored, kind="collapsed", **BOTH_TERMS, **options)
    assert_same(
        found, run(reference.rnnt_distillation, given, stored, kind="collapsed", **BOTH_TERMS, **options)
    )


@every_lattice
@pytest.mark.parametrize("options", [{"delay": 1, "temperature": 2.0, "normalize": "nodes"}], ids=["options"])
def test_all_classes_on_the_alignment_equal_the_teacher(lattice, options):
    given, blank = lattices(**lattice), lattice.get("blank", 0)
    stored = one_best_targets(
        given.teacher, *given.batch, k=given.teacher.classes, blank=blank,
        temperature=options.get("temperature", 1.0),
    )  # fmt: skip
    options |= {"kind": "one_best", "blank": blank, **BOTH_TERMS}
    found = run(rnnt_distillation, given, stored, **options)
    assert_same(found, run(rnnt_distillation, given, given.teacher, **options))


def test_one_class_renormalised_is_the_hard_pseudo_label():
    given = lattices()
    stored = one_best_targets(given.teacher, *given.batch, k=1)
    _, _, kd = rnnt_distillation(
        given.student, stored, *given.batch, kind="one_best", reduction="none", rnnt_weight=0, kd_weight=1.0
    )
    for b, t, y in reference.utterances(*given.batch):
        q, p = (reference.logits_of(j, b, t, y).log_softmax(-1) for j in (given.student, given.teacher))
        nodes = stored.alignment.frames[b, : t + len(y)], stored.alignment.rows[b, : t + len(y)]
        expected = torch.nn.functional.cross_entropy(q[nodes], p[nodes].argmax(-1), reduction="sum")
        torch.testing.assert_close(kd[b], expected.detach())


def test_an_ensemble_is_averaged_along_the_first_teachers_alignment():
    given, options = lattices(), {"k": 6, "temperature": 1.5}
    stored = one_best_targets(given.teacher, *given.batch, others=[given.student], **options)
    alone = one_best_targets(given.teacher, *given.batch, **options)
    assert torch.equal(stored.alignment.frames, alone.alignment.frames) and torch.equal(
        stored.alignment.rows, alone.alignment.rows
    )
    found = torch.zeros_like(stored.log_probs).scatter(-1, stored.tokens, stored.log_probs.exp())
    for b, t, y in reference.utterances(*given.batch):
        p, q = ((reference.logits_of(j, b, t, y) / 1.5).softmax(-1) for j in (given.teacher, given.student))
        nodes = stored.alignment.frames[b, : t + len(y)], stored.alignment.rows[b, : t + len(y)]
        torch.testing.assert_close(found[b, : t + len(y)], ((p + q) / 2)[nodes].detach())
    with pytest.raises(
        ValueError, match=r"a teacher of the ensemble has the lattice \(2, .* the first one \(3, 6, 5\)"
    ):
        one_best_targets(
            given.teacher, *given.batch, k=1, others=[lattices(frames=(2, 1), labels=(1, 1)).teacher]
        )


@pytest.mark.parametrize("make", [collapsed_targets, lambda *given: one_best_targets(*given, k=3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_targets_are_constant_and_in_float32_at_least(make, dtype):
    given = lattices(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = make(given.student, *given.batch).log_probs
    wide = make(given.student.map(torch.Tensor.float), *given.batch).log_probs
    assert found.dtype == torch.float32 and not found.requires_grad
    assert torch.equal(found, wide)


@pytest.mark.parametrize("k", [0, 7, -1, 2.0, True])
def test_k_is_a_number_of_classes(k):
    given = lattices()
    with pytest.raises(ValueError, match="k is .*: give an integer from 1 to 6, the size of the vocabulary"):
        one_best_targets(given.teacher, *given.batch, k=k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature is 0: give a finite number above 0"),
        ({"chunk": 0}, "chunk is 0: give a number of nodes, an integer of at least 1"),
        ({"blank": 6}, "blank is 6, but the vocabulary has 6 classes"),
        ({"blank": 1}, "labels are 0 to 5 without the blank, 1"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "make", [collapsed_targets, lambda *given, **options: one_best_targets(*given, k=3, **options)]
)
def test_wrong_options_are_refused(make, options, message):
    given = lattices()
    given = replace(given, labels=given.labels.clamp(max=1))
    with pytest.raises(ValueError, match=message):
        make(given.teacher, *given.batch, **options)


def test_an_unknown_tail_is_refused():
    given = lattices()
    with pytest.raises(ValueError, match="tail is 'rest': use one of drop, other"):
        one_best_targets(given.teacher, *given.batch, k=3, tail="rest")
