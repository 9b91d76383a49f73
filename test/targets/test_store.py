"""A store is written, read and verified; messages name damaged files and utterances."""

import json
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stores import NAMES, TAPS, make, records

from espnet_kd.errors import UserError
from espnet_kd.targets import store as stores_on_disk
from espnet_kd.targets.format import (
    Cost,
    IndexEntry,
    TapFormat,
    read_cost,
    text_checksum,
    write_shard,
)
from espnet_kd.targets.store import ShardIndex, Store, verify


def test_utterances_are_read_in_any_order(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    expected = {record.utt: record for record in records()}
    for utt in [*reversed(NAMES), NAMES[1]]:
        found = store.read(utt)
        assert (found.samples, found.text) == (expected[utt].samples, expected[utt].text)
        for tap in TAPS:
            assert np.array_equal(found.rows[tap], expected[utt].rows[tap])
    assert list(store) == NAMES and store.missing(NAMES) is None and "u" not in store
    assert not list(verify(store))


def test_every_index_of_a_large_store_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LibriSpeech at three speeds has 8430 shards, of which a training reads in random order."""
    (shard,), taps = make(tmp_path / "store").manifest.shards[:1], list(TAPS)
    counts = [dict.fromkeys(taps, n) for n in range(3)]
    entry = {"u": IndexEntry("u", 1, None, *counts)}
    read: list[Path] = []
    monkeypatch.setattr(stores_on_disk, "fingerprint", lambda path: read.append(path) or shard.index)
    monkeypatch.setattr(stores_on_disk, "read_index", lambda path, taps: entry)
    store, shards = Store(tmp_path / "store"), [replace(shard, name=str(n)) for n in range(8430)]
    for _ in range(2):
        assert all(store.entries(one)["u"] == entry["u"] for one in shards)
    assert len(read) == len(shards)


def test_an_index_takes_little_memory_and_is_a_mapping() -> None:
    """A hundred utterances of two layers: 9 numbers of 8 bytes and an id each."""
    ids = [f"speaker-{n:024d}" for n in range(100)]
    entries = {
        utt: IndexEntry(utt, n, None, {"a": n, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "b": 2**32 - 1}, n or None)
        for n, utt in enumerate(ids)
    }
    tracemalloc.start()
    index = ShardIndex(entries, ["a", "b"])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1.3 * 100 * (9 * 8 + len(ids[0]) + 1)
    assert dict(index) == entries and len(index) == 100 and list(index) == ids
    assert "speaker" not in index and not list(ShardIndex({}, ["a"]))


@pytest.mark.parametrize(("classes", "size"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_a_class_takes_as_many_bytes_as_the_vocabulary_needs(classes: int, size: int) -> None:
    assert TapFormat("topk", classes, 8).row.itemsize == 8 * (size + 2)


def test_a_moved_store_is_the_same_and_may_be_read_only(tmp_path: Path) -> None:
    make(tmp_path / "store")
    moved = tmp_path / "elsewhere" / "targets"
    shutil.copytree(tmp_path / "store", moved)
    shutil.rmtree(tmp_path / "store")
    for path in [*moved.rglob("*"), moved]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert not list(verify(Store(moved)))
    for path in [moved, *(p for p in moved.rglob("*") if p.is_dir())]:
        path.chmod(0o755)


def test_several_processes_read_at_once(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    store.read(NAMES[0])  # files are open before the fork
    children = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            ok = all(store.read(utt).utt == utt for _ in range(50) for utt in NAMES)
            os._exit(0 if ok else 1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


LAST = NAMES[-1]
DAMAGE = {
    "flipped byte": (
        "00002/ctc.ctc_lo",
        flip,
        f"00002/ctc.ctc_lo: utterance {LAST} is damaged; remove .*00002",
    ),
    "truncated shard": (
        "00002/encoder",
        cut,
        f"00002/encoder is truncated: it ends within utterance {LAST};",
    ),
    "missing file": ("00002/encoder", Path.unlink, "cannot read .*00002/encoder: No such file"),
    "flipped index": (
        "00002/index.jsonl",
        flip,
        "00002/index.jsonl is damaged: its checksum is wrong; remove",
    ),
    "missing index": ("00002/index.jsonl", Path.unlink, "cannot read .*00002/index.jsonl"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_by_read_and_by_verify(tmp_path: Path, name: str) -> None:
    file, damage, message = DAMAGE[name]
    make(tmp_path / "store")
    damage(tmp_path / "store" / file)
    store = Store(tmp_path / "store")
    store.read(NAMES[0])
    with pytest.raises(UserError, match=message):
        store.read(LAST)
    problems = list(verify(Store(tmp_path / "store")))
    assert problems and all("00002" in problem for problem in problems)


def test_a_missing_utterance_is_named(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    for utt in ("a", "u10x", "z"):
        assert utt not in store
        with pytest.raises(UserError, match=f"has no targets of utterance {utt}: it was made of other data"):
            store.read(utt)
    assert store.missing([*NAMES, "x"]) == "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "is no complete store of targets: it has no manifest.json"),
        (lambda path: path.write_text("{"), "manifest.json is damaged"),
        (lambda path: path.write_text(path.read_text().replace("0.5", "0.4")), "its checksum is wrong"),
        (
            lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1})),
            "has the format 1, but this version reads 2",
        ),
    ],
)
def test_a_damaged_manifest(tmp_path: Path, change, message: str) -> None:
    make(tmp_path / "store")
    change(tmp_path / "store/manifest.json")
    with pytest.raises(UserError, match=message):
        Store(tmp_path / "store")


def test_verify_finds_wrong_values(tmp_path: Path) -> None:
    def wrong(record):
        rows = record.rows["ctc.ctc_lo"]
        if record.utt == NAMES[0]:
            rows["tokens"][0, 0] = 250
        elif record.utt == NAMES[1]:
            rows["log_probs"][0] = 0.0
        elif record.utt == NAMES[2]:
            rows["log_probs"][0] = rows["log_probs"][0][::-1]
        return record

    problems = list(verify(make(tmp_path / "store", [wrong(record) for record in records()])))
    for name, words in zip(
        NAMES, ("class 250, but there are 40", "coverage of 4.000, more than 1", "not sorted"), strict=False
    ):
        (mine,) = [p for p in problems if name in p]
        assert words in mine


def test_values_too_large_for_float16_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    record = records()[0]
    with np.errstate(over="ignore"):
        record.rows["encoder"]["values"][0, 0] = 1e6
    with pytest.raises(
        UserError, match=f"{record.utt}: a value at encoder is not finite or too large for float16"
    ):
        write_shard(tmp_path / "00001", [record], TAPS)
    assert not list(tmp_path.iterdir())


def test_checksums_of_transcripts_tell_them_apart() -> None:
    assert text_checksum([1, 2]) == text_checksum((1, 2)) != text_checksum([2, 1])


def test_the_cost_is_beside_the_store_and_may_be_unknown(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    assert read_cost(store.directory) is None, "a store of an older version"
    Cost(2.5, 4.0).write(store.directory)
    assert read_cost(store.directory) == Cost(2.5, 4.0)
    assert not list(verify(Store(store.directory)))


@pytest.mark.parametrize("content", ["{", "[]", '{"hours": 1}', '{"seconds": "x"}', '{"seconds": [1]}'])
def test_a_damaged_cost_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "cost.json").write_text(content)
    with pytest.raises(UserError, match="cost.json"):
        read_cost(tmp_path)
