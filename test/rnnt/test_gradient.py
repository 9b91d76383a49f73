"""Gradients of the joint's tensors, collected block by block."""

import pytest
import torch
from lattices import TENSORS, lattices

from espnet_kd.rnnt.alignment import Arcs
from espnet_kd.rnnt.gradient import Gradients, sweep
from espnet_kd.rnnt.lattice import lattice_of


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity", torch.nn.functional.silu])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_gradient_by_arcs_becomes_gradient_of_the_tensors(activation, chunk):
    given = lattices(activation=activation, filling=0.0)
    lattice = lattice_of(given.student, *given.batch, 0)
    random = torch.Generator().manual_seed(3)
    real = lattice.real()
    has_label = real & (torch.arange(real.shape[2]) < given.label_lens[:, None, None])
    arcs = Arcs(*(torch.randn(real.shape, generator=random).double() * m for m in (real, has_label)))
    student = given.student.map(torch.Tensor.detach)
    found = Gradients(student, [True] * 4)
    sweep(student, lattice, chunk, arcs, None, 1.0, found)

    s = given.student
    hidden = s.enc[:, :, None] + s.dec[:, None]
    hidden = {"tanh": torch.tanh, "relu": torch.relu, "identity": torch.clone}.get(activation, activation)(
        hidden
    )
    log_probs = (hidden @ s.weight.T + s.bias).log_softmax(-1)
    columns = torch.nn.functional.pad(given.labels.clamp(min=0), (0, 1))[:, None, :, None]
    by_label = log_probs.gather(-1, columns.expand(*real.shape, 1))[..., 0]
    value = (arcs.blank * log_probs[..., 0] + arcs.label * by_label).sum()
    expected = torch.autograd.grad(value, [getattr(s, name) for name in TENSORS])
    for name, one, other in zip(TENSORS, found, expected, strict=True):
        torch.testing.assert_close(one, other, msg=lambda m, n=name: f"{n}: {m}")


def test_only_needed_gradients_are_computed():
    given = lattices()
    enc, dec, weight, bias = Gradients(given.teacher, (True, False, False, True))
    assert enc.shape == given.teacher.enc.shape and dec is weight is None and (bias == 0).all()
