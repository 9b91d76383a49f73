from math import inf, log

import pytest
import torch
from torch import tensor

from espnet_kd.criteria import build_criterion
from espnet_kd.criteria.distribution import LOG_ZERO

ALL = [
    ("kl", {}),
    ("kl", {"direction": "reverse"}),
    ("kl", {"direction": "symmetric"}),
    ("cross_entropy", {}),
    ("softmax_l2", {}),
]


def value(name, student, teacher, **options):
    """Compute the value at a single position, in float64."""
    logits = tensor([[student]], dtype=torch.float64), tensor([[teacher]], dtype=torch.float64)
    return build_criterion(name, **options)(*logits, tensor([[True]])).item()


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("forward", log(4 / 3) / 2),  # 1/2 ln(2/3) + 1/2 ln 2
        ("reverse", 0.75 * log(1.5) - 0.25 * log(2)),  # 3/4 ln(3/2) + 1/4 ln(1/2)
        ("symmetric", log(3) / 8),  # half of sum (q - p) ln(q/p) = 1/4 ln(3/2) - 1/4 ln(1/2) = 1/4 ln 3
    ],
)
def test_kl_directions(direction, expected):
    # teacher (1/2, 1/2), student (3/4, 1/4)
    assert value("kl", [log(3), 0.0], [0.0, 0.0], direction=direction) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kl", 4 * log(4 / 3) / 2),  # T^2 = 4 times 1/2 ln(4/3)
        ("cross_entropy", 4 * log(16 / 3) / 2),  # 4 times (-1/2 ln(3/4) - 1/2 ln(1/4))
        ("softmax_l2", 1 / 8),  # (1/4)^2 + (1/4)^2, no factor
    ],
)
def test_temperature_2_divides_logits_and_multiplies_entropies_by_4(name, expected):
    # student logits (2 ln 3, 0) / 2 = (ln 3, 0): (3/4, 1/4); teacher (1/2, 1/2)
    assert value(name, [2 * log(3), 0.0], [0.0, 0.0], temperature=2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("kl", {}, log(2)),  # 1 ln(1 / (1/2)) + 0
        ("kl", {"direction": "reverse"}, -log(2) - LOG_ZERO / 2),  # 1/2 ln(1/2) + 1/2 (ln(1/2) - LOG_ZERO)
        ("kl", {"direction": "symmetric"}, -LOG_ZERO / 4),  # half of the sum of the two above
        ("cross_entropy", {}, log(2)),  # -1 ln(1/2)
        ("softmax_l2", {}, 1 / 2),  # (1 - 1/2)^2 + (0 - 1/2)^2
    ],
)
def test_a_class_that_the_teacher_excludes(name, options, expected):
    # teacher (1, 0), student (1/2, 1/2)
    assert value(name, [0.0, 0.0], [0.0, -inf], **options) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("excluded_by", ["teacher", "student", "both"])
def test_excluded_classes_leave_value_and_gradient_finite(name, options, excluded_by):
    student = tensor([[[1.0, 2.0, 3.0 if excluded_by == "teacher" else -inf]]], requires_grad=True)
    teacher = tensor([[[2.0, 1.0, 3.0 if excluded_by == "student" else -inf]]])
    result = build_criterion(name, **options)(student, teacher, tensor([[True]]))
    result.backward()
    assert result.isfinite() and student.grad.isfinite().all() and student.grad.abs().max() > 0


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize(("temperature", "scale"), [(1e-3, 1.0), (100.0, 1.0), (1.0, 1e4)])
def test_float32_agrees_with_float64_at_extremes(name, options, temperature, scale):
    random = torch.Generator().manual_seed(0)
    student, teacher = scale * torch.randn(2, 1, 3, 50, generator=random)
    criterion = build_criterion(name, temperature=temperature, **options)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = student.to(dtype).requires_grad_()
        result = criterion(leaf, teacher.to(dtype), torch.ones(1, 3, dtype=torch.bool))
        results.append((result.double(), torch.autograd.grad(result, leaf)[0].double()))
    (narrow, narrow_gradient), (wide, wide_gradient) = results
    torch.testing.assert_close(narrow, wide, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(narrow_gradient, wide_gradient, rtol=1e-3, atol=1e-5)


def test_a_large_vocabulary():
    # teacher 1/V everywhere; student 2/V on one half, 2/V e^-30 on the other: ln p - ln q is -ln 2 and
    # 30 - ln 2, on average 15 - ln 2
    student = torch.zeros(1, 1, 100_000)
    student[..., 50_000:] = -30.0
    result = build_criterion("kl")(student, torch.zeros(1, 1, 100_000), tensor([[True]]))
    assert result.item() == pytest.approx(15 - log(2), rel=1e-5)


def test_float16_logits_do_not_overflow_in_the_division_by_the_temperature():
    # (60000, 0) / 0.5 = (120000, 0), beyond float16: student (1, 0), teacher (0, 1): 2 * 1^2
    student, teacher = tensor([[[6e4, 0.0]]]).half(), tensor([[[0.0, 6e4]]]).half()
    assert build_criterion("softmax_l2", temperature=0.5)(student, teacher, tensor([[True]])).item() == 2.0
    # T^2 = 1/4 times 120000
    assert build_criterion("kl", temperature=0.5)(student, teacher, tensor([[True]])).item() == 30000.0


@pytest.mark.parametrize("temperature", [0, -1.0, inf, float("nan"), "1e-1", True, None])
def test_temperature_must_be_a_positive_number(temperature):
    with pytest.raises(ValueError, match="criterion kl: temperature is .*: give a finite number above 0"):
        build_criterion("kl", temperature=temperature)
