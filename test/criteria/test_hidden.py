import pytest
import torch
from torch import tensor

from espnet_kd.criteria import build_criterion
from espnet_kd.criteria.hidden import HiddenDistance

REAL = tensor([[True]])


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("mse", 12.5),  # ((3 - 0)^2 + (4 - 0)^2) / 2; the target is (0, 0)
        ("l1", 3.5),  # (3 + 4) / 2
        ("cosine", 1.0),  # a zero vector is as far as an orthogonal one
    ],
)
def test_distances_from_zero(distance, expected):
    criterion = HiddenDistance(distance, projection="none")
    assert criterion(tensor([[[3.0, 4.0]]]), tensor([[[0.0, 0.0]]]), REAL).item() == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([6.0, 8.0], 0.0),  # same direction, other length
        ([-3.0, -4.0], 2.0),  # opposite
        ([4.0, 3.0], 0.04),  # 1 - (12 + 12) / 25
    ],
)
def test_cosine(target, expected):
    criterion = HiddenDistance("cosine", projection="none")
    value = criterion(tensor([[[3.0, 4.0]]]), tensor([[target]]), REAL)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_the_projection_maps_the_student():
    criterion = HiddenDistance("mse", student_dim=1, teacher_dim=2)
    with torch.no_grad():
        criterion.projection.weight.copy_(tensor([[2.0], [3.0]]))
        criterion.projection.bias.copy_(tensor([1.0, 0.0]))
    # student 2 -> (2 * 2 + 1, 3 * 2 + 0) = (5, 6); ((5 - 4)^2 + (6 - 9)^2) / 2 = 5
    assert criterion(tensor([[[2.0]]]), tensor([[[4.0, 9.0]]]), REAL).item() == 5.0


@pytest.mark.parametrize("zero", ["student", "target", "both"])
def test_cosine_of_zero_vectors_is_1_without_gradient(zero):
    student = tensor([[[3.0, 4.0], [0.0, 0.0] if zero != "target" else [1.0, 1.0]]], requires_grad=True)
    target = tensor([[[4.0, 3.0], [0.0, 0.0] if zero != "student" else [1.0, 1.0]]])
    criterion = HiddenDistance("cosine", projection="none", reduction="sum")
    value = criterion(student, target, tensor([[True, True]]))
    value.backward()
    assert value.item() == pytest.approx(0.04 + 1)
    assert student.grad[0, 0].abs().max() > 0 and (student.grad[0, 1] == 0).all()


def test_without_dimensions_options_are_checked_but_there_is_no_projection():
    criterion = build_criterion("hidden")
    assert criterion.needs == "hidden" and criterion.student_dim is None and not list(criterion.parameters())
    with pytest.raises(ValueError, match=r"\(1, 1, 3\).*\(1, 1, 2\).*set student_dim: 3 and teacher_dim: 2"):
        criterion(torch.zeros(1, 1, 3), torch.zeros(1, 1, 2), REAL)


def test_making_a_projection_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    HiddenDistance(student_dim=3, teacher_dim=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_projection_kept_in_half_precision_works_in_float32(dtype):
    criterion = HiddenDistance(student_dim=3, teacher_dim=2).to(dtype)
    student, target = torch.randn(1, 1, 3, dtype=dtype), torch.randn(1, 1, 2, dtype=dtype)
    value = criterion(student, target, REAL)
    value.backward()
    assert value.dtype == torch.float32 and criterion.projection.weight.grad.dtype == dtype
    assert value.item() == criterion.float()(student.float(), target.float(), REAL).item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "l2"}, "distance is 'l2'; did you mean l1.* known: cosine, l1, mse"),
        ({"projection": False}, "projection is False; known: linear, none"),
        ({"student_dim": 3}, "student_dim is 3 and teacher_dim None: give both"),
        ({"student_dim": 3.0, "teacher_dim": 2}, "student_dim is 3.0: give an integer of at least 1"),
        ({"student_dim": 3, "teacher_dim": 0}, "teacher_dim is 0: give an integer of at least 1"),
        ({"student_dim": 3, "teacher_dim": 2, "projection": "none"}, "3 and teacher_dim 2 differ: use `proj"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=f"^criterion hidden: .*{message}"):
        build_criterion("hidden", **options)


def test_other_dimensions_than_those_set():
    criterion = HiddenDistance(student_dim=3, teacher_dim=2)
    with pytest.raises(ValueError, match=r"\(1, 1, 4\) and target \(1, 1, 2\) do not end in student_dim 3"):
        criterion(torch.zeros(1, 1, 4), torch.zeros(1, 1, 2), REAL)
