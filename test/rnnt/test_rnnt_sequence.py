"""The kind `sequence`: the probability of the labels, whatever the frames, against all alignments."""

from dataclasses import replace
from math import inf

import pytest
import rnnt_reference as reference
import torch
from lattices import assert_same, every_lattice, lattices, leaf, run
from torch import tensor

from espnet_kd.rnnt import SequenceScores, rnnt_distillation, rnnt_loss, sequence_distance, sequence_scores

OPTIONS = {
    "default": {},
    "mse": {"distance": "mse"},
    "fastemit": {"fastemit": 0.3},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "chunk 5": {"chunk": 5},
    "teacher only": {"rnnt_weight": None},
    "no weight of the task": {"rnnt_weight": 0.0, "distance": "mse"},
}


def enumerated(joint, labels, enc_lens, label_lens, blank=0):
    """Sum the probabilities of all alignments of each utterance, one by one: (B,) nats."""
    found = []
    for b, t, y in reference.utterances(labels, enc_lens, label_lens):
        log_probs = reference.logits_of(joint, b, t, y).log_softmax(-1)
        found.append(reference.alignment_scores(log_probs, y, blank).logsumexp(0))
    return torch.stack(found)


def plain(
    student, scores, *batch, rnnt_weight=0.7, kd_weight=1.3, distance="l1", blank=0, reduction="mean",
    fastemit=0.0, chunk=None,
):  # fmt: skip
    """Compute what rnnt_distillation does, by enumeration."""
    ours = enumerated(student, *batch, blank=blank)
    kd = (scores - ours).abs() if distance == "l1" else (scores - ours) ** 2
    rnnt = reference.rnnt_loss(student, *batch, blank=blank, fastemit=fastemit, reduction="none")
    rnnt = torch.full_like(kd, torch.nan) if rnnt_weight is None else rnnt
    loss = kd_weight * kd + (rnnt_weight * rnnt if rnnt_weight else 0.0)
    return [reference.REDUCE[reduction](x) for x in (loss, rnnt, kd)]


def compare(given, scores, **options):
    """Compare value and gradients; the task alone has the weight 0.7 unless an option says otherwise."""
    options = {"rnnt_weight": 0.7, "kd_weight": 1.3} | options
    fast = run(rnnt_distillation, given, SequenceScores(scores), kind="sequence", **options)
    assert_same(fast, run(plain, given, scores, **options))


@every_lattice
def test_equals_the_enumeration_of_all_alignments(lattice):
    given, blank = lattices(**lattice), lattice.get("blank", 0)
    scores = enumerated(given.teacher, *given.batch, blank=blank)
    torch.testing.assert_close(sequence_scores(given.teacher, *given.batch, blank=blank).log_probs, scores)
    compare(given, scores, blank=blank)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_equals_the_enumeration_with_every_option(options):
    given = lattices()
    compare(given, enumerated(given.teacher, *given.batch), **options)


def test_the_teacher_may_have_half_of_the_frames():
    given, other = lattices(frames=(6, 4, 5)), lattices(frames=(3, 2, 3))
    theirs = given.labels, other.enc_lens, given.label_lens
    scores = sequence_scores(other.teacher, *theirs).log_probs
    torch.testing.assert_close(scores, enumerated(other.teacher, *theirs))
    compare(given, scores)


def test_a_joint_network_of_the_same_frames_is_a_teacher_too():
    given = lattices()
    options = {"kind": "sequence", "rnnt_weight": 0.7, "kd_weight": 1.3}
    scores = sequence_scores(given.teacher, *given.batch)
    both = [run(rnnt_distillation, given, t, **options) for t in (given.teacher, scores)]
    assert_same(*both, 0.0)


def test_below_the_teacher_the_gradient_is_that_of_the_task_and_above_it_the_opposite():
    given = lattices()
    options = {"kind": "sequence", "rnnt_weight": None, "kd_weight": 1.0}
    task = run(rnnt_loss, given)[1]
    for scores, sign in ((torch.zeros(3), 1), (torch.full((3,), -1e3), -1)):
        found = run(rnnt_distillation, given, SequenceScores(scores), **options)[1]
        for one, other in zip(found, task, strict=True):
            torch.testing.assert_close(one, sign * other)


def test_finite_differences():
    given = lattices()
    scores = SequenceScores(enumerated(given.teacher, *given.batch))
    clean = leaf(given.student.map(lambda x: x.detach().nan_to_num(0.0)))

    def value(*tensors):
        options = {"kind": "sequence", "rnnt_weight": 0.7, "kd_weight": 1.3, "distance": "mse"}
        return rnnt_distillation(clean.with_tensors(*tensors), scores, *given.batch, **options).loss

    assert torch.autograd.gradcheck(value, [clean.enc, clean.dec, clean.weight, clean.bias])


def test_of_hypotheses_the_posteriors_over_the_list_are_compared():
    # teacher (1/2, 1/2), student (3/4, 1/4) of what the list has: 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3)
    student, teacher = tensor([[0.03, 0.01]]).log(), tensor([[0.2, 0.2]]).log()
    torch.testing.assert_close(sequence_distance(student, teacher), tensor([4 / 3]).log() / 2)


@pytest.mark.parametrize("teacher", [[-1.0, -inf], [-inf, -2.0], [-inf, -inf]])
def test_an_impossible_sequence_counts_for_nothing(teacher):
    student = tensor([-3.0, -inf], requires_grad=True)
    for given, other in ((student, tensor(teacher)), (student[None], tensor([teacher]))):
        found = sequence_distance(given, other)
        (gradient,) = torch.autograd.grad(found.sum(), student)
        one = teacher[0] > -inf and given.dim() == 1
        assert found.sum().item() == pytest.approx(2.0 if one else 0.0)
        assert gradient.tolist() == [-1.0 if one else 0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delay": 1}, "delay is 1, but the kind sequence compares whole label sequences"),
        ({"temperature": 2.0}, "temperature is 2.0, but the kind sequence"),
        ({"normalize": "nodes"}, "normalize is 'nodes', but the kind sequence"),
        ({"distance": "l2"}, "distance is 'l2': use l1 or mse"),
        ({"kind": "full"}, "stored targets are SequenceScores, for the kind sequence, but the kind is full"),
        ({"teacher": SequenceScores(torch.zeros(2))}, "scores of shape .2,., the student's batch has 3"),
        ({"teacher": SequenceScores(torch.zeros(3, 1)), "reduction": "none"}, "hypotheses has one value"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes, message):
    given, options = lattices(), {"kind": "sequence", "rnnt_weight": 1.0, "kd_weight": 1.0} | changes
    teacher = options.pop("teacher", SequenceScores(torch.zeros(3)))
    with pytest.raises(ValueError, match=message):
        rnnt_distillation(given.student, teacher, *given.batch, **options)


def test_a_class_that_the_teacher_excludes_is_impossible():
    given = lattices()
    bias = given.teacher.bias.clone()
    bias[given.labels[0, 0]] = -inf
    excluded = replace(given.teacher, bias=bias)
    assert sequence_scores(excluded, *given.batch).log_probs[0] == -inf
