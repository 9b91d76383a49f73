"""Transducers that learn from each other's lattices."""

import pytest
import torch
from recipe import Recipe
from test_transducer_task import losses, train

from espnet_kd.errors import UserError

LATTICE = {"type": "transducer", "kind": "full", "weight": 2.0}
AUXILIARY = {"type": "kl", "tap": "ctc_lin", "reduction": "utterance"}


def test_every_term_adds_up(recipe: Recipe) -> None:
    exp = train(recipe, "exp/peers-lattice", mutual={"criteria": {"lattice": LATTICE, "ctc": AUXILIARY}})
    for end in ("", "_peer2"):
        names = ("loss", "loss_task", "loss_kd_lattice", "loss_kd_ctc")
        for total, task, lattice, ctc in zip(*(losses(exp, name + end) for name in names), strict=True):
            assert lattice > 0 and ctc > 0
            assert total == pytest.approx(0.5 * task + 0.5 * (2 * lattice + ctc), rel=1e-4)


def test_the_auxiliary_loss_keeps_its_weight_beside_a_criterion_on_the_lattice(recipe: Recipe) -> None:
    exp = train(recipe, "exp/peers-alone", mutual={"criteria": {"lattice": LATTICE}, "weight": 0.4})
    names = ("loss", "loss_transducer", "loss_aux_ctc", "loss_kd_lattice")
    for total, rnnt, ctc, kd in zip(*(losses(exp, name) for name in names), strict=True):
        assert total == pytest.approx(0.6 * rnnt + 0.3 * ctc + 0.4 * 2 * kd, rel=1e-4)


def test_weight_zero_is_training_alone_bit_for_bit(recipe: Recipe) -> None:
    alone = train(recipe, "exp/peers-none")
    zero = train(recipe, "exp/peers-zero", mutual={"criteria": {"lattice": LATTICE}, "weight": 0})
    assert losses(zero, "loss") == losses(alone, "loss")
    expected, found = (torch.load(e / "1epoch.pth", weights_only=True) for e in (alone, zero))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_peers_of_other_frame_rates_are_refused(recipe: Recipe) -> None:
    peers = [{"encoder_conf": {"input_conf": {"subsampling_factor": 2}}}]
    mutual = {"criteria": {"lattice": LATTICE}, "peers": peers}
    with pytest.raises(UserError, match="joint_network has .* positions in peer 1, .* in peer 2: give the"):
        train(recipe, "exp/refused", mutual=mutual)


def test_lattices_have_no_mean(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="lattices have no mean"):
        train(recipe, "exp/refused", mutual={"criteria": {"lattice": LATTICE}, "targets": "mean"})
