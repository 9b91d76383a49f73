"""Targets that are computed in batches of utterances, and many of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import RATE, Recipe
from test_stored_targets import CRITERIA, HIDDEN, contents, write

from espnet_kd import parallel
from espnet_kd.errors import UserError
from espnet_kd.targets import command, worker
from espnet_kd.targets.store import verify
from espnet_kd.teachers.online import OnlineTeacher


def test_a_batch_is_no_longer_than_it_may_be_with_its_padding():
    assert worker.batches([5, 2, 9, 3, 2], 10) == [[1, 4, 3], [0], [2]]
    assert worker.batches([5, 2], 0) == [[1], [0]], "one at a time"


@pytest.mark.slow(seconds=4)
def test_batches_of_utterances_differ_by_padding_alone(recipe: Recipe) -> None:
    criteria = {**CRITERIA, **HIDDEN}
    single = write(recipe, "exp/single", criteria, ["exp/teacher"], "--shards", "1")
    batched = write(recipe, "exp/batched", criteria, ["exp/teacher"], "--shards", "1", "--batch_seconds", "4")
    assert list(single) == list(batched) and not list(verify(batched))
    assert "batch_seconds" not in single.manifest.settings
    assert batched.manifest.settings["batch_seconds"] == 4
    lengths = [single.read(utt).samples for utt in single]
    groups = worker.batches(lengths, 4 * RATE)
    longest, utts = {group[-1] for group in groups}, list(single)
    assert len(groups) < len(utts)
    for place, utt in enumerate(utts):
        one, other = (store.read(utt).rows for store in (single, batched))
        for tap in ("encoder", "ctc.ctc_lo", "decoder"):
            assert len(one[tap]) == len(other[tap]), utt
        apart = np.abs(one["encoder"]["values"] - other["encoder"]["values"]).max(1)
        if place in longest:  # it has no padding: only sums of floats are in another order
            assert apart.max() < 2e-3, utt
        assert apart.mean() < 0.1, utt  # the vectors' numbers are about 1


@pytest.mark.slow(seconds=4)
def test_many_shards_are_in_folders(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(parallel, "FLAT", 2)
    options = (CRITERIA, ["exp/teacher"], "--shards", "3")
    store = write(recipe, "exp/folders", *options)
    found = [path.relative_to(store.directory) for path in sorted(store.directory.glob("*/*/index.jsonl"))]
    assert [str(path.parent) for path in found] == ["0000/0000001", "0000/0000002", "0000/0000003"]
    before = contents(store.directory)
    (store.directory / "0000/0000003").rename(store.directory / "0000/.0000003.abcdef")
    (store.directory / "manifest.json").unlink()
    again = write(recipe, "exp/folders", *options)
    assert contents(again.directory) == before and list(again) == sorted(again)
    monkeypatch.chdir(recipe.root)
    command.check(again, [Path("dump/raw/train"), Path("dump/raw/dev")])
    shutil.copytree(again.directory / "0000/0000001", again.directory / "0001/0001001")
    with pytest.raises(UserError, match="1 problems"):
        command.check(again)
    assert "exp/folders/0001/0001001 does not belong to this store" in capsys.readouterr().out


@pytest.mark.slow(seconds=3)
def test_a_machine_without_a_gpu_lets_workers_with_gpus_write(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    devices = []

    def elsewhere(shards, work, where):
        assert not worker.load.cache_info().currsize, "workers on this machine may need the memory"
        spec = work.keywords["spec"]
        devices.append((where.kind, spec.device))
        return [worker.work(shard, replace(spec, device="cpu")) for shard in shards]

    monkeypatch.setattr(parallel, "process_shards", elsewhere)
    (recipe.root / "gpus.yaml").write_text("type: slurm\nworkers: 2\n")
    options = ("--shards", "2", "--ngpu", "1", "--cluster", "gpus.yaml")
    store = write(recipe, "exp/elsewhere", CRITERIA, ["exp/teacher"], *options)
    assert devices == [("slurm", "cuda")] and store.manifest.settings["device"] == "cuda"
    assert not list(verify(store))
    write(recipe, "exp/elsewhere", CRITERIA, ["exp/teacher"], *options, "--estimate")
    lines = capsys.readouterr().out.splitlines()
    assert sum("measured on the CPU, since this machine has no GPU" in line for line in lines) == 2


@pytest.mark.slow(seconds=2)
def test_a_batch_that_is_too_large_for_the_memory_is_taken_apart_with_a_warning(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    single = write(recipe, "exp/single_one", CRITERIA, ["exp/teacher"], "--shards", "1")
    stock = OnlineTeacher.targets

    def targets(self, speech, *rest):
        if len(speech) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock(self, speech, *rest)

    monkeypatch.setattr(OnlineTeacher, "targets", targets)
    options = ("--shards", "1", "--batch_seconds", "7")
    apart = write(recipe, "exp/apart", CRITERIA, ["exp/teacher"], *options)
    for utt in single:
        assert apart.read(utt).rows["decoder"].tobytes() == single.read(utt).rows["decoder"].tobytes()
    warnings = [r.message for r in caplog.records if "no memory for batches of 7 s" in r.message]
    assert len(warnings) == 1 and warnings[0].endswith("give less --batch_seconds")
