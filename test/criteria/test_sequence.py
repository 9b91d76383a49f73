"""The contract for criteria on whole label sequences, of CTC and of transducers, and CTC by enumeration."""

import itertools
from math import inf, log

import pytest
import torch
from test_transducer import LENGTHS, joints
from torch import tensor

from bench.stand_in_device import DEVICE, counted
from espnet_kd.criteria import Transcript, build_criterion
from espnet_kd.criteria.sequence import ctc_emission_frames, ctc_log_probs, scores_of
from espnet_kd.rnnt import Joint, SequenceScores

CTC = Transcript(tensor([[1, 1, 2], [3, -1, -1], [-1, -1, -1]]), tensor([5, 3, 1]), tensor([3, 1, 0]))
NAMES = ("ctc", "lattice")
every_model = pytest.mark.parametrize("name", NAMES)
every_distance = pytest.mark.parametrize("distance", ["l1", "mse"])
every_reduction = pytest.mark.parametrize("reduction", ["mean", "utterance", "sum"])


def case(name, dtype=torch.float64):
    """Return what builds a criterion, the student's tensors, its scores of the labels, and a teacher's.

    The teacher of CTC has fewer frames than the student.
    """
    random = torch.Generator().manual_seed(4)
    if name == "ctc":
        student = [torch.randn(3, 5, 4, generator=random, dtype=torch.float64).to(dtype)]
        teacher = torch.randn(3, 4, 4, generator=random, dtype=torch.float64)
        theirs = scores_of(teacher, tensor([4, 2, 1]), CTC.labels, CTC.label_lens)
        return {"type": "sequence"}, student, lambda x: x, CTC, theirs
    joint, other = joints()
    student = [x.to(dtype) for x in (joint.enc, joint.dec, joint.weight, joint.bias)]
    theirs = scores_of(other, LENGTHS.enc_lens, LENGTHS.labels, LENGTHS.label_lens)
    options = {"type": "transducer", "kind": "sequence"}
    return options, student, joint.with_tensors, LENGTHS, theirs


def compute(name, dtype=torch.float64, scores=None, **options):
    """Return value and gradients of the student's tensors."""
    given, tensors, whole, transcript, theirs = case(name, dtype)
    student = [x.requires_grad_() for x in tensors]
    value = build_criterion(**given, **options)(whole(*student), scores or theirs, transcript)
    return value.detach(), torch.autograd.grad(value, student)


def collapse(path):
    """Return the labels of a path of CTC: repetitions merged, then blanks left out."""
    return [label for label, _ in itertools.groupby(path) if label]


def enumerated(logits, labels):
    """Sum the probabilities of all paths, of every length in frames, that give the labels: a logarithm."""
    log_probs = logits.log_softmax(-1)
    paths = itertools.product(range(logits.shape[1]), repeat=len(logits))
    each = [sum(log_probs[t, v] for t, v in enumerate(p)) for p in paths if collapse(p) == labels]
    return torch.stack(each).logsumexp(0) if each else tensor(-inf)


@every_model
@every_reduction
def test_1_zero_without_gradient_at_equality(name, reduction):
    _, tensors, whole, transcript, _ = case(name)
    same = scores_of(whole(*tensors), transcript.enc_lens, transcript.labels, transcript.label_lens)
    value, gradients = compute(name, scores=same, distance="mse", reduction=reduction)
    assert value < 1e-20 and all(g.abs().max() < 1e-12 for g in gradients)


@pytest.mark.parametrize("filling", [float("nan"), inf, 1e30])
def test_2_padding_changes_nothing(filling):  # of lattices: test/rnnt/test_rnnt_sequence.py, filled with NaN
    _, (clean,), _, transcript, theirs = case("ctc")
    found = []
    for dirty in (clean, clean.masked_fill((torch.arange(5) >= CTC.enc_lens[:, None])[..., None], filling)):
        student = dirty.clone().requires_grad_()
        value = build_criterion("sequence")(student, theirs, transcript)
        found.append((value.detach(), *torch.autograd.grad(value, student)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][1].abs().max() > 0 and (found[0][1][1, 3:] == 0).all()


@every_model
def test_3_only_the_student_receives_gradient(name):
    given, tensors, whole, transcript, theirs = case(name)
    student = [x.requires_grad_() for x in tensors]
    scores = theirs.log_probs.clone().requires_grad_()
    build_criterion(**given)(whole(*student), SequenceScores(scores), transcript).backward()
    assert scores.grad is None and all(x.grad.abs().max() > 0 for x in student)


@every_model
@every_distance
@every_reduction
def test_4_gradient_agrees_with_finite_differences(name, distance, reduction):
    given, tensors, whole, transcript, theirs = case(name)
    criterion = build_criterion(**given, distance=distance, reduction=reduction)
    student = [x.requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(lambda *x: criterion(whole(*x), theirs, transcript), student)


def test_5_equals_the_sum_on_paper():
    # two frames, P(blank) = P(label 1) = 1/2: the paths (1 1), (1 blank), (blank 1) of four: P = 3/4;
    # the teacher's is 1/4: ln(3/4) - ln(1/4) = ln 3
    one = Transcript(tensor([[1]]), tensor([2]), tensor([1]))
    scores, student = SequenceScores(tensor([log(1 / 4)])), torch.zeros(1, 2, 2)
    for distance, expected in (("l1", log(3)), ("mse", log(3) ** 2)):
        value = build_criterion("sequence", distance=distance)(student, scores, one)
        assert value.item() == pytest.approx(expected, rel=1e-6)


@every_distance
@every_reduction
def test_6_equals_the_enumeration_of_all_paths(distance, reduction):
    _, (student,), _, transcript, theirs = case("ctc")
    ours = torch.stack(
        [
            enumerated(x[:t], y[:n].tolist())
            for x, y, t, n in zip(student, *transcript[:1], *transcript[1:], strict=True)
        ]
    )
    torch.testing.assert_close(ctc_log_probs(student, *transcript), ours)
    gap = (theirs.log_probs - ours).abs()
    gap = gap if distance == "l1" else gap**2
    expected = gap.sum() if reduction == "sum" else gap.mean()
    torch.testing.assert_close(compute("ctc", distance=distance, reduction=reduction)[0], expected)


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_8_half_precision_is_computed_in_float32(name, dtype):
    given, tensors, whole, transcript, theirs = case(name, dtype)
    criterion = build_criterion(**given)
    wide = criterion(whole(*(x.float() for x in tensors)), theirs, transcript)
    with torch.autocast("cpu", torch.bfloat16):
        value = criterion(whole(*tensors), theirs, transcript)
    assert value.dtype == torch.float32 and torch.equal(value, wide)


def test_9_errors_name_both_sides():
    _, (student,), _, transcript, theirs = case("ctc")
    with pytest.raises(ValueError, match=r"student \(3, 5, 4\), labels \(2, 3\) .* do not fit"):
        build_criterion("sequence")(student, theirs, transcript._replace(labels=CTC.labels[:2]))
    with pytest.raises(ValueError, match=r"student has scores of shape \(3,\), the teacher \(2,\)"):
        build_criterion("sequence")(student, SequenceScores(torch.zeros(2)), transcript)


@every_model
def test_10_an_utterances_gradient_does_not_depend_on_the_others(name):
    given, tensors, whole, transcript, theirs = case(name)
    criterion = build_criterion(**given)
    _, (among, *_) = compute(name)
    one = Transcript(*(x[:1] for x in transcript))
    shared = {"ctc": 1, "lattice": 2}[name]  # tensors with an axis of utterances
    student = [x[:1] if i < shared else x for i, x in enumerate(tensors)]
    first = student[0].clone().requires_grad_()
    value = criterion(whole(first, *student[1:]), SequenceScores(theirs.log_probs[:1]), one)
    torch.testing.assert_close(torch.autograd.grad(value, first)[0][0], 3 * among[0])


def test_labels_that_do_not_fit_the_frames_count_for_nothing():
    """(1, 1) needs a blank between: three frames. The student has two, its teacher three."""
    lists = Transcript(tensor([[1, 1], [1, 2]]), tensor([2, 2]), tensor([2, 2]))
    student = torch.zeros(2, 2, 3, requires_grad=True)
    theirs = scores_of(torch.zeros(2, 3, 3), tensor([3, 3]), *lists[::2])
    # the teacher's paths of three frames, each 1/27: (1 blank 1); five for (1, 2), of which the student's
    # two frames have one, 1/9
    torch.testing.assert_close(theirs.log_probs.exp(), tensor([1 / 27, 5 / 27]))
    assert ctc_log_probs(student, *lists).tolist() == [-inf, pytest.approx(log(1 / 9))]
    value = build_criterion("sequence", reduction="sum")(student, theirs, lists)
    assert value.item() == pytest.approx(log(5 / 3), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, student)
    assert (gradient[0] == 0).all() and gradient[1].abs().max() > 0


@pytest.mark.parametrize("absent", [-1e4, -inf])  # as of a teacher of fewer tokens; masked
def test_labels_of_an_absent_class_count_for_nothing(absent):
    teacher = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(4))
    teacher[..., 2] = absent
    teacher[1, 2:] = 0.0  # padding
    labels, frames, numbers = tensor([[1, 2], [2, 1]]), tensor([4, 2]), tensor([2, 1])
    theirs = scores_of(teacher, frames, labels, numbers)
    assert theirs.log_probs.tolist() == [-inf, -inf]
    student = torch.zeros(2, 4, 4, requires_grad=True)
    value = build_criterion(type="sequence")(student, theirs, Transcript(labels, frames, numbers))
    value.backward()
    assert value == 0 and not student.grad.any()
    # what is absent matters to no other label: of 1 with 2 frames, 11, 01, 10
    assert scores_of(teacher, frames, tensor([[1], [1]]), tensor([1, 1])).log_probs.isfinite().all()


@every_model
def test_of_hypotheses_the_posteriors_over_the_list_are_compared(name):
    given, tensors, whole, transcript, _ = case(name)
    lists = tensor([[[1, 2, 3], [2, -1, -1]], [[3, -1, -1], [1, 2, -1]], [[-1, -1, -1], [2, -1, -1]]])
    lens = tensor([[3, 1], [1, 2], [0, 1]])
    if name == "lattice":  # rows for each hypothesis
        tensors[1] = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = tensor([[-4.0, -3.0], [-2.0, -2.5], [-1.0, -4.0]]).double()
    both = Transcript(lists, transcript.enc_lens, lens)
    student = [x.requires_grad_() for x in tensors]
    criterion = build_criterion(**given, reduction="sum")

    def all_of(enc, *rest):
        return whole(enc if name == "ctc" else enc.repeat_interleave(2, 0), *rest)

    def alone(b, h):
        one = Transcript(lists[b : b + 1, h], transcript.enc_lens[b : b + 1], lens[b : b + 1, h])
        if name == "ctc":
            return ctc_log_probs(tensors[0][b : b + 1], *one)
        enc, dec, *rest = tensors
        joint = whole(enc[b : b + 1], dec[2 * b + h : 2 * b + h + 1], *rest)
        return scores_of(joint, one.enc_lens, one.labels, one.label_lens).log_probs

    q = torch.stack([torch.cat([alone(b, h) for h in range(2)]) for b in range(3)]).softmax(-1).detach()
    p = theirs.softmax(-1)
    value = criterion(all_of(*student), SequenceScores(theirs), both)
    torch.testing.assert_close(value.detach(), (p * (p / q).log()).sum())
    mean = build_criterion(**given)(all_of(*student), SequenceScores(theirs), both)
    torch.testing.assert_close(mean, value / 3)
    assert torch.autograd.gradcheck(lambda *x: criterion(all_of(*x), SequenceScores(theirs), both), student)


def test_hypotheses_of_all_utterances_share_their_operations():
    """On a GPU, of which each takes some microseconds to start."""

    def operations(utterances):
        shapes = (2 * utterances, 5, 4), (2 * utterances, 3, 4), (6, 4), (6,)
        with counted() as counts:
            joint = Joint(*(torch.randn(shape).to(DEVICE).requires_grad_() for shape in shapes))
            labels = torch.ones(utterances, 2, 2, dtype=torch.long).to(DEVICE)
            lens = torch.full((utterances,), 5), torch.full((utterances, 2), 2)
            scores = SequenceScores(torch.zeros(utterances, 2).to(DEVICE))
            criterion = build_criterion("transducer", kind="sequence")
            counts.operations.clear()
            criterion(joint, scores, Transcript(labels, *lens)).backward()
        return counts.operations.total()

    assert operations(6) == operations(2)


@pytest.mark.parametrize("option", [{"temperature": 2.0}, {"delay": 1}, {"normalize": "nodes"}], ids=str)
def test_an_option_without_meaning_is_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is .* but kind: sequence compares whole"):
        build_criterion("transducer", kind="sequence", **option)


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 1, 2], [], [1, 1, 1, 1]])
def test_ctc_emits_where_the_best_of_all_alignments_does(labels):
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(len(labels)), dtype=torch.float64) * 3
    scores = logits.log_softmax(-1)

    def text(path):
        return [k for k, _ in itertools.groupby(path) if k]

    paths = [path for path in itertools.product(range(3), repeat=5) if text(path) == labels]
    expected = []
    if paths:
        best = max(paths, key=lambda path: sum(scores[t, k] for t, k in enumerate(path)))
        expected = [t for t, k in enumerate(best) if k and (t == 0 or best[t - 1] != k)]
    assert ctc_emission_frames(logits, labels) == expected


def test_ctc_emits_nothing_that_it_finds_impossible():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]] * 4)
    assert ctc_emission_frames(logits, [1, 2]) == [] and len(ctc_emission_frames(logits, [2])) == 1
