import pytest
import torch
from torch import tensor

from espnet_kd.criteria.criterion import check_aligned, real_positions, reduce, select


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
