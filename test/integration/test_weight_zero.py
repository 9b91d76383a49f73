"""Weight 0 on every criterion is stock training, bit for bit."""

import math

import numpy as np
import soundfile
import torch
from recipe import KL, RATE, Recipe

from espnet_kd.teachers.checkpoint import load_checkpoint


def losses(exp, key):
    """Loss of each epoch, train and valid, exactly as the reporter keeps it."""
    stats = load_checkpoint(exp / "checkpoint.pth")["reporter"]["stats"]
    return [(phase, epoch, stats[epoch][phase][key]) for epoch in stats for phase in ("train", "valid")]


def test_weight_zero_reproduces_stock_training(recipe: Recipe) -> None:
    from espnet2.tasks.asr import ASRTask

    criteria = {
        "ctc": {**KL, "weight": 0},
        "att": {**KL, "weight": 0.0, "tap": "decoder"},
        "hid": {"type": "hidden", "weight": 0, "tap": "encoder"},
    }
    stock = recipe.train("exp/zero-stock", "student", task=ASRTask, max_epoch=2)
    ours = recipe.train(
        "exp/zero-ours", "student", max_epoch=2, teacher={"exp": "exp/teacher"}, criteria=criteria
    )

    assert losses(ours, "loss") == losses(stock, "loss") == losses(ours, "loss_task")
    expected, found = (torch.load(e / "2epoch.pth", weights_only=True) for e in (stock, ours))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert found.keys() == expected.keys()


def test_a_positive_weight_changes_training(recipe: Recipe) -> None:
    ours = recipe.train("exp/one-ours", "student", teacher={"exp": "exp/teacher"}, criteria={"ctc": KL})
    assert losses(ours, "loss") != losses(ours, "loss_task")
    assert all(value > 0 for _, _, value in losses(ours, "loss_kd_ctc"))


def test_digital_silence_keeps_every_term_finite(recipe: Recipe) -> None:
    speech = recipe.root / "dump/raw/train/train-0.wav"
    noise = speech.read_bytes()
    hidden = {"type": "hidden", "distance": "cosine", "weight": 1, "tap": "encoder"}
    criteria = {"ctc": KL, "hid": {**hidden, "frame_weights": "activation"}}
    try:
        soundfile.write(speech, np.zeros(soundfile.info(speech).frames), RATE)
        ours = recipe.train("exp/silent", "student", teacher={"exp": "exp/teacher"}, criteria=criteria)
    finally:
        speech.write_bytes(noise)
    for key in ("loss", "loss_task", "loss_kd_ctc", "loss_kd_hid"):
        assert all(math.isfinite(value) for _, _, value in losses(ours, key))
    found = torch.load(ours / "1epoch.pth", weights_only=True)
    assert all(value.isfinite().all() for value in found.values())
