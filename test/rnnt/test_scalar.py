"""Gradients are computed only where needed, in float32 or wider, and scale; reductions agree."""

from dataclasses import replace

import pytest
import torch
from lattices import KINDS, TENSORS, Lattices, every_kind, gradients, lattices, leaf

from espnet_kd.rnnt import LatticeLoss, rnnt_distillation, rnnt_loss
from espnet_kd.rnnt.gradient import Gradients


def distil(given: Lattices, kind="full", **options) -> LatticeLoss:
    weights = {"rnnt_weight": 0.7, "kd_weight": 1.3}
    return rnnt_distillation(given.student, given.teacher, *given.batch, kind=kind, **weights | options)


def test_the_loss_is_the_weighted_sum_of_its_terms():
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
def test_an_utterance_does_not_depend_on_the_others_of_its_batch(kind):
    given = lattices()
    each = distil(given, kind, reduction="none").loss
    for b, (frames, labels) in enumerate(given.sizes):
        one = slice(b, b + 1)
        student, teacher = (
            replace(j, enc=j.enc[one, :frames], dec=j.dec[one, : labels + 1])
            for j in (given.student, given.teacher)
        )
        alone = Lattices(
            student, teacher, given.labels[one, :labels], given.enc_lens[one], given.label_lens[one]
        )
        torch.testing.assert_close(distil(alone, kind).loss, each[b])


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_grad_mode_no_gradient_is_computed(kind, mode, monkeypatch):
    given = lattices()
    expected = rnnt_loss(given.student, *given.batch) if kind is None else distil(given, kind).loss
    monkeypatch.setattr(Gradients, "add", None)
    with mode():
        value = rnnt_loss(given.student, *given.batch) if kind is None else distil(given, kind).loss
    assert not value.requires_grad
    torch.testing.assert_close(value, expected.detach())


@every_kind
def test_only_the_student_receives_gradient(kind):
    given = lattices()
    given = replace(given, teacher=leaf(given.teacher))
    distil(given, kind).loss.backward()
    assert all(getattr(given.teacher, name).grad is None for name in TENSORS)
    assert all(getattr(given.student, name).grad.abs().max() > 0 for name in TENSORS)


@pytest.mark.parametrize("kind", [None, "full", "one_best"])
@pytest.mark.parametrize(
    "frozen",
    [("weight", "bias"), ("enc",), ("dec",), ("enc", "dec"), ("enc", "dec", "weight"), TENSORS],
    ids=" ".join,
)
def test_frozen_tensors_receive_no_gradient_and_change_nothing(kind, frozen):
    given = lattices()

    def value(lattices):
        return rnnt_loss(lattices.student, *lattices.batch) if kind is None else distil(lattices, kind).loss

    expected = gradients(value(given), given.student)
    student = replace(given.student, **{name: getattr(given.student, name).detach() for name in frozen})
    loss = value(replace(given, student=student))
    assert loss.requires_grad == (frozen != TENSORS)
    free = [name for name in TENSORS if name not in frozen]
    if free:
        found = torch.autograd.grad(loss, [getattr(student, name) for name in free])
        for name, gradient in zip(free, found, strict=True):
            assert torch.equal(gradient, expected[TENSORS.index(name)])


@every_kind
def test_a_teacher_from_inference_mode(kind):
    given = lattices()
    with torch.inference_mode():
        teacher = given.teacher.map(torch.clone)
    for options in ({}, {"temperature": 2.0}):
        found = distil(replace(given, teacher=teacher), kind, **options).loss
        expected = distil(given, kind, **options).loss
        assert all(map(torch.equal, gradients(found, given.student), gradients(expected, given.student)))


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_are_computed_in_float32(kind, dtype):
    given = lattices(dtype=dtype)
    wide = replace(
        given,
        student=leaf(given.student.map(torch.Tensor.float)),
        teacher=given.teacher.map(torch.Tensor.float),
    )

    def value(lattices):
        return rnnt_loss(lattices.student, *lattices.batch) if kind is None else distil(lattices, kind).loss

    expected = value(wide)
    expected_gradients = gradients(expected, wide.student)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = value(given)
            found_gradients = gradients(found, given.student)
        assert found.dtype == torch.float32 and torch.equal(found, expected)
        for one, other in zip(found_gradients, expected_gradients, strict=True):
            assert one.dtype == dtype and torch.equal(one, other.to(dtype))


def test_under_autocast_the_tensors_may_have_different_dtypes():
    given = lattices(filling=0.0, dtype=torch.float32)
    mixed = replace(given, student=replace(given.student, enc=given.student.enc.bfloat16()))
    assert distil(mixed).loss.dtype == torch.float32
    torch.testing.assert_close(distil(mixed).loss, distil(given).loss, rtol=1e-2, atol=0.0)


@every_kind
def test_a_scaled_loss_scales_its_gradient(kind):
    given = lattices()
    loss = distil(given, kind).loss
    plain = torch.autograd.grad(loss, given.student.enc, retain_graph=True)[0]
    (loss * 1024).backward()
    assert torch.equal(given.student.enc.grad, 1024 * plain)


def test_gradients_of_two_losses_add_up():
    given = lattices()
    first = gradients(distil(given).loss, given.student)
    second = gradients(rnnt_loss(given.student, *given.batch), given.student)
    both = gradients(distil(given).loss + rnnt_loss(given.student, *given.batch), given.student)
    for one, other, total in zip(first, second, both, strict=True):
        torch.testing.assert_close(one + other, total)


@every_kind
def test_gradients_of_every_kind_agree_with_finite_differences(kind):
    given = lattices(frames=(3, 1), labels=(1, 1), classes=3, filling=0.0)
    tensors = [getattr(given.student, name) for name in TENSORS]
    others = [x.detach() for x in tensors]

    def value(*tensors):
        student = given.student.with_tensors(*tensors)
        return distil(replace(given, student=student), kind, delay=1, temperature=1.5).loss

    # Tensor by tensor with one random direction each: quick, and no entry is left out.
    assert torch.autograd.gradcheck(value, tensors, fast_mode=True)
    assert value(*others).requires_grad is False
