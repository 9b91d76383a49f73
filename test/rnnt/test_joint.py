"""The tensors of a joint network and their checks."""

import re

import pytest
import torch
from lattices import lattices

from espnet_kd.rnnt import Joint

FITTING = {"enc": (2, 5, 4), "dec": (2, 3, 4), "weight": (6, 4), "bias": (6,)}


def joint(**shapes):
    return Joint(**{name: torch.zeros(shape) for name, shape in (FITTING | shapes).items()})


def test_shape_and_classes():
    assert joint().shape == (2, 5, 3) and joint().classes == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"enc": (1, 5, 4)},
        {"dec": (3, 3, 4)},
        {"enc": (2, 5, 5)},
        {"dec": (2, 3, 5)},
        {"weight": (6, 5)},
        {"weight": (4, 6)},
        {"bias": (5,)},
        {"bias": (6, 1)},
        {"enc": (2, 5, 1, 4)},
        {"dec": (2, 4)},
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_listed(wrong):
    listed = ", ".join(f"{name} {shape}" for name, shape in (FITTING | wrong).items())
    message = f"{listed} do not fit: give (B, T, J), (B, U, J), (V, J) and (V,)"
    with pytest.raises(ValueError, match=re.escape(message)):
        joint(**wrong)


def test_an_unknown_activation_is_refused():
    with pytest.raises(
        ValueError,
        match="unknown activation 'gelu': use tanh, .*relu, identity, or a function",
    ):
        Joint(*(torch.zeros(shape) for shape in FITTING.values()), activation="gelu")


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity", torch.nn.SiLU()])
def test_hidden_nodes_come_frame_by_frame(activation):
    given = lattices(activation=activation, filling=0.0).student.map(torch.Tensor.detach)
    enc, dec = given.enc[1:, 1:3], given.dec[1:]
    hidden = given.hidden(enc, dec, enc.new_empty(2 * dec[..., 0].numel(), enc.shape[2]))
    function = {"tanh": torch.tanh, "relu": torch.relu, "identity": torch.clone}.get(activation, activation)
    batch, _, rows = given.shape
    nodes = [(b, t, u) for b in range(1, batch) for t in (1, 2) for u in range(rows)]
    expected = [function(given.enc[b, t] + given.dec[b, u]) for b, t, u in nodes]
    torch.testing.assert_close(hidden, torch.stack(expected))


def test_one_utterance_is_a_batch_of_one():
    given = lattices(filling=0.0).teacher
    one = given.utterance(1)
    assert one.shape == (1, *given.shape[1:]) and torch.equal(one.enc[0], given.enc[1])
    assert torch.equal(one.dec[0], given.dec[1]) and one.weight is given.weight
