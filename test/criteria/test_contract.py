"""The eleven properties that every registered criterion has, or declares exempt with a reason."""

import inspect
from math import log

import pytest
import torch
from naive import NAIVE, frame_weights, matched, reduce
from torch import tensor

from bench.stand_in_device import DEVICE, counted, to_device
from espnet_kd.criteria import CRITERIA, build_criterion
from espnet_kd.criteria import criterion as module

LINEAR = {"projection": "linear", "student_dim": 4, "teacher_dim": 5}
# A new criterion needs a line here, in HAND and in NAIVE; every option must occur.
OPTIONS = {
    "kl": [
        {},
        {"temperature": 2.5},
        {"direction": "reverse"},
        {"direction": "symmetric", "temperature": 0.5},
        {"label_smoothing": 0.2},
        {"label_smoothing": 0.2, "direction": "reverse", "temperature": 2.5},
        {"delay": {"max": 2}},
        {"frames": "nonblank"},
        {"frames": "symmetric", "neighbours": 1, "delay": {"min": 0, "max": 1}},
    ],
    "cross_entropy": [{}, {"temperature": 2.5}, {"label_smoothing": 0.2}],
    "softmax_l2": [{}, {"temperature": 2.5}, {"label_smoothing": 0.2}],
    "uld": [{}, {"temperature": 2.5}, {"label_smoothing": 0.2}],
    "topk": [
        {"k": 5},
        {"k": 1},
        {"k": 2, "temperature": 2.5},
        {"k": 2, "renorm": False},
        {"k": 2, "tail": "other"},
    ],
    "skew_kl": [{}, {"temperature": 2.5, "alpha": 0.4}, {"direction": "reverse"}, {"label_smoothing": 0.2}],
    "jsd": [{}, {"temperature": 2.5}, {"beta": 0.1}, {"label_smoothing": 0.2}],
    "akl": [{}, {"temperature": 2.5}, {"head": 0.8}, {"label_smoothing": 0.2}],
    "decoupled_kl": [
        {},
        {"temperature": 2.5, "target_class": "top", "label_smoothing": 0.2},
        {"alpha": 0.5, "beta": 4.0},
    ],
    "hidden": [
        {"distance": distance, **projection}
        for distance in ("mse", "l1", "cosine")
        for projection in ({"projection": "none"}, LINEAR)
    ]
    + [
        {"projection": "none", "frame_weights": kind, "weight_power": 2.0}
        for kind in ("activation", "deviation")
    ],  # nonblank: test_weights.py
    "mvq": [{"student_dim": 4, "teacher_dim": 3}],
}
# One position each: options, student, teacher, value.
HAND = {
    # teacher (1/2, 1/2), student (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3)
    "kl": ({}, [log(3), 0.0], [0.0, 0.0], log(4 / 3) / 2),
    # the same: -1/2 ln(3/4) - 1/2 ln(1/4) = 1/2 ln(16/3)
    "cross_entropy": ({}, [log(3), 0.0], [0.0, 0.0], log(16 / 3) / 2),
    # the same: (1/2 - 3/4)^2 + (1/2 - 1/4)^2 = 1/8
    "softmax_l2": ({}, [log(3), 0.0], [0.0, 0.0], 1 / 8),
    # sorted: teacher (1/2, 1/3, 1/6), student (3/4, 1/4, 0): 1/4 + 1/12 + 1/6
    "uld": ({}, [0.0, log(3)], [0.0, log(2), log(3)], 1 / 2),
    # teacher (1/2, 1/3, 1/6), of which (3/5, 2/5) remain; student (1/2, 1/4, 1/4): 3/5 ln 2 + 2/5 ln 4
    "topk": ({"k": 2}, [log(2), 0.0, 0.0], [log(3), log(2), 0.0], 7 / 5 * log(2)),
    # teacher (1/2, 1/2), student (3/4, 1/4), mixture (5/8, 3/8): 1/2 ln(4/5) + 1/2 ln(4/3) = 1/2 ln(16/15)
    "skew_kl": ({"alpha": 0.5}, [log(3), 0.0], [0.0, 0.0], log(16 / 15) / 2),
    # the same: half of that, and half of 3/4 ln(6/5) + 1/4 ln(2/3)
    "jsd": ({}, [log(3), 0.0], [0.0, 0.0], log(16 / 15) / 4 + 3 * log(6 / 5) / 8 + log(2 / 3) / 8),
    # teacher (1/2, 1/4, 1/4), student (1/4, 5/8, 1/8): errors 1/4 in the head, 3/8 + 1/8 outside: a third
    # of 1/2 ln 2 + 1/4 ln(2/5) + 1/4 ln 2, two thirds of 1/4 ln(1/2) + 5/8 ln(5/2) + 1/8 ln(1/2)
    "akl": (
        {}, [log(2), log(5), 0.0], [log(2), 0.0, 0.0],
        (3 * log(2) + log(2 / 5)) / 12 + (5 * log(5 / 2) - 3 * log(2)) / 12,
    ),
    # blank or not: teacher (1/2, 1/2), student (1/4, 3/4): 1/2 ln 2 + 1/2 ln(2/3); the others: teacher
    # (1/2, 1/2), student (2/3, 1/3): 1/2 ln(3/4) + 1/2 ln(3/2); twice the latter
    "decoupled_kl": (
        {"beta": 2.0}, [0.0, log(2), 0.0], [log(2), 0.0, 0.0], log(4 / 3) / 2 + log(9 / 8),
    ),
    # ((1 - 2)^2 + (1 - 4)^2) / 2 = 5
    "hidden": ({"projection": "none"}, [1.0, 1.0], [2.0, 4.0], 5.0),
    # e^(ln 255) for the code, e^0 for the 255 others: -ln(255 / 510) = ln 2
    "mvq": ({"student_dim": 1, "teacher_dim": 1}, [log(255)], [7.0], log(2)),
}
REDUCTIONS = ("mean", "utterance", "sum")
LENGTHS = (4, 2, 1)
EXEMPTIONS = {"zero_at_equality", "same_classes", "finite_differences"}
CASES = [
    pytest.param(name, options, id="-".join([name, *map(str, options.values())]))
    for name, rows in OPTIONS.items()
    for options in rows
]
every_case = pytest.mark.parametrize(("name", "options"), CASES)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def missing(registry):
    """List criteria and options that the tables lack; for others: test_transducer.py, test_sequence.py."""
    plain = [name for name, c in registry.items() if c.needs not in ("lattice", "sequence")]
    tables = {"OPTIONS": OPTIONS, "HAND": HAND, "NAIVE": NAIVE}
    gaps = [f"{table}: {name}" for name in plain for table, rows in tables.items() if name not in rows]
    for name, rows in OPTIONS.items():
        known = set(inspect.signature(registry[name]).parameters) - {"reduction"}
        gaps += [f"OPTIONS: {name}: {key}" for key in known - {key for row in rows for key in row}]
    return gaps


def batch(options, dtype=torch.float64, axes=(4,)):
    """Make student (3, *axes, D_S), teacher (3, *axes, D_T) and mask (3, *axes) for LENGTHS frames."""
    random = torch.Generator().manual_seed(1)
    student = torch.randn(3, *axes, options.get("student_dim", 5), generator=random, dtype=torch.float64)
    teacher = torch.randn(3, *axes, options.get("teacher_dim", 5), generator=random, dtype=torch.float64)
    if options in OPTIONS["mvq"]:
        teacher = torch.randint(256, teacher.shape, generator=random).double()
    mask = torch.arange(axes[0]) < tensor(LENGTHS)[:, None]
    mask = mask.view(3, axes[0], *[1] * (len(axes) - 1)).expand(3, *axes)
    return student.to(dtype).requires_grad_(), teacher.to(dtype), mask


def build(name, options, reduction="mean"):
    torch.manual_seed(2)
    return build_criterion(name, **options, reduction=reduction).double()


def of(criterion, student, teacher, mask, chosen):
    """Compute the value over some utterances, and their gradients."""
    part = student[chosen].detach().requires_grad_()
    value = criterion(part, teacher[chosen], mask[chosen])
    return value.detach(), torch.autograd.grad(value, part)[0]


def gradients(criterion, student, teacher, mask, autocast=False):
    """Compute the value, and gradients of the student and of the criterion's own parameters."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = criterion(student, teacher, mask)
    return value.detach(), torch.autograd.grad(value, [student, *criterion.parameters()])


def test_every_criterion_is_in_the_tables():
    assert missing(CRITERIA) == []


def test_a_criterion_or_option_that_the_tables_lack_is_found():
    class KLWithMore(CRITERIA["kl"]):
        def __init__(self, temperature=1.0, direction="forward", floor=0.0):
            super().__init__(temperature, direction)

    assert missing(CRITERIA | {"new": CRITERIA["kl"]}) == ["OPTIONS: new", "HAND: new", "NAIVE: new"]
    assert missing(CRITERIA | {"kl": KLWithMore}) == ["OPTIONS: kl: floor"]


@every_case
@every_reduction
def test_1_zero_without_gradient_at_equality(name, options, reduction):
    criterion = build(name, options, reduction)
    student, _, mask = batch(options)
    assert set(criterion.exempt) <= EXEMPTIONS and all(criterion.exempt.values())
    teacher = student.detach()
    if name == "hidden" and "zero_at_equality" in criterion.exempt:  # zero where the projection is right
        teacher = criterion.projection(teacher).detach()
    if name == "mvq":  # zero where the predictor is sure of the code
        teacher = torch.full((*mask.shape, 3), 7.0)
        criterion.predictor.bias.data.view(3, -1)[:, 7] = 1e3
    if smoothing := options.get("label_smoothing"):  # zero where the student has the smoothed distribution
        p = (1 - smoothing) * (teacher / criterion.temperature).softmax(-1) + smoothing / 5
        assert criterion(student, teacher, mask) > 1e-3 and "zero_at_equality" in criterion.exempt
        student = (criterion.temperature * p.log()).requires_grad_()
    value, (gradient, *_) = gradients(criterion, student, teacher, mask)
    if name == "uld" and smoothing:  # a sum of absolute values has a gradient beside 0
        assert abs(value) < 1e-12
        return
    if name == "topk":  # its values and its gradients where classes are dropped: test_topk.py
        dropped = options["k"] < 5 and options.get("tail") != "other"
        assert (gradient.abs().max() > 1e-3) == dropped and (dropped or gradient.abs().max() < 1e-12)
        return
    assert gradient.abs().max() < 1e-12
    if name == "cross_entropy":  # T^2 times the teacher's entropy
        p = (student.detach()[mask] / criterion.temperature).softmax(-1)
        entropies = criterion.temperature**2 * -(p * p.log()).sum(-1)
        scale = {"mean": sum(LENGTHS), "utterance": 3, "sum": 1}[reduction]
        torch.testing.assert_close(value, entropies.sum() / scale)
    else:
        assert abs(value) < 1e-12


@every_case
@every_reduction
@pytest.mark.parametrize("filling", [float("nan"), float("inf"), 1e30])
def test_2_padding_changes_nothing(name, options, reduction, filling):
    criterion = build(name, options, reduction)
    student, teacher, mask = batch(options)
    clean_value, clean = gradients(criterion, student, teacher, mask)
    dirty_student = student.detach().masked_fill(~mask[..., None], filling).requires_grad_()
    dirty_teacher = teacher.masked_fill(~mask[..., None], filling)
    value, dirty = gradients(criterion, dirty_student, dirty_teacher, mask)
    assert torch.equal(value, clean_value)
    assert all(torch.equal(one, other) for one, other in zip(dirty, clean, strict=True))
    assert (dirty[0][~mask] == 0).all()


@every_case
def test_3_only_the_student_receives_gradient(name, options):
    criterion = build(name, options)
    student, teacher, mask = batch(options)
    teacher.requires_grad_()
    criterion(student, teacher, mask).backward()
    assert teacher.grad is None
    assert all(weights.grad.abs().max() > 0 for weights in (student, *criterion.parameters()))


@every_case
@every_reduction
def test_4_gradient_agrees_with_finite_differences(name, options, reduction):
    criterion = build(name, options, reduction)
    student, teacher, mask = batch(options)
    names = [name for name, _ in criterion.named_parameters()]
    if "finite_differences" in criterion.exempt:  # but for the weights, whose change the gradient leaves out
        p, q = ((x[mask] / criterion.temperature).softmax(-1) for x in (teacher, student.detach()))
        share = criterion.share_of_head(p, q)
        criterion.share_of_head = lambda *_: share

    def value(student, *weights):
        own = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(criterion, own, (student, teacher, mask))

    # A predictor of codes has thousands of parameters: along one direction at random.
    assert torch.autograd.gradcheck(value, (student, *criterion.parameters()), fast_mode=name == "mvq")


@pytest.mark.parametrize("name", HAND)
def test_5_equals_the_sum_on_paper(name):
    options, student, teacher, expected = HAND[name]
    criterion = build(name, options)
    if name == "mvq":  # the output for code 7 is the student's value, all others are 0
        criterion.predictor.bias.data.zero_()
        criterion.predictor.weight.data.zero_()[7] = 1.0
    value = criterion(tensor([[student]]).double(), tensor([[teacher]]).double(), tensor([[True]]))
    assert value.item() == pytest.approx(expected, rel=1e-6)


@every_case
@every_reduction
@pytest.mark.parametrize("axes", [(4,), (4, 2)], ids=["frames", "lattice"])
def test_6_equals_the_plain_implementation(name, options, reduction, axes):
    criterion = build(name, options, reduction)
    student, teacher, mask = batch(options, axes=axes)
    own = {key.split(".")[-1]: weights.tolist() for key, weights in criterion.named_parameters()}
    utterances = []
    for s, t, m in zip(student, teacher, mask, strict=True):
        if getattr(criterion, "of_ctc", False):
            utterances.append(matched(s[m].tolist(), t[m].tolist(), m[0].numel(), **options))
            continue
        pairs = list(zip(s[m].tolist(), t[m].tolist(), strict=True))
        weights = frame_weights([b for _, b in pairs], **options)
        utterances.append(
            [w * NAIVE[name](a, b, **options, **own) for w, (a, b) in zip(weights, pairs, strict=True)]
        )
    assert criterion(student, teacher, mask).item() == pytest.approx(reduce(utterances, reduction), rel=1e-9)


@every_case
@every_reduction
@pytest.mark.parametrize("chunk", [1, 11, 20], ids=str)
def test_6_chunks_of_positions_change_nothing(name, options, reduction, chunk, monkeypatch):
    criterion = build(name, options, reduction)
    student, teacher, mask = batch(options, axes=(4, 2))
    whole = gradients(criterion, student, teacher, mask)
    calls, compare = [], criterion.per_position
    monkeypatch.setattr(module, "CPU_CHUNK", chunk)
    counting = lambda *both: calls.append(len(both[0])) or compare(*both)  # noqa: E731
    monkeypatch.setattr(criterion, "per_position", counting)
    found = gradients(criterion, student, teacher, mask)
    for one, other in zip((found[0], *found[1]), (whole[0], *whole[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    if getattr(criterion, "of_ctc", False):  # once more for each delay
        return
    positions = 2 * sum(LENGTHS)
    rows = max(1, chunk // 5)
    parts = [rows] * (positions // rows) + [positions % rows] * bool(positions % rows)
    assert calls == ([positions] if criterion.needs != "logits" else parts + parts)  # and backward


@every_case
@every_reduction
def test_7_doubling_the_batch_changes_the_sum_only(name, options, reduction):
    criterion = build(name, options, reduction)
    student, teacher, mask = batch(options)
    once = criterion(student, teacher, mask)
    twice = criterion(*(torch.cat([values, values]) for values in (student, teacher, mask)))
    torch.testing.assert_close(twice, 2 * once if reduction == "sum" else once)


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_8_half_precision_is_computed_in_float32(name, options, dtype, autocast):
    criterion = build(name, options).float()
    student, teacher, mask = batch(options, dtype)
    wide = student.detach().float().requires_grad_()
    expected, (expected_gradient, *own) = gradients(criterion, wide, teacher.float(), mask)
    value, (gradient, *own_here) = gradients(criterion, student, teacher, mask, autocast)
    exact = build(name, options)(wide.double(), teacher.double(), mask)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    assert gradient.dtype == dtype and torch.equal(gradient, expected_gradient.to(dtype))
    assert all(torch.equal(one, other) for one, other in zip(own_here, own, strict=True))


@every_case
def test_8_float64_stays_float64(name, options):
    student, teacher, mask = batch(options)
    assert build(name, options).float()(student, teacher.float(), mask).dtype == torch.float64


@every_case
def test_9_errors_name_student_and_target(name, options):
    criterion = build(name, options)
    student, teacher, mask = batch(options)
    wrong = {
        "no real position": (student, teacher, torch.zeros_like(mask)),
        "same positions": (student, teacher[:, :3], mask),
        "mask": (student, teacher, mask[:, :3]),
        "torch.bool": (student, teacher, mask.int()),
        ":": (student, torch.cat([teacher, teacher], -1), mask),
    }
    if "same_classes" in criterion.exempt:
        del wrong[":"]
    for message, (s, t, m) in wrong.items():
        with pytest.raises(ValueError, match=message) as caught:
            criterion(s, t, m)
        assert message == "torch.bool" or all(str(tuple(x.shape)) in str(caught.value) for x in (s, t))


@every_case
def test_10_an_utterances_gradient_does_not_depend_on_the_others(name, options):
    criterion = build_criterion(name, **options).double()  # utterance is the default
    student, teacher, mask = batch(options)
    alone = [of(criterion, student, teacher, mask, [i])[1] for i in range(3)]
    for chosen in ([0, 1], [1, 2, 0], [2, 2, 2, 0]):
        _, found = of(criterion, student, teacher, mask, chosen)
        for gradient, utterance in zip(found, chosen, strict=True):
            torch.testing.assert_close(gradient * len(chosen), alone[utterance][0])


@every_case
@pytest.mark.parametrize("reduction", ["utterance", "mean"])
def test_10_two_processes_equal_one(name, options, reduction):
    """ESPnet weights the loss of a process by its number of utterances; with `mean`, frames count instead."""
    criterion = build(name, options, reduction)
    student, teacher, mask = batch(options)
    value, gradient = of(criterion, student, teacher, mask, [0, 1, 2])
    shares = [of(criterion, student, teacher, mask, chosen) for chosen in ([0], [1, 2])]
    together = sum(len(g) / 3 * v for v, g in shares)
    gradients = torch.cat([len(g) / 3 * g for _, g in shares])
    equal = torch.allclose(together, value) and torch.allclose(gradients, gradient)
    assert equal == (reduction == "utterance")


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_11_nothing_waits_for_a_device(name, options, dtype, monkeypatch):
    """On a stand-in for a GPU, which refuses tensors of the host among its own; in small chunks."""
    criterion = build(name, options).float()
    student, teacher, mask = batch(options, dtype)
    value, expected = gradients(criterion, student, teacher, mask)
    monkeypatch.setattr(module, "GPU_CHUNK", 20)
    with counted() as counts:
        to_device(criterion)
        there = student.detach().to(DEVICE).requires_grad_(), teacher.to(DEVICE)
        counts.waits.clear()
        value_there, found = gradients(criterion, *there, mask)
    assert not counts.waits
    for one, other in zip((value_there, *found), (value, *expected), strict=True):
        torch.testing.assert_close(one.held, other)
