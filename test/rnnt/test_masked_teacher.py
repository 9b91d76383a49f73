"""A teacher that excludes a class by a bias of -inf."""

from math import inf

import pytest
import torch
from lattices import KINDS

from espnet_kd.rnnt import Joint, collapsed_targets, one_best_targets, rnnt_distillation

LABELS, FRAMES, LENGTHS = torch.tensor([[1, 2]]), torch.tensor([3]), torch.tensor([2])


def joint(classes: int = 5) -> Joint:
    random = torch.Generator().manual_seed(0)
    shapes = ((1, 3, 4), (1, 3, 4), (classes, 4), (classes,))
    return Joint(*(torch.randn(s, generator=random, dtype=torch.float64) for s in shapes))


def distil(student: Joint, teacher: object, kind: str, **options: float):
    options = {"rnnt_weight": 0.0, "kd_weight": 1.0, **options}
    return rnnt_distillation(student, teacher, LABELS, FRAMES, LENGTHS, kind=kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_of_minus_infinity_equals_a_very_low_bias(kind: str) -> None:
    student, teacher = joint().map(lambda x: x.requires_grad_()), joint()
    excluded, unlikely = teacher.bias.clone(), teacher.bias.clone()
    excluded[4], unlikely[4] = -inf, -1000.0
    values = []
    for bias in (excluded, unlikely):
        student.enc.grad = None
        loss = distil(
            student, teacher.with_tensors(teacher.enc + 1, teacher.dec, teacher.weight, bias), kind
        ).loss
        loss.backward()
        values.append((loss.detach(), student.enc.grad))
    torch.testing.assert_close(*values)


def test_stored_targets_of_another_temperature_are_refused() -> None:
    student, teacher = joint(), joint()
    for stored, kind in (
        (collapsed_targets(teacher, LABELS, FRAMES, LENGTHS, temperature=2.0), "collapsed"),
        (one_best_targets(teacher, LABELS, FRAMES, LENGTHS, k=2, temperature=2.0), "one_best"),
    ):
        distil(student, stored, kind, temperature=2.0)
        with pytest.raises(ValueError, match="temperature is 1.0, but the stored targets were made at 2.0"):
            distil(student, stored, kind)
