"""kill -9 during training, then the same command: the files of an uninterrupted run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
from espnet2.tasks.abs_task import optim_classes, scheduler_classes
from espnet2.train.reporter import Reporter
from fork_server import quick_python
from recipe import KL, Recipe, own_tensors

from espnet_kd.environment import Account
from espnet_kd.errors import UserError
from espnet_kd.host.training import has_ended
from espnet_kd.methods import METHODS
from espnet_kd.methods.own import count_batches, keep_apart
from espnet_kd.tasks import trainer
from espnet_kd.tasks.asr import refuse_ended
from espnet_kd.tasks.trainer import (
    BACKUP,
    CHECKPOINT,
    ResumableTrainer,
    check_averages,
    only_training,
    repair,
)
from espnet_kd.teachers.checkpoint import not_finite

pytestmark = pytest.mark.slow(seconds=20)

CRITERIA = {
    "ctc": {**KL, "weight": {"schedule": "cosine", "from": 1, "to": 0.1, "steps": 7}},
    "hid": {"type": "hidden", "weight": 1.0, "tap": "encoder"},  # has a projection, which learns
    "att": {**KL, "tap": "decoder"},
}
OPTIONS = {
    "teacher": {"exp": "exp/teacher"}, "criteria": CRITERIA, "max_epoch": 4, "resume": True,
    "prefix": {"student": 0.5, "sample": "nucleus"},  # utterances and tokens are drawn
}  # fmt: skip


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
    command = ["-m", "espnet_kd", "train", *recipe.training("exp/killed", "student", **OPTIONS)]
    process = subprocess.Popen([sys.executable, *command], cwd=recipe.root, stderr=subprocess.DEVNULL)
    killed = recipe.root / "exp/killed"
    deadline = time.monotonic() + 120
    while not (killed / "2epoch.pth").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "4epoch.pth").exists(), "it was killed too late to show anything"
    before = json.loads((killed / "run.json").read_text())["cpu_seconds"]
    assert before > 0, "epoch 1 is not counted"

    quick_python(*command, cwd=recipe.root, check=True)
    same_models(killed, whole)
    assert json.loads((killed / "run.json").read_text())["cpu_seconds"] > before


def test_the_record_keeps_cost_and_environment_of_all_parts(recipe: Recipe) -> None:
    exp = recipe.train("exp/cost", "student", **{**OPTIONS, "max_epoch": 2})
    path = exp / "run.json"
    before = json.loads(path.read_text())
    assert before["environment"]["threads"] == torch.get_num_threads()
    assert before["environment"]["gpus"] == [] and "earlier" not in before["environment"]
    elsewhere = before["environment"] | {"torch": "2.11.0"}
    path.write_text(json.dumps({**before, "role": "student", "environment": elsewhere, "cpu_seconds": 1e6}))
    recipe.train("exp/cost", "student", **{**OPTIONS, "max_epoch": 3})
    after = json.loads(path.read_text())
    assert after["environment"] == before["environment"] | {"earlier": [elsewhere]}
    assert 1e6 < after["cpu_seconds"] < 1e6 + 600 and after["role"] == "student"
    recipe.train("exp/cost", "student", **{**OPTIONS, "max_epoch": 1, "resume": False})  # a new training
    again = json.loads(path.read_text())
    assert again["environment"] == before["environment"] and again["cpu_seconds"] < 600


@pytest.mark.parametrize(("rank", "files"), [(0, ["run.json"]), (1, [])])
def test_the_cost_is_that_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, files: list[str]
) -> None:
    """Two processes spend 3 s and 4 s; the first one writes the record."""
    account = Account(tmp_path, {}, resumed=False)
    monkeypatch.setattr(account, "spent", lambda: 3.0)
    monkeypatch.setattr(ResumableTrainer, "account", account, raising=False)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda seconds: seconds.add_(4.0))
    ResumableTrainer._record(SimpleNamespace(distributed=True, dist_rank=rank, ngpu=0))
    assert [path.name for path in tmp_path.iterdir()] == files
    for path in tmp_path.iterdir():
        assert json.loads(path.read_text())["cpu_seconds"] == 7.0


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


def test_the_average_of_an_interval_was_being_saved(recipe: Recipe) -> None:
    """ESPnet averages after it has written checkpoint.pth, from which the next epoch goes on."""
    options = {**OPTIONS, "nbest_averaging_interval": 2}
    exp = recipe.train("exp/interval", "student", **{**options, "max_epoch": 2})
    average = exp / "valid.acc.ave_2best.till2epoch.pth"
    whole = torch.load(average, weights_only=True)
    average.write_bytes(average.read_bytes()[:1000])
    recipe.train("exp/interval", "student", **{**options, "max_epoch": 3})
    again = torch.load(average, weights_only=True)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_two_trainings_do_not_share_a_directory(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config.yaml of the first stays, too."""
    monkeypatch.setattr(trainer, "PATIENCE", 0.1)
    exp = recipe.root / "exp/shared"
    exp.mkdir()
    (exp / "config.yaml").write_text("seed: 1\n")
    with only_training(exp), pytest.raises(UserError, match="^another training writes exp/shared: wait"):
        recipe.train("exp/shared", "student", **{**OPTIONS, "max_epoch": 1})
    assert not list(exp.glob("*.pth")) and "waiting for at most 0.1 s" in capsys.readouterr().err
    assert (exp / "config.yaml").read_text() == "seed: 1\n"


def test_noise_that_is_another_in_each_process() -> None:
    """ESPnet draws it after dropout, of which processes with other shapes have drawn other amounts."""
    options, several = SimpleNamespace(grad_noise=True), SimpleNamespace(distributed=True)
    with pytest.raises(UserError, match="^grad_noise: each of several processes adds noise of its own"):
        ResumableTrainer.run(
            None, optimizers=[], trainer_options=options, distributed_option=several, schedulers=[]
        )


def test_other_criteria_for_a_training_that_has_ended(recipe: Recipe) -> None:
    """Nothing would be trained, but config.yaml, of which tables take their names, would have them."""
    exp = recipe.train("exp/ended", "student", **{**OPTIONS, "max_epoch": 1})
    before = (exp / "config.yaml").read_bytes()
    recipe.train("exp/ended", "student", **{**OPTIONS, "max_epoch": 1})
    others = {**OPTIONS, "criteria": {"att": CRITERIA["att"]}, "task_weight": 0.5}
    with pytest.raises(UserError, match="^exp/ended is trained already, with another criteria and task_w"):
        recipe.train("exp/ended", "student", **{**others, "max_epoch": 1})
    assert (exp / "config.yaml").read_bytes() == before
    recipe.train("exp/ended", "student", **{**others, "max_epoch": 2})  # it goes on with them


@pytest.mark.parametrize("end", [b"\ncriteria:", b"\nversion:"])
def test_config_yaml_was_being_written(recipe: Recipe, whole: Path, end: bytes) -> None:
    """ESPnet writes it in place at every start, and the first process of several when others still start."""
    exp = recipe.root / f"exp/cut_{len(end)}"
    shutil.copytree(whole, exp)
    config = (exp / "config.yaml").read_bytes()
    (exp / "config.yaml").write_bytes(config[: config.index(end) + 4])
    recipe.train(exp, "student", **OPTIONS, config_ngpu=1)
    assert end in (exp / "config.yaml").read_bytes()


def test_the_first_of_several_processes_compares_config_yaml(tmp_path: Path) -> None:
    """It may be that of this training already, or a part of it, when the others get there."""
    state = {"model": {}, "reporter": {"stats": {}, "epoch": 1}}
    torch.save(state, tmp_path / CHECKPOINT)
    (tmp_path / "config.yaml").write_text("version: '1'\nnbest: {size: 2}\n")
    keys = dict.fromkeys(key for keys in METHODS.values() for key in keys)
    args = {"output_dir": tmp_path, "resume": True, "task_weight": 1.0, "max_epoch": 1, "patience": None}
    args |= {"early_stopping_criterion": ["valid", "loss", "min"], "dist_launcher": None, **keys}
    refuse_ended(Namespace(**args, distributed=True, dist_rank=1))
    for several in ({"distributed": True, "dist_rank": 0}, {"distributed": False}):
        with pytest.raises(UserError, match="is trained already, with another nbest: give"):
            refuse_ended(Namespace(**args, **several))


def test_a_training_that_was_stopped_early_has_ended() -> None:
    reporter = Reporter()
    losses = {epoch: {"valid": {"loss": float(epoch)}} for epoch in (1, 2, 3)}
    reporter.load_state_dict({"stats": losses, "epoch": 3})
    options = SimpleNamespace(max_epoch=9, patience=1, early_stopping_criterion=["valid", "loss", "min"])
    assert has_ended(reporter, options)
    other = {"early_stopping_criterion": ["valid", "acc", "max"]}
    for change in ({"patience": 2}, {"patience": None}, other):
        assert not has_ended(reporter, SimpleNamespace(**vars(options) | change))
    assert has_ended(reporter, SimpleNamespace(**vars(options) | {"max_epoch": 3, "patience": None}))


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


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"optim": "sgd", "optim_conf": {"lr": 1e30}, "scheduler": None},
            "had no valid update|is not finite",
        ),
        ({"accum_grad": 9}, r"epoch 1 had no valid update: .* fewer batches than accum_grad \(9\)"),
    ],
)
def test_a_training_that_cannot_go_on_is_not_finished(recipe: Recipe, changes: dict, expected: str) -> None:
    """ESPnet writes a warning, averages what is there and ends with status 0."""
    out = f"exp/diverged-{len(changes)}"
    with pytest.raises(UserError, match=expected) as error:
        recipe.train(out, "student", **{**OPTIONS, **changes})
    assert "\n" not in str(error.value)
    assert not list((recipe.root / out).glob("*.ave*.pth"))
    for path in (recipe.root / out).glob("*epoch.pth"):
        assert not not_finite(torch.load(path, weights_only=True))


CTC_ALONE = {
    "decoder": None, "model_conf": {"ctc_weight": 1.0}, "criteria": {"ctc": KL}, "prefix": {},
    "keep_nbest_models": 1,
}  # fmt: skip


def test_epochs_are_not_chosen_by_what_has_no_value(recipe: Recipe) -> None:
    """A CTC model has no acc; ESPnet reports NaN, sorts it, and calls the first epoch the best."""
    by_both = {"best_model_criterion": [["valid", "acc", "max"], ["valid", "loss_task", "min"]]}
    for epochs in (2, 3, 3):  # a new training, one that goes on, and one that has ended
        options = {**OPTIONS, **CTC_ALONE, **by_both, "max_epoch": epochs}
        exp = recipe.train("exp/chosen", "student", **options)
        assert {p.name.rsplit(".", 2)[0] for p in exp.glob("valid*")} == {"valid.loss_task"}
    with pytest.raises(UserError, match=r"valid\.acc has no value .* validation set cer_ctc, loss, "):
        recipe.train("exp/unchosen", "student", **{**OPTIONS, **CTC_ALONE})
    early = {"patience": 1, "early_stopping_criterion": ["valid", "acc", "max"]}
    with pytest.raises(UserError, match=r"early_stopping_criterion: valid\.acc has no value"):
        recipe.train("exp/unchosen", "student", **{**OPTIONS, **CTC_ALONE, **by_both, **early})
    follow = {"val_scheduler_criterion": ["valid", "acc"], "scheduler_conf": {}}
    recipe.train("exp/warm", "student", **{**OPTIONS, **CTC_ALONE, **by_both, **follow})  # follows nothing
    follow["scheduler"] = "reducelronplateau"
    with pytest.raises(UserError, match=r"val_scheduler_criterion: valid\.acc has no value"):
        recipe.train("exp/unfollowed", "student", **{**OPTIONS, **CTC_ALONE, **by_both, **follow})


def test_epochs_of_a_peer_are_not_chosen_by_what_it_has_not(recipe: Recipe) -> None:
    changes = {"decoder": None, "model_conf": CTC_ALONE["model_conf"]}
    exp = recipe.train(
        "exp/unlike", "student", mutual={"peers": [changes], "criteria": {"ctc": KL}},
        best_model_criterion=[["valid", "acc", "max"], ["valid", "loss_ctc", "min"]],
    )  # fmt: skip
    for place, statistics in ((exp, {"acc", "loss_ctc"}), (exp / "peer2", {"loss_ctc"})):
        assert {p.name.split(".")[1] for p in place.glob("valid*")} == statistics


def test_an_average_that_is_not_finite(tmp_path: Path) -> None:
    """Two epochs whose sum is more than float32 holds."""
    average = {"a": torch.tensor([1.0]), "b": torch.tensor([3e38]) + torch.tensor([3e38])}
    (tmp_path / "peer2").mkdir()
    for directory in (tmp_path, tmp_path / "peer2"):
        check_averages(tmp_path, [["valid", "acc", "max"]])
        torch.save(average, directory / "valid.acc.ave.pth")
        with pytest.raises(UserError, match=f"{directory}/valid.acc.ave.pth is not finite \\(b\\)"):
            check_averages(tmp_path, [["valid", "acc", "max"]])
        torch.save({}, directory / "valid.acc.ave.pth")


class Student(torch.nn.Module):
    """As small as a model with a criterion that learns can be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 2)
        self.kd_criteria = torch.nn.ModuleDict({"hid": torch.nn.Linear(2, 2)})
        count_batches(self)


SCHEDULERS: dict[str, dict[str, Any]] = {
    "reducelronplateau": {"patience": 0}, "lambdalr": {"lr_lambda": lambda step: 1 / (1 + step)},
    "steplr": {"step_size": 2}, "multisteplr": {"milestones": [1, 3]}, "exponentiallr": {"gamma": 0.9},
    "cosineannealinglr": {"T_max": 5}, "noamlr": {"model_size": 8}, "warmuplr": {"warmup_steps": 3},
    "piecewiselinearwarmuplr": {"warmup_steps_list": [0, 2, 6], "warmup_lr_list": [0.0, 0.1, 0.2]},
    "warmupsteplr": {"warmup_steps": 2, "steps_per_epoch": 2, "step_size": 1},
    "warmupreducelronplateau": {"warmup_steps": 2, "patience": 0},
    "cycliclr": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2, "cycle_momentum": False},
    "onecyclelr": {"max_lr": 0.1, "total_steps": 9}, "cosineannealingwarmrestarts": {"T_0": 3},
    "cosineannealingwarmuprestarts": {"first_cycle_steps": 5, "warmup_steps": 2},
    "tristagelr": {"max_steps": 9, "warmup_ratio": 0.2, "hold_ratio": 0.2, "decay_ratio": 0.6},
    "exponentialdecaywarmup": {"max_lr": 0.1, "min_lr": 0.001, "total_steps": 9, "warmup_steps": 2},
}  # fmt: skip


class Training:
    """Some steps with an optimizer and a scheduler of ESPnet, which may be interrupted."""

    def __init__(self, optim: str, scheduler: str | None = None) -> None:
        self.model = Student()
        self.optimizer = optim_classes[optim](self.model.parameters(), lr=0.1)
        self.scheduler = None
        if scheduler is not None:
            self.scheduler = scheduler_classes[scheduler](self.optimizer, **SCHEDULERS[scheduler])
        keep_apart(self.model, [self.optimizer])
        self.rates: list[float] = []

    def step(self) -> None:
        """One batch: the squared output of the criterion."""

        def loss() -> torch.Tensor:
            self.optimizer.zero_grad()
            hidden = self.model.layer(torch.tensor([[1.0, 2.0, -1.0]]))
            value = self.model.kd_criteria["hid"](hidden).square().sum()
            value.backward()
            return value

        value = float(loss().detach())
        self.optimizer.step(loss)
        if isinstance(self.scheduler, AbsValEpochStepScheduler):
            self.scheduler.step(value)
        elif self.scheduler is not None:
            self.scheduler.step()
        self.rates.append(self.optimizer.param_groups[0]["lr"])

    def save(self, path: Path) -> None:
        """As ESPnet does."""
        state = {
            "model": self.model.state_dict(), "optimizers": [self.optimizer.state_dict()],
            "schedulers": [self.scheduler and self.scheduler.state_dict()], "scaler": None,
            "reporter": Reporter(1).state_dict(),
        }  # fmt: skip
        torch.save(state, path)

    def resume(self, path: Path) -> None:
        """As ESPnet does."""
        ResumableTrainer.resume(
            checkpoint=path, model=self.model, reporter=Reporter(), optimizers=[self.optimizer],
            schedulers=[self.scheduler], scaler=None,
        )  # fmt: skip


def same_after_resuming(path: Path, *choice: str) -> None:
    whole, first, second = (Training(*choice) for _ in range(3))
    for _ in range(6):
        whole.step()
    for _ in range(3):
        first.step()
    first.save(path)
    second.resume(path)
    for _ in range(3):
        second.step()
    assert second.rates == whole.rates[3:]
    for name, expected in whole.model.named_parameters():
        assert torch.equal(dict(second.model.named_parameters())[name], expected), name


@pytest.mark.parametrize("optim", sorted(optim_classes))
def test_every_optimizer_goes_on_as_if_it_had_not_stopped(tmp_path: Path, optim: str) -> None:
    """The criterion's parameters have their state, too."""
    same_after_resuming(tmp_path / CHECKPOINT, optim)


@pytest.mark.parametrize("scheduler", sorted(scheduler_classes))
def test_every_scheduler_goes_on_as_if_it_had_not_stopped(tmp_path: Path, scheduler: str) -> None:
    same_after_resuming(tmp_path / CHECKPOINT, "sgd", scheduler)


@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_with_the_factor_of_another_precision_are_left_out(tmp_path: Path, scaled: bool) -> None:
    """They wait for more batches; use_amp multiplies them by thousands."""
    first, second = Training("sgd"), Training("sgd")
    for training in (first, second):
        keep_apart(training.model, [training.optimizer], with_gradients=True)
    first.step()
    path = tmp_path / CHECKPOINT
    first.save(path)
    torch.save(torch.load(path, weights_only=True) | {"scaler": {"scale": 65536.0} if scaled else None}, path)
    second.resume(path)
    assert all((p.grad is None) == scaled for p in second.model.parameters())
