"""Targets that are not finite at real positions are refused; the message names layer and utterance."""

import math

import pytest
import torch
from torch import Tensor

from espnet_kd.errors import UserError
from espnet_kd.rnnt import Joint
from espnet_kd.teachers.checkpoint import not_finite
from espnet_kd.teachers.taps import Targets, check_finite

NAN, INF = math.nan, math.inf
LENGTHS = torch.tensor([2, 1])


def logits(last: list[float]) -> Tensor:
    """Make (2, 2, 2) logits; ``last`` is the only real frame of the second utterance, padding is NaN."""
    return torch.tensor([[[0.0, -INF], [1.0, 2.0]], [last, [NAN, NAN]]])


def lattice(frame: float = 0.0, bias: float = 0.0) -> Joint:
    """Make a lattice with ``frame`` in the only real frame of the second utterance."""
    enc = torch.tensor([[[0.0], [0.0]], [[frame], [NAN]]])
    return Joint(enc, torch.zeros(2, 2, 1), torch.zeros(2, 1), torch.tensor([0.0, bias]))


@pytest.mark.parametrize("values", [logits([0.0, -INF]), lattice(), lattice(bias=-INF)])
def test_a_class_of_probability_0_and_nan_in_padding_are_accepted(values: Tensor | Joint) -> None:
    check_finite({"x": Targets(values, LENGTHS)}, "teacher t")


@pytest.mark.parametrize(
    "values",
    [logits([0.0, NAN]), logits([0.0, INF]), logits([-INF, -INF]), lattice(NAN), lattice(INF)],
)
def test_other_values_are_refused_with_the_utterance(values: Tensor | Joint) -> None:
    with pytest.raises(UserError, match="^teacher t gives values at x for b that are not finite"):
        check_finite({"x": Targets(values, LENGTHS)}, "teacher t", ["a", "b"])


def test_a_lattice_whose_output_layer_is_not_finite_is_refused() -> None:
    with pytest.raises(UserError, match="^teacher t gives values at x that are not finite"):
        check_finite({"x": Targets(lattice(bias=NAN), LENGTHS)}, "teacher t")


def test_a_mask_may_hold_infinity_but_not_nan() -> None:
    tensors = {
        "weight": [0.0, 1.0], "bias": [INF, 0.0], "running_var": [-INF, 1.0], "mask": [-INF, 0.0],
        "mask_emb": [NAN, 0.0],
    }  # fmt: skip
    assert not_finite({n: torch.tensor(v) for n, v in tensors.items()}) == ["bias", "running_var", "mask_emb"]
