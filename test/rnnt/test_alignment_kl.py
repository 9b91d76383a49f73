"""KL between distributions over alignments."""

from math import log

import pytest
import rnnt_reference as reference
import torch
from lattices import lattices
from torch import tensor

from espnet_kd.rnnt import Joint, rnnt_distillation

ALONE = {"kind": "alignments", "rnnt_weight": 0, "kd_weight": 1.0}
ONE_LABEL = tensor([[1]]), tensor([2]), tensor([1])


def joint(*frames, bias=0.0):
    """Make a joint network of two classes from the log-odds of the label in each frame."""
    enc, dec = tensor(frames).double().view(1, -1, 1), torch.zeros(1, 2, 1).double()
    weight, bias = tensor([[0.0], [1.0]]).double(), tensor([bias, 0.0]).double()
    return Joint(enc, dec, weight, bias, "identity")


def test_value_on_paper():
    # Alignments: label, blank, blank, or blank, label, blank. Teacher: all 1/2, so 1 : 1. Student: label 1/4
    # in frame 0, so 1/4 * 3/4 * 1/2 : 3/4 * 1/2 * 1/2 = 1 : 2.
    kd = rnnt_distillation(joint(-log(3), 0.0), joint(0.0, 0.0), *ONE_LABEL, **ALONE).kd
    # 1/2 ln((1/2) / (1/3)) + 1/2 ln((1/2) / (2/3)) = 1/2 ln(9/8)
    assert kd.item() == pytest.approx(log(9 / 8) / 2)


def test_the_probability_of_the_labels_is_not_compared():
    kd = rnnt_distillation(joint(0.0, 0.0, bias=5.0), joint(1.0, 1.0), *ONE_LABEL, **ALONE).kd
    assert abs(kd.item()) < 1e-12


def test_without_labels_there_is_one_alignment_and_the_value_is_zero():
    given = lattices(frames=(4, 2), labels=(0, 0))
    assert rnnt_distillation(given.student, given.teacher, *given.batch, **ALONE).kd.abs().item() < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_the_sum_over_all_alignments(temperature):
    given = lattices()
    kd = rnnt_distillation(
        given.student, given.teacher, *given.batch, temperature=temperature, reduction="none", **ALONE
    ).kd
    for b, t, y in reference.utterances(*given.batch):
        q, p = (
            reference.alignment_scores(
                (reference.logits_of(j, b, t, y) / temperature).log_softmax(-1), y, 0
            ).softmax(0)
            for j in (given.student, given.teacher)
        )
        expected = sum(a * log(a / c) for a, c in zip(p.tolist(), q.tolist(), strict=True))
        assert kd[b].item() == pytest.approx(temperature**2 * expected, rel=1e-10)
