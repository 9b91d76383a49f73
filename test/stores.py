"""Write small stores of random targets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet_kd.files import fingerprint
from espnet_kd.targets.format import Manifest, ShardEntry, TapFormat, TargetRecord, text_checksum, write_shard
from espnet_kd.targets.store import Store

TAPS = {"ctc.ctc_lo": TapFormat("topk", 40, 4), "encoder": TapFormat("values", 6)}
NAMES = ["u10", "u11", "u12", "u13", "u14"]


def records(taps=TAPS, names: Sequence[str] = NAMES) -> list[TargetRecord]:
    """Make records of utterances of 3, 4, ... frames."""
    random = np.random.default_rng(0)
    return [
        TargetRecord(
            utt, 1000 + i, text_checksum([i]), {t: rows(3 + i, tap, random) for t, tap in taps.items()}
        )
        for i, utt in enumerate(names)
    ]


def rows(count: int, tap: TapFormat, random) -> np.ndarray:
    """Make the rows of random targets."""
    found = np.zeros(count, tap.row)
    if tap.kind == "values":
        found["values"] = random.normal(size=(count, tap.size))
        return found
    p = random.dirichlet(np.ones(tap.size), count)
    order = np.argsort(-p)[:, : tap.k]
    found["tokens"], found["log_probs"] = order, np.log(np.take_along_axis(p, order, 1))
    return found


def make(directory: Path, chosen: Sequence[TargetRecord] | None = None, taps=TAPS) -> Store:
    """Write a store of two shards."""
    chosen = records() if chosen is None else chosen
    half = len(chosen) // 2
    entries = []
    for name, part in (("00001", chosen[:half]), ("00002", chosen[half:])):
        write_shard(directory / name, part, taps)
        index = fingerprint(directory / name / "index.jsonl")
        entries.append(ShardEntry(name, part[0].utt, len(part), index))
    teacher = {"experiment": "teacher", "config": "c", "checkpoint": "p", "weight": 0.5}
    settings = {"mean": "posteriors"}
    samples = sum(record.samples for record in chosen)
    Manifest((teacher,), "t", settings, taps, {}, 16000, tuple(entries), samples).write(directory)
    return Store(directory)
