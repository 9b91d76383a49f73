"""What criteria share: alignment of shapes, real positions, reductions, weights of frames."""

from math import log, pi

import pytest
import torch
from naive import frame_weights, hidden
from torch import tensor

from espnet_kd.criteria import Criterion, TopK, build_criterion, criterion, top_classes
from espnet_kd.criteria.criterion import (
    activation,
    check_aligned,
    deviation,
    mean_one,
    nonblank,
    real_positions,
    reduce,
    select,
)

KINDS = [
    {"frame_weights": "activation"},
    {"frame_weights": "activation", "weight_power": 0.5},
    {"frame_weights": "deviation"},
    {"frame_weights": "nonblank"},
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
LENGTHS = (5, 2, 1)


def build(kind, reduction="mean"):
    return build_criterion("hidden", projection="none", **kind, reduction=reduction).double()


def batch(kind, filling=0.0):
    """Make student, teacher (3, 5, 4), mask (3, 5), and a guide (3, 5, 6) if the criterion takes one."""
    random = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 5, 4, generator=random, dtype=torch.float64) for _ in range(2))
    guide = torch.randn(3, 5, 6, generator=random, dtype=torch.float64)
    mask = torch.arange(5) < tensor(LENGTHS)[:, None]
    student, teacher, guide = (x.masked_fill(~mask[..., None], filling) for x in (student, teacher, guide))
    return student.requires_grad_(), teacher, mask, *([guide] if kind["frame_weights"] == "nonblank" else [])


def test_activation_on_paper():
    # Norms 5, 1 and 0, mean 2: weights 5/2, 1/2 and 0. Distances (9 + 16)/2, 1/2 and (4 + 0)/2:
    # (5/2 * 25/2 + 1/2 * 1/2 + 0) / 3 = 31.5 / 3
    teacher = tensor([[[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]])
    student = tensor([[[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]]])
    criterion = build({"frame_weights": "activation"}).float()
    assert criterion(student, teacher, tensor([[True] * 3])).item() == pytest.approx(10.5)


def test_deviation_on_paper():
    # Mean (3, 0): distances 0, 2, 1 and 1, mean 1; of the second utterance (1, 1) there is but one frame.
    hidden = tensor([[3.0, 0.0], [5.0, 0.0], [2.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    mask = torch.arange(4) < tensor([4, 1])[:, None]
    importance = deviation(hidden, tensor([4, 1]), 1.0)
    weights = mean_one(importance, mask.flatten().nonzero().squeeze(-1), mask)
    assert weights.tolist() == pytest.approx([0, 2, 1, 1, 1])


def test_activation_is_flat_after_a_layer_normalisation_and_deviation_is_not():
    random = torch.Generator().manual_seed(0)
    silence, word = torch.randn(2, 96, generator=random)
    frames = torch.stack([word if t in (20, 50, 51) else silence for t in range(100)])
    frames = frames + 0.1 * torch.randn(100, 96, generator=random)
    hidden, gain = torch.nn.functional.layer_norm(frames, (96,)), 1 + 0.1 * torch.randn(96, generator=random)
    flat, varied = (
        mean_one(weigh(hidden * gain, tensor([100]), 1.0), torch.arange(100), torch.ones(1, 100).bool())
        for weigh in (activation, deviation)
    )
    assert 0.9 < flat.min() and flat.max() < 1.1
    assert varied[[20, 50, 51]].min() > 5 * varied.median()


def test_a_high_power_does_not_overflow():
    weights = activation(tensor([[1000.0], [500.0], [1e30]]), tensor([2, 1]), 20.0)
    assert weights.tolist() == pytest.approx([1, 2**-20, 1])


def test_nonblank_on_paper():
    # Blank has 1/4 and 3/4: 3/4 and 1/4 are left, mean 1/2, weights 3/2 and 1/2. Distances 4 and 16, weighted
    # 6 and 8, mean 7.
    guide = tensor([[[0.0, log(3)], [log(3), 0.0]]])
    criterion = build({"frame_weights": "nonblank"}).float()
    value = criterion(tensor([[[2.0], [4.0]]]), tensor([[[0.0], [0.0]]]), tensor([[True, True]]), guide)
    assert value.item() == pytest.approx(7.0)


def test_nonblank_keeps_small_posteriors():
    assert nonblank(tensor([[40.0, 0.0], [200.0, 0.0]], dtype=torch.float64)).tolist() == pytest.approx(
        [4.248354e-18, 1.383897e-87], rel=1e-5
    )


def test_weights_of_an_utterance_sum_to_its_frames_whatever_their_scale():
    mask = torch.arange(5) < tensor(LENGTHS)[:, None]
    importance = torch.rand(8, generator=torch.Generator().manual_seed(0)) * 1e-6
    weights = mean_one(importance, mask.flatten().nonzero().squeeze(-1), mask)
    assert [w.sum().item() for w in weights.split(LENGTHS)] == pytest.approx(LENGTHS)
    torch.testing.assert_close(weights[:5] / weights[0], importance[:5] / importance[0])


def test_without_any_importance_all_weights_are_1():
    mask = tensor([[True, True], [True, True]])
    assert mean_one(tensor([0.0, 0.0, 1.0, 3.0]), torch.arange(4), mask).tolist() == [1.0, 1.0, 0.5, 1.5]


def test_an_utterance_without_frames_has_no_weight():
    mask = tensor([[False, False], [True, True]])
    assert mean_one(tensor([1.0, 3.0]), tensor([2, 3]), mask).tolist() == [0.5, 1.5]


@kinds
@pytest.mark.parametrize("reduction", ["mean", "utterance", "sum"])
def test_uniform_weights_equal_the_unweighted_loss(kind, reduction):
    student, teacher, mask, *guide = batch(kind)
    # The corners of a regular pentagon, none of which stands out.
    angle = torch.arange(5, dtype=torch.float64)[:, None] * torch.tensor(2 * pi / 5)
    teacher = torch.cat([angle.cos(), angle.sin(), 0 * angle, 0 * angle], 1).expand(3, 5, 4)
    guide = [torch.zeros_like(g) for g in guide]
    plain = build({}, reduction)(student, teacher, mask)
    torch.testing.assert_close(build(kind, reduction)(student, teacher, mask, *guide), plain)


@kinds
def test_equals_the_plain_implementation(kind):
    student, teacher, mask, *guide = batch(kind)
    total = 0.0
    for i, length in enumerate(LENGTHS):
        guides = guide[0][i, :length].tolist() if guide else ()
        weights = frame_weights(teacher[i, :length].tolist(), **kind, guides=guides)
        pairs = zip(student[i, :length].tolist(), teacher[i, :length].tolist(), strict=True)
        total += sum(w * hidden(a, b) for w, (a, b) in zip(weights, pairs, strict=True))
    assert build(kind, "sum")(student, teacher, mask, *guide).item() == pytest.approx(total, rel=1e-9)


@kinds
def test_padding_changes_nothing(kind):
    results = []
    for filling in (0.0, float("nan")):
        student, teacher, mask, *guide = batch(kind, filling)
        value = build(kind)(student, teacher, mask, *guide)
        results.append((value.detach(), *torch.autograd.grad(value, student)))
    (clean, gradient), (value, dirty) = results
    assert torch.equal(clean, value) and torch.equal(gradient, dirty)


@kinds
def test_gradient_agrees_with_finite_differences_and_is_the_students_alone(kind):
    student, teacher, mask, *guide = batch(kind)
    constants = [x.requires_grad_() for x in (teacher, *guide)]
    criterion = build(kind)
    criterion(student, teacher, mask, *guide).backward()
    assert student.grad.abs().max() > 0 and all(x.grad is None for x in constants)
    assert torch.autograd.gradcheck(lambda s: criterion(s, teacher, mask, *guide), student)


def test_nan_of_the_guide_makes_the_value_nan():
    student, teacher, mask, guide = batch({"frame_weights": "nonblank"})
    guide[0, 0] = float("nan")
    assert build({"frame_weights": "nonblank"})(student, teacher, mask, guide).isnan()


def test_guides_of_other_shapes_are_refused():
    student, teacher, mask, guide = batch({"frame_weights": "nonblank"})
    criterion = build({"frame_weights": "nonblank"})
    for wrong in ([], [guide[:, :3]]):
        with pytest.raises(
            ValueError, match=r"\(3, 5, 4\).*give the teacher's ctc.ctc_lo at the same positions"
        ):
            criterion(student, teacher, mask, *wrong)
    with pytest.raises(ValueError, match="guide"):
        build({})(student, teacher, mask, guide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"frame_weights": "nonblanks"},
            "did you mean nonblank.* known: activation, deviation, nonblank, none",
        ),
        (
            {"frame_weights": "activation", "weight_power": 0},
            "weight_power is 0: give a finite number above 0",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        build_criterion("hidden", **options)


def test_selects_real_positions_in_order():
    values = tensor([[[1.0], [2.0]], [[3.0], [float("nan")]]])
    mask = tensor([[False, True], [True, False]])
    positions = real_positions(values, values, mask)
    assert positions.tolist() == [1, 2]  # row-major: (0, 1) and (1, 0)
    assert select(values, positions, torch.float64).tolist() == [[2.0], [3.0]]


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("mean", 3.0),  # (1 + 2 + 6) / 3 positions
        ("utterance", 2.25),  # (1 + 2 + 6) / 4 utterances, one of them empty
        ("sum", 9.0),
    ],
)
def test_reductions(reduction, expected):
    assert reduce(tensor([1.0, 2.0, 6.0]), 4, reduction).item() == expected


def test_utterance_reduction_is_exact_when_a_batch_is_split_over_processes():
    # utterances of 3 positions (sum 6) and 1 (sum 2): together (6 + 2) / 2 = 4, apart (6 / 1 + 2 / 1) / 2
    together = reduce(tensor([1.0, 2.0, 3.0, 2.0]), 2, "utterance")
    apart = (reduce(tensor([1.0, 2.0, 3.0]), 1, "utterance") + reduce(tensor([2.0]), 1, "utterance")) / 2
    assert together.item() == apart.item() == 4.0


def test_shapes_without_a_batch_axis_are_refused():
    with pytest.raises(ValueError, match=r"student \(5,\) and target \(5,\) have no batch axis"):
        check_aligned(torch.zeros(5), torch.zeros(5), torch.ones((), dtype=torch.bool))


class Weighted(Criterion):
    """Squared distance, in which a position weighs as much as its first target value."""

    def per_position(self, student, target):
        return (student - target).square().sum(-1)

    def importance(self, target, guide, counts):
        return target[:, 0].exp()


@pytest.mark.parametrize("stored", [False, True], ids=["logits", "stored classes"])
def test_chunks_serve_stored_classes_and_leave_weighted_positions_alone(stored, monkeypatch):
    student, teacher, mask = batch(KINDS[0])
    target = top_classes(teacher, 3) if stored else teacher
    compare, found = TopK(k=2) if stored else Weighted(), []
    for chunk in (10**9, 9):  # all, and two positions
        monkeypatch.setattr(criterion, "CPU_CHUNK", chunk)
        value = compare(student, target, mask)
        found.append((value.detach(), torch.autograd.grad(value, student)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("needs", "message"),
    [("logits", "number of classes .* same token list"), ("hidden", "size of vectors .* layers of one size")],
)
def test_other_sizes_are_named_by_what_is_compared(needs, message):
    found = Criterion()
    found.needs = needs
    with pytest.raises(ValueError, match=message):
        found(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
