"""Properties of the contract for the criterion on lattices; test/rnnt tests its kinds."""

from math import log

import pytest
import torch
from torch import tensor

from espnet_kd.criteria import CRITERIA, Transcript, build_criterion
from espnet_kd.rnnt import Joint, collapsed_targets, rnnt_loss

KINDS = ("full", "collapsed", "one_best", "occupancy", "alignments")
LENGTHS = Transcript(tensor([[1, 2, 4], [3, -1, -1], [-1, -1, -1]]), tensor([4, 3, 1]), tensor([3, 1, 0]))
every_kind = pytest.mark.parametrize("kind", KINDS)
every_reduction = pytest.mark.parametrize("reduction", ["mean", "utterance", "sum"])


def joints(dtype=torch.float64):
    """Make student and teacher with (3, 4, 4) nodes, 5 classes, and 3 and 2 joint dimensions."""
    random = torch.Generator().manual_seed(1)
    return [
        Joint(*(torch.randn(s, generator=random, dtype=dtype) for s in ((3, 4, j), (3, 4, j), (5, j), (5,))))
        for j in (3, 2)
    ]


def tensors(joint):
    return joint.enc, joint.dec, joint.weight, joint.bias


def gradients(criterion, student, teacher, transcript=LENGTHS):
    student = student.map(lambda x: x.detach().clone().requires_grad_())
    value = criterion(student, teacher, transcript)
    return value.detach(), torch.autograd.grad(value, tensors(student))


def test_every_lattice_criterion_is_tested_here():
    assert [name for name, criterion in CRITERIA.items() if criterion.needs == "lattice"] == ["transducer"]


@every_kind
@every_reduction
def test_1_zero_without_gradient_at_equality(kind, reduction):
    student, _ = joints()
    value, found = gradients(build_criterion("transducer", kind=kind, reduction=reduction), student, student)
    assert abs(value) < 1e-12 and all(g.abs().max() < 1e-12 for g in found)


@every_kind
@pytest.mark.parametrize("filling", [float("nan"), float("inf"), 1e30])
def test_2_padding_changes_nothing(kind, filling):
    criterion, (student, teacher) = build_criterion("transducer", kind=kind), joints()
    clean = gradients(criterion, student, teacher)

    def dirty(joint):
        enc, dec, weight, bias = (x.clone() for x in tensors(joint))
        for b, (frames, labels) in enumerate(zip(LENGTHS.enc_lens, LENGTHS.label_lens, strict=True)):
            enc[b, frames:], dec[b, labels + 1 :] = filling, filling
        return joint.with_tensors(enc, dec, weight, bias)

    value, found = gradients(criterion, dirty(student), dirty(teacher))
    assert torch.equal(value, clean[0])
    assert all(torch.equal(one, other) for one, other in zip(found, clean[1], strict=True))


@every_kind
def test_3_only_the_student_receives_gradient(kind):
    student, teacher = (joint.map(lambda x: x.requires_grad_()) for joint in joints())
    build_criterion("transducer", kind=kind)(student, teacher, LENGTHS).backward()
    assert all(x.grad is None for x in tensors(teacher))
    assert all(x.grad.abs().max() > 0 for x in tensors(student))


@every_kind
def test_4_gradient_agrees_with_finite_differences(kind):
    criterion, (student, teacher) = build_criterion("transducer", kind=kind, temperature=2.0), joints()
    inputs = [x.requires_grad_() for x in tensors(student)]
    assert torch.autograd.gradcheck(lambda *x: criterion(student.with_tensors(*x), teacher, LENGTHS), inputs)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_5_equals_the_sum_on_paper(kind):
    # one node, two classes: teacher (1/2, 1/2), student (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3)
    student, teacher = (
        Joint(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.ones(2, 1), tensor([bias, 0.0])).map(
            torch.Tensor.double
        )
        for bias in (log(3), 0.0)
    )
    node = Transcript(torch.zeros(1, 0), tensor([1]), tensor([0]))
    value = build_criterion("transducer", kind=kind, reduction="sum")(student, teacher, node)
    assert value.item() == pytest.approx(log(4 / 3) / 2, rel=1e-6)


def test_5_alignments_are_zero_where_there_is_one_alignment():
    student, teacher = joints()
    one = Transcript(torch.zeros(3, 0), tensor([4, 2, 1]), tensor([0, 0, 0]))
    value, _ = gradients(build_criterion("transducer", kind="alignments"), student, teacher, one)
    assert abs(value) < 1e-12


@every_kind
@every_reduction
def test_7_doubling_the_batch_changes_the_sum_only(kind, reduction):
    criterion, both = build_criterion("transducer", kind=kind, reduction=reduction), joints()
    once = criterion(*both, LENGTHS)
    doubled = [j.with_tensors(*(torch.cat([x, x]) for x in (j.enc, j.dec)), j.weight, j.bias) for j in both]
    twice = criterion(*doubled, Transcript(*(torch.cat([x, x]) for x in LENGTHS)))
    torch.testing.assert_close(twice, 2 * once if reduction == "sum" else once)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_8_half_precision_is_computed_in_float32(kind, dtype):
    criterion, both = (
        build_criterion("transducer", kind=kind),
        [j.map(lambda x: x.to(dtype)) for j in joints()],
    )
    wide = criterion(*(joint.map(torch.Tensor.float) for joint in both), LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        value = criterion(*both, LENGTHS)
    assert value.dtype == torch.float32 and torch.equal(value, wide)


def test_9_errors_name_student_and_target():
    criterion, (student, teacher) = build_criterion("transducer"), joints()
    shorter = teacher.with_tensors(teacher.enc[:, :3], teacher.dec, teacher.weight, teacher.bias)
    with pytest.raises(ValueError, match=r"\(3, 3, 4\).*\(3, 4, 4\)"):
        criterion(student, shorter, LENGTHS)
    fewer = teacher.with_tensors(teacher.enc, teacher.dec, teacher.weight[:4], teacher.bias[:4])
    with pytest.raises(ValueError, match="teacher has 4 classes, the student 5"):
        criterion(student, fewer, LENGTHS)


@pytest.mark.parametrize(
    "option",
    [{"delay": -1}, {"delay": 1.5}, {"kind": "fool"}, {"temperature": 0}, {"chunk": "x"}, {"chunk": 0},
     {"normalize": "frames"}],
    ids=str,
)  # fmt: skip
def test_an_unusable_option_is_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        build_criterion("transducer", **option)


def test_reductions_are_those_of_other_criteria():
    student, teacher = joints()
    options = ({}, {"reduction": "sum"}, {"reduction": "mean"}, {"normalize": "nodes"})
    summed, total, mean, by_node = (build_criterion("transducer", **option) for option in options)
    alone = [
        summed(student.utterance(b), teacher.utterance(b), Transcript(*(x[b : b + 1] for x in LENGTHS)))
        for b in range(3)
    ]
    nodes = (4 * 4, 3 * 2, 1 * 1)
    expected = sum(value / n for value, n in zip(alone, nodes, strict=True)) / 3
    torch.testing.assert_close(by_node(student, teacher, LENGTHS), expected)
    torch.testing.assert_close(summed(student, teacher, LENGTHS), sum(alone) / 3)
    torch.testing.assert_close(total(student, teacher, LENGTHS), sum(alone))
    torch.testing.assert_close(mean(student, teacher, LENGTHS), sum(alone) / sum(nodes))


def test_the_mean_over_all_nodes_is_not_by_utterance():
    with pytest.raises(ValueError, match="over all nodes of the batch, which normalize: nodes contradicts"):
        build_criterion("transducer", reduction="mean", normalize="nodes")


@every_kind
def test_by_utterance_the_gradient_does_not_depend_on_the_batch(kind):
    """The reduction `utterance`, with and without division by the number of nodes."""
    one, (student, teacher) = Transcript(*(x[:1] for x in LENGTHS)), joints()
    for normalize in (None, "nodes"):
        criterion = build_criterion("transducer", kind=kind, normalize=normalize)
        _, alone = gradients(criterion, student.utterance(0), teacher.utterance(0), one)
        _, among = gradients(criterion, student, teacher)
        torch.testing.assert_close(alone[0][0], 3 * among[0][0])


def test_a_kind_by_its_former_name_is_refused_with_the_new_one():
    with pytest.raises(ValueError, match="kind 'full_sum' is now named 'alignments'"):
        build_criterion("transducer", kind="full_sum")


def test_with_task_returns_the_rnnt_loss_too():
    student, teacher = joints()
    both = build_criterion("transducer").with_task(student, teacher, LENGTHS, rnnt_weight=2.0, kd_weight=0.5)
    torch.testing.assert_close(both.loss, 2.0 * both.rnnt + 0.5 * both.kd)


def test_stored_targets_serve_as_the_teacher():
    student, teacher = joints()
    criterion = build_criterion("transducer", kind="collapsed")
    stored = collapsed_targets(teacher, *LENGTHS)
    torch.testing.assert_close(criterion(student, stored, LENGTHS), criterion(student, teacher, LENGTHS))


@every_reduction
def test_the_reduction_is_not_that_of_the_rnnt_loss(reduction):
    """The loss of the task stays a mean over the batch, whatever the criterion is; values and gradients."""
    criterion, (student, teacher) = build_criterion("transducer", reduction=reduction), joints()
    inputs = [x.requires_grad_() for x in tensors(student)]
    found = criterion.with_task(student, teacher, LENGTHS, rnnt_weight=0.5, kd_weight=2.0)
    task, kd = rnnt_loss(student, *LENGTHS), criterion(student, teacher, LENGTHS)
    torch.testing.assert_close((found.rnnt, found.kd), (task.detach(), kd.detach()))
    expected = 0.5 * task + 2.0 * kd
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, inputs) for x in (found.loss, expected)))


@pytest.mark.parametrize("kind", ["full", "collapsed", "alignments"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_lattice_that_is_known_is_not_computed_again(kind, temperature):
    criterion = build_criterion("transducer", kind=kind, temperature=temperature)
    student, teacher = joints()
    inputs = [x.requires_grad_() for x in tensors(student)]
    known = collapsed_targets(student, *LENGTHS, chunk=5)
    found, expected = (
        criterion.with_task(student, teacher, LENGTHS, rnnt_weight=0.5, kd_weight=2.0, fastemit=0.1, **more)
        for more in ({"known": known}, {})
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(x.loss, inputs) for x in (found, expected)))
