"""Check every record of a store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError
from espnet_kd.store.shard import INDEX, Record, check_finite, damage
from espnet_kd.store.store import Store
from espnet_kd.store.tap import Tap

ROUNDING = 0.02  # by which float16 may make the sum of K <= 50 probabilities larger than 1


def verify(store: Store) -> Iterator[str]:
    """Yield what is wrong, a line for each problem; a damaged shard does not hide those in others.

    Checks that shards and files are there and as long as they should be, checksums, that utterances are where
    they are looked for, that values are finite, classes within the vocabulary, log-probabilities sorted, and
    that no kept mass exceeds 1.
    """
    last = ""
    for shard in store.manifest.shards:
        try:
            entries = store.entries(shard)
        except UserError as e:
            yield str(e)
            continue
        if len(entries) != shard.utterances:
            yield f"{store.directory / shard.name} has {len(entries)} of {shard.utterances} utterances"
        yield from damage(store.directory / shard.name, entries, store.manifest.taps)
        yield from _disorder(store.directory / shard.name, shard.first, list(entries), last)
        last = max([last, *entries])
        for utt in entries:
            yield from _problems(store, utt)
    if store.manifest.output_layer is not None:
        try:
            store.output_layer  # noqa: B018  # reading is checking
        except UserError as e:
            yield str(e)
    yield from _strangers(store)


def _disorder(directory: Path, first: str, utts: list[str], before: str) -> Iterator[str]:
    """Utterances by which a shard is not found: it starts with ``first``, after all shards before it."""
    if utts[:1] != [first]:
        yield f"{directory} starts with utterance {utts[0] if utts else 'none'}, not with {first}"
    elif first <= before or utts != sorted(utts):
        yield f"{directory} has utterances that are not in the order of their ids"


def _problems(store: Store, utt: str) -> Iterator[str]:
    for tap, form in store.manifest.taps.items():
        try:
            record = store.read(utt, [tap])
            check_finite(record, tap, form)
        except UserError as e:
            yield str(e)
            continue
        problem = _problem(record, tap, form)
        if problem:
            yield f"{store.directory}: utterance {utt} at {tap}: {problem}"


def _problem(record: Record, path: str, tap: Tap) -> str | None:
    rows = record.rows[path]
    if not len(rows):
        return "has no position"
    if tap.kind in ("values", "joint"):
        return None
    if kept_mass(rows).max() > 1 + ROUNDING:
        return f"keeps a mass of {kept_mass(rows).max():.3f}, more than 1"
    if tap.kind == "collapsed":
        return None
    if int(rows["tokens"].max()) >= tap.size:
        return f"has class {rows['tokens'].max()} of {tap.size}"
    log_probs = rows["log_probs"].astype(np.float32)
    if (np.diff(log_probs) > 0).any():
        return "has classes that are not sorted by probability"
    return None


def kept_mass(rows: NDArray[Any]) -> NDArray[np.float64]:
    """(P,) sum of the kept probabilities; of collapsed ones 1."""
    mass: NDArray[np.float64] = np.exp(rows["log_probs"].astype(np.float64)).sum(-1)
    return mass


def _strangers(store: Store) -> Iterator[str]:
    """Shards that the manifest does not know."""
    known = {shard.name for shard in store.manifest.shards}
    for path in sorted(
        p for p in Path(store.directory).glob("[0-9]*/" + INDEX) if p.parent.name not in known
    ):
        yield f"{path.parent} does not belong to this store"
