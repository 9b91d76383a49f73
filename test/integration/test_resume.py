"""kill -9 during training, then the same command: the files of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from recipe import KL, Recipe, own_tensors

from espnet_kd.errors import UserError
from espnet_kd.tasks.trainer import BACKUP, CHECKPOINT, repair

CRITERIA = {
    "ctc": {**KL, "weight": {"schedule": "cosine", "from": 1, "to": 0.1, "steps": 7}},
    "hid": {"type": "hidden", "weight": 1.0, "tap": "encoder"},  # has a projection, which learns
}
OPTIONS = {"teacher": {"exp": "exp/teacher"}, "criteria": CRITERIA, "max_epoch": 4, "resume": True}


def same_models(a: Path, b: Path) -> None:
    names = {p.name for p in a.glob("*.pth") if p.name != CHECKPOINT}
    assert names == {p.name for p in b.glob("*.pth") if p.name != CHECKPOINT}
    for name in names:
        one, two = (torch.load(d / name, weights_only=True) for d in (a, b))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one), name
    if (a / CHECKPOINT).exists():
        one, two = (own_tensors(d) for d in (a, b))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def whole(recipe: Recipe) -> Path:
    return recipe.train("exp/whole", "student", **OPTIONS)


def test_kill_and_run_again(recipe: Recipe, whole: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "espnet_kd",
        "train",
        *recipe.training("exp/killed", "student", **OPTIONS),
    ]
    process = subprocess.Popen(command, cwd=recipe.root, stderr=subprocess.DEVNULL)
    killed = recipe.root / "exp/killed"
    deadline = time.monotonic() + 120
    while not (killed / "2epoch.pth").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "4epoch.pth").exists(), "it was killed too late to show anything"

    subprocess.run(command, cwd=recipe.root, stderr=subprocess.DEVNULL, check=True)
    same_models(killed, whole)


@pytest.mark.parametrize("moment", ["checkpoint", "model", "link", "left over"])
def test_every_moment_of_saving(recipe: Recipe, whole: Path, moment: str) -> None:
    """Interrupted while saving epoch 3."""
    exp = recipe.train(f"exp/saving-{moment}", "student", **{**OPTIONS, "max_epoch": 2})
    before = (exp / CHECKPOINT).read_bytes()
    recipe.train(f"exp/saving-{moment}", "student", **{**OPTIONS, "max_epoch": 3})
    if moment == "checkpoint":
        (exp / BACKUP).write_bytes(before)
        (exp / CHECKPOINT).write_bytes((exp / CHECKPOINT).read_bytes()[:1000])
        (exp / "3epoch.pth").unlink()
    elif moment == "model":
        (exp / "3epoch.pth").write_bytes((exp / "3epoch.pth").read_bytes()[:1000])
    elif moment == "link":
        (exp / "latest.pth").unlink()
        (exp / "valid.acc.best.pth").unlink()
    else:
        (exp / ".checkpoint.previous.pth.x1.pth").write_bytes(b"PK")
    recipe.train(f"exp/saving-{moment}", "student", **OPTIONS)
    same_models(exp, whole)


def test_files_that_are_not_an_epochs_stay(recipe: Recipe, whole: Path) -> None:
    """ESPnet's averages of nbest_averaging_interval, a user's copies; ``*epoch.pth`` matches all of them."""
    theirs = ("valid.acc.ave_2best.till2epoch.pth", "best_3epoch.pth", "copy of 1epoch.pth", ".mine.pth")
    for name in theirs:
        (whole / name).write_bytes(b"PK")
    repair(whole, [["valid", "acc", "max"]], 1)
    assert {name for name in theirs if (whole / name).exists()} == set(theirs)
    for name in theirs:
        (whole / name).unlink()


def test_first_epoch_was_being_saved(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"PK")
    repair(tmp_path, [["valid", "acc", "max"]], [2])
    assert not (tmp_path / CHECKPOINT).exists(), "training starts again"


def test_a_damaged_checkpoint_of_a_long_training_is_not_thrown_away(tmp_path: Path) -> None:
    for name in (CHECKPOINT, "7epoch.pth", "8epoch.pth"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UserError, match="damaged"):
        repair(tmp_path, [["valid", "acc", "max"]], [2])
    assert (tmp_path / CHECKPOINT).exists()
