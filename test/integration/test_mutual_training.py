"""Mutual trainings from end to end: as stock trainings at weight 0, resumed, exported, decoded."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from fork_server import quick_python
from recipe import Recipe
from test_interoperability import COMPARE, DECODE, WITHOUT_US
from test_mutual import ATT, MUTUAL, STILL
from test_resume import same_models

from espnet_kd.commands.peers import export
from espnet_kd.errors import UserError
from espnet_kd.methods.own import join_state
from espnet_kd.tasks.trainer import repair
from espnet_kd.teachers.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow(seconds=10)

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

    for stock, place, end in ((first, ours, ""), (other, ours / "peer2", "_peer2")):
        found, expected = (torch.load(d / "2epoch.pth", weights_only=True) for d in (place, stock))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
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
    for average in train(recipe, "exp/peers-again", max_epoch=1).rglob("*.ave_1best.pth"):
        average.unlink()  # an interrupted training has none
    shutil.rmtree(recipe.root / "exp/peers-again/peer2")  # killed before the peers were saved
    again = train(recipe, "exp/peers-again", max_epoch=3)
    same_models(again, whole)
    same_models(again / "peer2", whole / "peer2")


def test_every_peer_is_a_stock_experiment(recipe: Recipe, whole: Path) -> None:
    directories = export(whole)
    assert [d.name for d in directories] == ["peers_peer1", "peers_peer2"]
    for directory, place in zip(directories, (whole, whole / "peer2"), strict=True):
        files = {p.name for p in directory.glob("*.pth")}
        assert files == {"valid.acc.ave.pth", "valid.acc.ave_2best.pth", "valid.acc.best.pth"}
        assert (directory / "images").is_dir()  # a stock recipe names it when it packs
        trained, exported = (
            torch.load(d / "valid.acc.ave.pth", weights_only=True) for d in (place, directory)
        )
        assert trained.keys() == exported.keys() and not any(name.startswith("kd_") for name in trained)
        assert all(torch.equal(trained[name], exported[name]) for name in exported)
    program = WITHOUT_US + COMPARE.format("peers_peer1") + (COMPARE + DECODE).format("peers_peer2")
    quick_python("-c", program, cwd=recipe.root, check=True)
    assert len((directories[1] / "decoded/1best_recog/text").read_text().splitlines()) == 3


def test_a_training_of_an_older_version_goes_on(recipe: Recipe, whole: Path) -> None:
    """It had all peers in every file, and the optimizer's state of all under numbers."""
    old = recipe.root / "exp/peers-old"
    shutil.copytree(whole, old, symlinks=True)
    states = load_checkpoint(old / "checkpoint.pth")
    own = states["optimizers"][0].pop("espnet_kd")
    groups = [[*(None for _ in states["optimizers"][0]["param_groups"][0]["params"]), *own["state"]]]
    states["optimizers"] = [join_state(states["optimizers"][0], own["state"], groups)]
    states["model"] |= own["tensors"]
    torch.save(states, old / "checkpoint.pth")
    for path in old.glob("?epoch.pth"):
        peer = old / "peer2" / path.name
        peer = load_checkpoint(peer if peer.exists() else path)  # what was best for one was kept of both
        torch.save(load_checkpoint(path) | {f"kd_peers.2.{n}": x for n, x in peer.items()}, path)
    (old / "valid.acc_peer2.best.pth").symlink_to("3epoch.pth")
    shutil.rmtree(old / "peer2")
    with pytest.raises(UserError, match="has all peers in one file, from an older espnet_kd: repeat the"):
        export(old)
    again = train(recipe, "exp/peers-old", max_epoch=3)
    same_models(again, whole)
    kept = {path.name for path in (again / "peer2").glob("?epoch.pth")}
    assert kept <= {path.name for path in (whole / "peer2").glob("?epoch.pth")} and "3epoch.pth" in kept


def test_links_of_an_older_version_are_removed_with_one_epoch(recipe: Recipe, whole: Path) -> None:
    """The only epoch is written again from the checkpoint, so no epoch file has the peers any more."""
    old = recipe.root / "exp/peers-one-epoch"
    old.mkdir()
    states = load_checkpoint(whole / "checkpoint.pth")
    states["model"] |= states["optimizers"][0].pop("espnet_kd")["tensors"]
    torch.save(states, old / "checkpoint.pth")
    torch.save(states["model"], old / "3epoch.pth")
    for name in ("valid.acc_peer2.best.pth", "valid.acc.best.pth"):
        (old / name).symlink_to("3epoch.pth")
    repair(old, [], 1)
    names = {path.name for path in old.glob("*.pth")}
    assert names == {"checkpoint.pth", "3epoch.pth", "latest.pth", "valid.acc.best.pth"}
    assert (old / "peer2/3epoch.pth").exists()


def test_epochs_of_a_peer_are_selected_by_its_own_accuracy(whole: Path) -> None:
    values = {epoch: stats["acc_peer2"] for epoch, stats in enumerate(means(whole)[1::2], 1)}
    best = max(values, key=lambda epoch: values[epoch])
    assert (whole / "peer2/valid.acc.best.pth").resolve().name == f"{best}epoch.pth"
    two = sorted(values, key=lambda epoch: -values[epoch])[:2]
    assert {p.name for p in (whole / "peer2").glob("?epoch.pth")} == {f"{e}epoch.pth" for e in {*two, 3}}


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


def test_more_epochs_are_exported_also_after_the_clock_was_put_back(whole: Path, tmp_path: Path) -> None:
    exp = Path(shutil.copytree(whole, tmp_path / "mutual", symlinks=True))
    exported = export(exp)[1]
    for source in exp.glob("peer2/*.ave*.pth"):
        if not source.is_symlink():
            source.write_bytes(b"of more epochs")
            os.utime(source, (1e9, 1e9))
    export(exp)
    assert (exported / "valid.acc.ave.pth").read_bytes() == b"of more epochs"


def test_an_unfinished_training_has_nothing_to_export(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"mutual": {"criteria": {"att": ATT}}, "seed": 1}))
    with pytest.raises(UserError, match="no averaged checkpoint of peer 1"):
        export(tmp_path)
