"""Peers that train together: what each learns, and what stays as in stock training."""

from pathlib import Path

import pytest
import torch
from recipe import MODELS, Recipe

from espnet_kd.errors import UserError
from espnet_kd.teachers.experiment import load_checkpoint

ATT = {"type": "kl", "tap": "decoder", "reduction": "utterance"}
CTC = {**ATT, "tap": "ctc.ctc_lo"}
MUTUAL = {"criteria": {"att": ATT, "ctc": CTC}}


def stats(exp: Path, phase: str = "train") -> dict[str, float]:
    content = load_checkpoint(exp / "checkpoint.pth")["reporter"]["stats"]
    return content[max(content)][phase]


def test_two_peers_train_and_every_term_adds_up(recipe: Recipe) -> None:
    exp = recipe.train("exp/mutual", "student", mutual=MUTUAL, max_epoch=2)
    for end in ("", "_peer2"):
        s = {name: stats(exp)[name + end] for name in ("loss", "loss_task", "loss_kd_att", "loss_kd_ctc", "acc")}
        assert s["loss_kd_att"] > 0 and s["loss_kd_ctc"] > 0
        assert s["loss"] == pytest.approx(
            0.5 * s["loss_task"] + 0.5 * (s["loss_kd_att"] + s["loss_kd_ctc"]), rel=1e-5
        )
    assert (exp / "valid.acc_peer2.ave.pth").exists()
