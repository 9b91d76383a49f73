"""Criteria on distributions, whole and by their most probable classes."""

from math import inf, isnan, log, nan

import pytest
import torch
from torch import tensor

from espnet_kd.criteria import TopClasses, build_criterion, top_classes
from espnet_kd.criteria.distribution import LOG_ZERO

ALL = [
    ("kl", {}),
    ("kl", {"direction": "reverse"}),
    ("kl", {"direction": "symmetric"}),
    ("cross_entropy", {}),
    ("softmax_l2", {}),
    ("skew_kl", {}),
    ("skew_kl", {"direction": "reverse"}),
    ("jsd", {}),
    ("akl", {}),
    ("decoupled_kl", {}),
    ("decoupled_kl", {"target_class": "top"}),
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


def test_a_smoothed_teacher():
    # teacher (3/4, 1/4), half of it and half of (1/2, 1/2): (5/8, 3/8); student (1/2, 1/2)
    expected = 5 / 8 * log(5 / 4) + 3 / 8 * log(3 / 4)
    smoothing = {"label_smoothing": 0.5}
    assert value("kl", [0.0, 0.0], [log(3), 0.0], **smoothing) == pytest.approx(expected)
    # at temperature 2 logits (2 ln 3, 0) are the same distribution
    softened = value("kl", [0.0, 0.0], [2 * log(3), 0.0], temperature=2, **smoothing)
    assert softened == pytest.approx(4 * expected)
    # an impossible class has e / V: (7/8, 1/8) of e = 1/4
    expected = 7 / 8 * log(7 / 4) + 1 / 8 * log(1 / 4)
    assert value("kl", [0.0, 0.0], [0.0, -inf], label_smoothing=0.25) == pytest.approx(expected)


def test_a_smoothed_teacher_is_what_torch_smooths():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    criterion = build_criterion("cross_entropy", label_smoothing=0.1, reduction="mean")
    targets = teacher.softmax(-1).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(student.flatten(0, 1), targets, label_smoothing=0.1)
    found = criterion(student, teacher, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(found, expected)


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
@pytest.mark.parametrize("sure", ["teacher", "student", "both"])
def test_a_side_that_excludes_all_classes_but_one_leaves_value_and_gradient_finite(name, options, sure):
    one, three = [1.0, -inf, -inf], [1.0, 2.0, 3.0]
    student = tensor([[three if sure == "teacher" else one]], requires_grad=True)
    teacher = tensor([[three if sure == "student" else one]])
    result = build_criterion(name, **options)(student, teacher, tensor([[True]]))
    result.backward()
    assert result.isfinite() and student.grad.isfinite().all()


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


@pytest.mark.parametrize("smoothing", [-0.1, 1, "a", False])
def test_a_smoothing_is_from_0_to_below_1(smoothing):
    with pytest.raises(ValueError, match="jsd: label_smoothing is .*: give a number from 0 to below"):
        build_criterion("jsd", label_smoothing=smoothing)


@pytest.mark.parametrize("temperature", [0, -1.0, inf, float("nan"), "1e-1", True, None])
def test_temperature_must_be_a_positive_number(temperature):
    with pytest.raises(ValueError, match="criterion kl: temperature is .*: give a finite number above 0"):
        build_criterion("kl", temperature=temperature)


V = 6
MASK = torch.ones(2, 3, dtype=torch.bool)


def logits(seed):
    values = torch.randn(2, 3, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(seed == 0)


def run(name, student=None, teacher=None, **options):
    """Value and gradient of the sum over positions."""
    student, teacher = logits(0) if student is None else student, logits(1) if teacher is None else teacher
    value = build_criterion(name, reduction="sum", **options)(student, teacher, MASK)
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("options", [{}, {"renorm": False}, {"tail": "other"}])
def test_all_classes_are_ordinary_distillation(temperature, options):
    value, gradient = run("topk", k=V, temperature=temperature, **options)
    expected, of_kl = run("cross_entropy", temperature=temperature)[0], run("kl", temperature=temperature)[1]
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, of_kl, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stored", [False, True])
def test_no_class_is_left_to_the_tail_of_all(stored):
    student, teacher = (logits(seed).detach().float().requires_grad_(seed == 0) for seed in (0, 1))
    if stored:  # as a store keeps them, with 3 decimal digits
        top = top_classes(teacher, V)
        teacher = TopClasses(top.tokens, top.log_probs.half().float())
    value, gradient = run("topk", student, teacher, k=V, tail="other")
    expected, of_kl = run("cross_entropy")[0], run("kl")[1]
    torch.testing.assert_close(value.double(), expected, rtol=1e-3 if stored else 1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), of_kl, rtol=0, atol=1e-3 if stored else 1e-6)


def test_one_class_is_the_hard_pseudo_label():
    value, _ = run("topk", k=1)
    labels = logits(1).argmax(-1).flatten()
    hard = torch.nn.functional.cross_entropy(logits(0).flatten(0, 1), labels, reduction="sum")
    torch.testing.assert_close(value, hard.detach())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("renorm", [True, False])
def test_gradient_by_the_logits(temperature, renorm):
    _, gradient = run("topk", k=2, renorm=renorm, temperature=temperature)
    q, p = ((x.detach() / temperature).softmax(-1) for x in (logits(0), logits(1)))
    kept = torch.zeros_like(p).scatter(-1, p.topk(2).indices, p.topk(2).values)
    mass = kept.sum(-1, keepdim=True)
    expected = q - kept / mass if renorm else mass * q - kept
    torch.testing.assert_close(gradient, temperature * expected)  # T^2 of the loss, 1/T of the logits


def test_the_tail_is_one_more_class():
    # teacher (1/2, 1/4, 1/8, 1/8), student (1/4, 1/4, 1/4, 1/4), k = 1: 1/2 ln 4 + 1/2 ln (4/3)
    teacher = tensor([[[log(4), log(2), 0.0, 0.0]]])
    value = build_criterion("topk", k=1, tail="other")(torch.zeros(1, 1, 4), teacher, tensor([[True]]))
    assert value.item() == pytest.approx(0.5 * log(4) + 0.5 * log(4 / 3), rel=1e-6)


def test_the_tail_of_a_student_that_is_sure_has_a_gradient_in_float32():
    student = tensor([[[30.0, 0.0, 0.0]]], requires_grad=True)  # 1 - q(0) is 0 in float32
    value = build_criterion("topk", k=1, tail="other")(student, torch.zeros(1, 1, 3), tensor([[True]]))
    # teacher (1/3, 2/3): 1/3 * 2 e^-30 + 2/3 (30 - ln 2)
    assert value.item() == pytest.approx(2 / 3 * (30 - log(2)), rel=1e-6)
    assert torch.autograd.grad(value, student)[0][0, 0].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("options", [{}, {"renorm": False}, {"tail": "other"}, {"temperature": 2.0}])
def test_stored_classes_are_the_same_as_logits_and_more_than_needed_may_be_stored(options):
    stored = top_classes(logits(1), 4, options.get("temperature", 1.0))
    online, kept = run("topk", k=3, **options), run("topk", teacher=stored, k=3, **options)
    for one, other in zip(online, kept, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


def test_padding_of_stored_classes_is_invisible():
    mask = MASK.clone()
    mask[1, 2] = False
    stored = top_classes(logits(1), 2)
    dirty = TopClasses(stored.tokens.clone(), stored.log_probs.clone())
    dirty.log_probs[1, 2], dirty.tokens[1, 2] = float("nan"), 0
    criterion = build_criterion("topk", k=2)
    assert torch.equal(criterion(logits(0), dirty, mask), criterion(logits(0), stored, mask))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 7}, r"k is 7, but student \(2, 3, 6\) and target \(2, 3, 6\) have fewer classes"),
        ({"k": 0}, "k is 0: give an integer of at least 1"),
        ({"renorm": "no"}, "renorm is 'no': give true or false"),
        ({"tail": "others"}, "tail is 'others'; did you mean other?"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        run("topk", **{"k": 2, **options})


def test_fewer_stored_classes_than_k():
    with pytest.raises(ValueError, match=r"k is 3, but .*target \(2, 3, 2\) have fewer classes"):
        run("topk", teacher=top_classes(logits(1), 2), k=3)


def ctc(teacher, student, lengths=None, **options):
    """Compute the KL of one utterance per row, and the student's gradient."""
    student = tensor(student).double().requires_grad_()
    mask = torch.arange(student.shape[1]) < tensor(lengths or [student.shape[1]] * len(student))[:, None]
    value = build_criterion("kl", **options)(student, tensor(teacher).double(), mask)
    value.backward()
    return value.item(), student.grad


EVEN, SURE = [0.0, 0.0], [log(3), 0.0]  # (1/2, 1/2), (3/4, 1/4); the blank is first
TOKEN = [0.0, log(3)]


def test_a_frame_is_compared_with_the_most_alike_of_those_after_it():
    # frame 0 of the teacher, (1/2, 1/2), is found a frame later; frame 1 only where it is:
    # 3/4 ln(3/2) + 1/4 ln(1/2)
    value, gradient = ctc([[EVEN, SURE]], [[SURE, EVEN]], delay={"max": 1})
    assert value == pytest.approx(3 / 4 * log(3 / 2) - log(2) / 4)
    assert (gradient[0, 0] == 0).all() and gradient[0, 1].abs().max() > 0
    # both frames of the teacher are compared with the student's second, whose gradients add up
    _, both = ctc([[EVEN, EVEN]], [[[9.0, 0.0], SURE]], delay={"max": 1})
    torch.testing.assert_close(both[0, 1], 2 * ctc([[EVEN]], [[SURE]])[1][0, 0])


def test_a_least_delay_leaves_out_the_end_of_an_utterance():
    # frame 0 with frame 1: (3/4, 1/4) against (1/2, 1/2); frame 1 has none after it, padding does not count
    for reduction in ("utterance", "mean"):  # of one utterance, and of one frame that counts
        options = {"delay": {"min": 1, "max": 5}, "reduction": reduction}
        value, _ = ctc([[SURE, TOKEN, EVEN]], [[TOKEN, EVEN, SURE]], [2], **options)
        assert value == pytest.approx(3 / 4 * log(3 / 2) - log(2) / 4)
    assert ctc([[SURE]], [[EVEN]], delay={"min": 1, "max": 1})[0] == 0


def test_a_frame_that_is_no_number_is_not_passed_over():
    student = [[EVEN, [nan, 0.0]]]
    assert isnan(ctc([[SURE, SURE]], student, [2], delay={"max": 1})[0])


@pytest.mark.parametrize(
    ("options", "counted"),
    [({"frames": "nonblank"}, [2]), ({"frames": "symmetric"}, [1, 2, 3]),
     ({"frames": "symmetric", "neighbours": 2}, [0, 1, 2, 3])],
)  # fmt: skip
def test_frames_that_count_are_around_the_teachers_tokens(options, counted):
    teacher, student = [[SURE, SURE, TOKEN, SURE, SURE]], [[EVEN] * 5]
    value, gradient = ctc(teacher, student, [4], reduction="mean", **options)
    # each frame: 3/4 ln(3/2) + 1/4 ln(1/2)
    assert value == pytest.approx(3 / 4 * log(3 / 2) - log(2) / 4)
    assert [i for i in range(5) if gradient[0, i].abs().max() > 0] == counted


@pytest.mark.parametrize(
    ("delay", "message"),
    [("auto", "give the frames that the student may be late"), ({"max": 4, "mim": 1}, "did you mean min"),
     ({"max": 1, "min": 2}, "0 <= min <= max"), ({"max": 0.5}, "whole numbers"), ({}, "may be late")],
)  # fmt: skip
def test_delays_are_checked(delay, message):
    with pytest.raises(ValueError, match=message):
        build_criterion("kl", delay=delay)
