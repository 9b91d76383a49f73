"""Read the targets of an utterance from a store, and check every record of a store."""

import os
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint
from espnet_kd.targets.format import (
    INDEX,
    IndexEntry,
    Manifest,
    OutputLayer,
    ShardEntry,
    TapFormat,
    TargetRecord,
    check_finite,
    damage,
    quantiser_file,
    read_index,
    read_manifest,
    read_output_layer,
)

OPEN_FILES = 128  # number of files that stay open, at most
INDEXES = 50_000  # of shards that stay in memory, at most; of a hundred utterances and two layers 11 kB
ROUNDING = 0.02  # float16 can make the sum of K <= 50 probabilities exceed 1 by this much


class ShardIndex(Mapping[str, IndexEntry]):
    """The index of a shard, in one text and one array.

    A training reads utterances in random order, so the indexes of all shards stay in memory. Forked processes
    share them: utterances have no objects of their own, whose counts of references would be written.
    """

    def __init__(self, entries: Mapping[str, IndexEntry], taps: Sequence[str]) -> None:
        self._taps = taps
        self._ids = "\n" + "".join(f"{utt}\n" for utt in entries)
        self._numbers = array("q")
        for e in entries.values():
            self._numbers.extend(-1 if x is None else x for x in (e.samples, e.text, e.audio))
            self._numbers.extend(of[tap] for of in (e.start, e.rows, e.crc) for tap in taps)

    def __len__(self) -> int:
        return self._ids.count("\n") - 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids[1:-1].split("\n") if len(self) else ())

    def __getitem__(self, utt: str) -> IndexEntry:
        place = self._ids.find(f"\n{utt}\n")
        if place < 0:
            raise KeyError(utt)
        width = 3 + 3 * len(self._taps)
        first = self._ids.count("\n", 0, place) * width
        samples, *rest = self._numbers[first : first + width].tolist()
        text, audio = (None if x < 0 else x for x in rest[:2])
        columns = (rest[2 + i * len(self._taps) :] for i in range(3))
        start, rows, crc = (dict(zip(self._taps, column, strict=False)) for column in columns)
        return IndexEntry(utt, samples, text, start, rows, crc, audio)


class Store:
    """Read a complete store. It is never changed, so that any number of processes can read it.

    Args:
        directory: the store.

    Raises:
        UserError: the store is incomplete or damaged.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest: Manifest = read_manifest(self.directory)
        self._firsts = [shard.first for shard in self.manifest.shards]
        self._index = lru_cache(maxsize=INDEXES)(self._read_index)
        self._file = lru_cache(maxsize=OPEN_FILES)(self._open)

    def __contains__(self, utt: str) -> bool:
        """Return True if the store has the utterance; reads the index of one shard."""
        shard = self._shard(utt)
        return shard is not None and utt in self._index(shard)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of all utterances, sorted."""
        for shard in self.manifest.shards:
            yield from self._index(shard)

    @cached_property
    def taps(self) -> list[str]:
        """Return the module paths of the layers that the store has targets of."""
        return list(self.manifest.taps)

    @cached_property
    def output_layer(self) -> OutputLayer:
        """Read the output layer, for a tap of the kind `joint`.

        Raises:
            UserError: its file is missing or damaged.
        """
        return read_output_layer(self.directory, self.manifest.output_layer)

    def entries(self, shard: ShardEntry) -> ShardIndex:
        """Read the index of a shard.

        Raises:
            UserError: it is damaged.
        """
        return self._index(shard)

    def missing(self, utterances: Iterable[str]) -> str | None:
        """Return the first of the utterances that the store does not have, or None."""
        return next((utt for utt in utterances if utt not in self), None)

    def read(self, utt: str, taps: Iterable[str] | None = None) -> TargetRecord:
        """Read the targets of an utterance at some taps, or at all.

        Raises:
            UserError: the store does not have the utterance, or its record is damaged.
        """
        shard = self._shard(utt)
        entry = self._index(shard).get(utt) if shard is not None else None
        if shard is None or entry is None:
            raise UserError(
                f"{self.directory} has no targets of utterance {utt}: it was made of other data; "
                "make it again"
            )
        chosen = self.taps if taps is None else taps
        rows = {tap: self._rows(shard, entry, tap) for tap in chosen}
        return TargetRecord(utt, entry.samples, entry.text, rows, entry.audio)

    def _rows(self, shard: ShardEntry, entry: IndexEntry, tap: str) -> NDArray[Any]:
        """Read the rows of one utterance at one tap, (P,), and compare them with their checksum."""
        row = self.manifest.taps[tap].row
        file = self._file(shard.name, tap)
        length = entry.rows[tap] * row.itemsize
        # pread uses no file position, which processes would share after a fork.
        content = os.pread(file.fileno(), length, entry.start[tap] * row.itemsize)
        if len(content) < length:
            raise UserError(
                f"{file.name} is truncated: it ends within utterance {entry.utt}; {self._again(shard)}"
            )
        if zlib.crc32(content) != entry.crc[tap]:
            raise UserError(f"{file.name}: utterance {entry.utt} is damaged; {self._again(shard)}")
        return np.frombuffer(content, row)

    def _shard(self, utt: str) -> ShardEntry | None:
        place = bisect_right(self._firsts, utt) - 1
        return self.manifest.shards[place] if place >= 0 else None

    def _read_index(self, shard: ShardEntry) -> ShardIndex:
        path = self.directory / shard.name / INDEX
        if fingerprint(path) != shard.index:
            raise UserError(f"{path} is damaged: its checksum is wrong; {self._again(shard)}")
        return ShardIndex(read_index(path, self.taps), self.taps)

    def _open(self, shard: str, tap: str) -> IO[bytes]:
        path = self.directory / shard / tap
        try:
            return path.open("rb", buffering=0)
        except OSError as e:
            raise UserError(f"cannot read {path}: {e.strerror}") from None

    def _again(self, shard: ShardEntry) -> str:
        return f"remove {self.directory / shard.name} and repeat the command that made the store"


def verify(store: Store) -> Iterator[str]:
    """Yield a line for each problem of a store, in all of its shards.

    Checks that files exist and have the right length, checksums, the order of utterances, that values are
    finite, classes within the vocabulary, log-probabilities sorted, and that no coverage exceeds 1.
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
    for tap, checksum in store.manifest.quantisers.items():
        path = store.directory / quantiser_file(tap)
        if not path.is_file() or fingerprint(path) != checksum:
            yield f"{path} is missing or damaged"
    yield from _unknown_files(store)


def _disorder(directory: Path, first: str, utts: list[str], before: str) -> Iterator[str]:
    """Yield a problem if the ids of a shard are not sorted, or not after ``before``, or not from ``first``.

    `Store.read` finds an utterance by the first id of each shard.
    """
    if utts[:1] != [first]:
        yield f"{directory} starts with utterance {utts[0] if utts else 'none'}, not with {first}"
    elif first <= before or utts != sorted(utts):
        yield f"{directory} has utterances that are not in the order of their ids"


def _problems(store: Store, utt: str) -> Iterator[str]:
    """Yield the problems of one utterance, at most one for each tap."""
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


def _problem(record: TargetRecord, path: str, tap: TapFormat) -> str | None:
    """Say what is wrong with the values of one utterance at one tap; None if nothing is."""
    rows = record.rows[path]
    if not len(rows):
        return "has no position"
    if tap.kind in ("values", "codes", "joint"):
        return None
    if tap.kind == "score":
        return "has a probability above 1" if rows["score"].max() > ROUNDING else None
    if _coverage(rows).max() > 1 + ROUNDING:
        return f"has a coverage of {_coverage(rows).max():.3f}, more than 1"
    if tap.kind == "collapsed":
        return None
    if int(rows["tokens"].max()) >= tap.size:
        return f"has class {rows['tokens'].max()}, but there are {tap.size} classes"
    log_probs = rows["log_probs"].astype(np.float32)
    if (np.diff(log_probs) > 0).any():
        return "has classes that are not sorted by probability"
    return None


def _coverage(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the coverage of each position, (P,): the sum of the stored probabilities."""
    mass: NDArray[np.float64] = np.exp(rows["log_probs"].astype(np.float64)).sum(-1)
    return mass


def _unknown_files(store: Store) -> Iterator[str]:
    """Yield a problem for each shard that is not in the manifest."""
    known = {shard.name for shard in store.manifest.shards}
    for path in sorted(store.directory.glob("[0-9]*/**/" + INDEX)):
        if str(path.parent.relative_to(store.directory)) not in known:
            yield f"{path.parent} does not belong to this store"
