"""Mutual trainings from end to end: as stock trainings at weight 0, resumed, exported, decoded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from recipe import Recipe
from test_interoperability import COMPARE, DECODE, WITHOUT_US
from test_mutual import ATT, MUTUAL, STILL
from test_resume import same_models

from espnet_kd.errors import UserError
from espnet_kd.recipe.peers import export
from espnet_kd.teachers.checkpoint import load_checkpoint

RAMP = {"schedule": "linear", "from": 0.0, "to": 1.0, "begin": 1, "steps": 6}


def means(exp: Path) -> list[dict[str, float]]:
    content = load_checkpoint(exp / "checkpoint.pth")["reporter"]["stats"]
    return [content[epoch][phase] for epoch in content for phase in ("train", "valid")]


def test_weight_zero_is_independent_stock_trainings_bit_for_bit(recipe: Recipe) -> None:
    """Clipped, each by its own norm; the first with dropout. One batch, whose order depends on the seed."""
    from espnet2.tasks.asr import ASRTask

    common = {"batch_size": 8, "max_epoch": 2, "specaug": None, "grad_clip": 0.5}
    mutual = {**MUTUAL, "weight": 0, "peers": [{"seed": 4, **STILL}]}
    ours = recipe.train("exp/apart", "student", mutual=mutual, **common)
    first = recipe.train("exp/apart-1", "student", task=ASRTask, **common)
    alone = yaml.safe_load((export(ours)[1] / "config.yaml").read_text())
    parts = {key: alone[key] for key in ("encoder_conf", "decoder_conf", "seed")}
    other = recipe.train("exp/apart-2", "student", task=ASRTask, **common, **parts)

    found = torch.load(ours / "2epoch.pth", weights_only=True)
    for stock, prefix, end in ((first, "", ""), (other, "kd_peers.2.", "_peer2")):
        expected = torch.load(stock / "2epoch.pth", weights_only=True)
        assert all(torch.equal(found[prefix + name], expected[name]) for name in expected)
        for mine, theirs in zip(means(ours), means(stock), strict=True):
            assert mine["loss" + end] == theirs["loss"] and mine["acc" + end] == theirs["acc"]


@pytest.fixture(scope="module")
def whole(recipe: Recipe) -> Path:
    return train(recipe, "exp/peers", max_epoch=3)


def train(recipe: Recipe, out: str, max_epoch: int) -> Path:
    return recipe.train(
        out, "student", mutual={**MUTUAL, "weight": RAMP, "peers": [{"decoder_conf": {"num_blocks": 2}}]},
        scheduled_sampling={"probability": RAMP}, max_epoch=max_epoch, resume=True,
    )  # fmt: skip


def test_resumed_in_the_middle_of_a_ramp(recipe: Recipe, whole: Path) -> None:
    for average in train(recipe, "exp/peers-again", max_epoch=1).glob("*.ave_1best.pth"):
        average.unlink()  # an interrupted training has none
    same_models(train(recipe, "exp/peers-again", max_epoch=3), whole)


def test_every_peer_is_a_stock_experiment(recipe: Recipe, whole: Path) -> None:
    directories = export(whole)
    assert [d.name for d in directories] == ["peers_peer1", "peers_peer2"]
    for directory, prefix, end in zip(directories, ("", "kd_peers.2."), ("", "_peer2"), strict=True):
        files = {p.name for p in directory.glob("*.pth")}
        assert files == {"valid.acc.ave.pth", "valid.acc.ave_2best.pth", "valid.acc.best.pth"}
        assert (directory / "images").is_dir()  # a stock recipe names it when it packs
        trained = torch.load(whole / f"valid.acc{end}.ave.pth", weights_only=True)
        exported = torch.load(directory / "valid.acc.ave.pth", weights_only=True)
        own = {name for name in trained if name.startswith(prefix or "kd_") == bool(prefix)}
        assert {prefix + name for name in exported} == own
        assert all(torch.equal(trained[prefix + name], exported[name]) for name in exported)
    program = WITHOUT_US + COMPARE.format("peers_peer1") + (COMPARE + DECODE).format("peers_peer2")
    subprocess.run([sys.executable, "-c", program], cwd=recipe.root, check=True, capture_output=True)
    assert len((directories[1] / "decoded/1best_recog/text").read_text().splitlines()) == 3


def test_epochs_of_a_peer_are_selected_by_its_own_accuracy(whole: Path) -> None:
    values = {epoch: stats["acc_peer2"] for epoch, stats in enumerate(means(whole)[1::2], 1)}
    best = max(values, key=lambda epoch: values[epoch])
    assert (whole / "valid.acc_peer2.best.pth").resolve().name == f"{best}epoch.pth"


def test_an_export_is_repeated_only_where_it_is_old(recipe: Recipe, whole: Path) -> None:
    (whole / "run.json").write_text(json.dumps({"role": "student", "done": True}))
    out = export(whole)[1]
    times = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    assert export(whole)[1] == out
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == times
    record = json.loads((out / "run.json").read_text())
    assert record["role"] == "student" and record["source"] == f"../{whole.name}"
    assert record["training_seed"] == int(yaml.safe_load((whole / "config.yaml").read_text())["seed"])
    assert export(recipe.root / "exp/teacher") == [recipe.root / "exp/teacher"]


def test_an_unfinished_training_has_nothing_to_export(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"mutual": {"criteria": {"att": ATT}}, "seed": 1}))
    with pytest.raises(UserError, match="no averaged checkpoint of peer 1"):
        export(tmp_path)
