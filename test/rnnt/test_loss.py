"""rnnt_loss equals the plain computation, torchaudio's, finite differences and sums on paper."""

from dataclasses import replace
from math import inf, log, nan

import pytest
import rnnt_reference as reference
import torch
import torchaudio
from lattices import assert_same, every_lattice, filled, lattices, leaf, padding, run
from torch import tensor

from espnet_kd.rnnt import Joint, rnnt_loss


def bias_only(probabilities, frames, labels):
    """Make a joint network that has the same distribution at every node; labels are 1, 2, ..."""
    bias = tensor(probabilities).double().log()
    enc, dec = torch.zeros(1, frames, 1).double(), torch.zeros(1, labels + 1, 1).double()
    joint = Joint(enc, dec, torch.zeros(len(bias), 1).double(), bias)
    return leaf(joint), torch.arange(1, labels + 1)[None], tensor([frames]), tensor([labels])


@every_lattice
@pytest.mark.parametrize(
    "options",
    [{"chunk": 1}, {"chunk": 5, "reduction": "sum"}, {"reduction": "none"}, {"fastemit": 0.3}],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_equals_the_plain_loss(lattice, options):
    given, options = lattices(**lattice), options | {"blank": lattice.get("blank", 0)}
    fast = run(rnnt_loss, given, **options)
    options.pop("chunk", None)
    assert_same(fast, run(reference.rnnt_loss, given, **options))
    for gradient, lengths in zip(fast[1][:2], (given.enc_lens, given.label_lens + 1), strict=True):
        assert (gradient[padding(gradient, lengths)] == 0).all()


@pytest.mark.parametrize("blank", [0, 3, 5])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_equals_the_loss_of_torchaudio(blank, reduction):
    given = lattices(blank=blank, filling=0.0, dtype=torch.float32)

    def theirs(joint, *batch, **options):
        # Its lattice ends where the longest utterance does.
        logits = (joint.enc[:, :5, None] + joint.dec[:, None, :4]).tanh() @ joint.weight.T + joint.bias
        y, *lengths = (x.int() for x in batch)
        return torchaudio.functional.rnnt_loss(logits, y[:, :3].clamp(min=0), *lengths, **options)

    options = {"blank": blank, "reduction": reduction}
    assert_same(run(rnnt_loss, given, **options), run(theirs, given, **options), 1e-5)


def test_gradient_agrees_with_finite_differences():
    given = lattices(frames=(2, 1), labels=(1, 2), classes=3, filling=0.0)
    tensors = [given.student.enc, given.student.dec, given.student.weight, given.student.bias]

    def value(*tensors):
        return rnnt_loss(given.student.with_tensors(*tensors), *given.batch, reduction="none")

    assert torch.autograd.gradcheck(value, tensors, fast_mode=True)


@pytest.mark.parametrize(
    ("probabilities", "frames", "labels", "expected"),
    [
        ([1 / 4, 3 / 4], 1, 0, log(4)),  # the blank
        ([1 / 4, 3 / 4], 3, 0, 3 * log(4)),
        ([1 / 4, 1 / 4, 1 / 2], 1, 2, log(32)),  # 1/4 * 1/2 * 1/4
        ([1 / 4] * 4, 2, 1, log(32)),  # two alignments of three arcs
        ([1 / 2, 1 / 4, 1 / 4], 3, 2, -log(6 / 128)),  # six alignments, each 1/2^3 * 1/4^2
    ],
)
def test_sums_on_paper(probabilities, frames, labels, expected):
    assert rnnt_loss(*bias_only(probabilities, frames, labels)).item() == pytest.approx(expected, rel=1e-12)


def test_fastemit_scales_the_gradient_of_labels_alone():
    # one frame, one label, (1/2, 1/4, 1/4): label at row 0: q - 1[1] = (1/2, -3/4, 1/4); blank at row 1:
    # q - 1[0] = (-1/2, 1/4, 1/4)
    joint, *batch = bias_only([1 / 2, 1 / 4, 1 / 4], 1, 1)
    by_label, by_blank = tensor([1 / 2, -3 / 4, 1 / 4]).double(), tensor([-1 / 2, 1 / 4, 1 / 4]).double()
    for fastemit in (0.0, 0.25, 3.0):
        value = rnnt_loss(joint, *batch, fastemit=fastemit)
        assert value.item() == pytest.approx(log(8))
        (gradient,) = torch.autograd.grad(value, joint.bias)
        torch.testing.assert_close(gradient, by_blank + (1 + fastemit) * by_label)


@pytest.mark.parametrize("filling", [nan, inf, 1e30])
def test_padding_changes_nothing(filling):
    clean = lattices(filling=0.0)
    dirty = replace(filled(clean, filling), labels=clean.labels.masked_fill(clean.labels < 0, 10**9))
    assert_same(run(rnnt_loss, dirty), run(rnnt_loss, clean), 0.0)


def test_an_impossible_label_has_infinite_loss_without_gradient():
    joint, *batch = bias_only([1 / 2, 0.0, 1 / 2], 2, 1)
    value = rnnt_loss(joint, *batch)
    value.backward()
    assert value.item() == inf and (joint.bias.grad == 0).all()


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_chunk_is_a_number_of_nodes(chunk):
    given = lattices()
    with pytest.raises(ValueError, match="chunk is .*: give a number of nodes, an integer of at least 1"):
        rnnt_loss(given.student, *given.batch, chunk=chunk)


@pytest.mark.parametrize("fastemit", [-0.1, inf, nan, True, "1"])
def test_fastemit_is_not_negative(fastemit):
    given = lattices()
    with pytest.raises(ValueError, match="fastemit is .*: give a finite number of at least 0"):
        rnnt_loss(given.student, *given.batch, fastemit=fastemit)


def test_an_unknown_reduction_is_refused():
    given = lattices()
    with pytest.raises(ValueError, match="reduction is 'batch': use one of mean, sum, none"):
        rnnt_loss(given.student, *given.batch, reduction="batch")
