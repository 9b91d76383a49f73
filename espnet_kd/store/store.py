"""Read a store."""

import os
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint
from espnet_kd.store.manifest import Manifest, ShardEntry, read_manifest
from espnet_kd.store.output_layer import OutputLayer, read_output_layer
from espnet_kd.store.shard import INDEX, Entry, Record, read_index

OPEN_FILES = 128  # at most, of all taps


class Store:
    """A complete store; nothing in it is ever written, so any number of processes may read it.

    Args:
        directory: of the store.

    Raises:
        UserError: it is incomplete or damaged.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest: Manifest = read_manifest(self.directory)
        self._firsts = [shard.first for shard in self.manifest.shards]
        self._index = lru_cache(maxsize=None)(self._read_index)
        self._file = lru_cache(maxsize=OPEN_FILES)(self._open)

    def __contains__(self, utt: str) -> bool:
        """True if the utterance is there; reads the index of one shard."""
        shard = self._shard(utt)
        return shard is not None and utt in self._index(shard)

    def __iter__(self) -> Iterator[str]:
        """All utterances, sorted."""
        for shard in self.manifest.shards:
            yield from self._index(shard)

    @cached_property
    def taps(self) -> list[str]:
        """Their paths."""
        return list(self.manifest.taps)

    @cached_property
    def output_layer(self) -> OutputLayer:
        """Of the tap of the kind `joint`.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_output_layer(self.directory, self.manifest.output_layer)

    def entries(self, shard: ShardEntry) -> dict[str, Entry]:
        """The index of a shard.

        Raises:
            UserError: it is damaged.
        """
        return self._index(shard)

    def missing(self, utterances: Iterable[str]) -> str | None:
        """The first utterance that is not there."""
        return next((utt for utt in utterances if utt not in self), None)

    def read(self, utt: str, taps: Iterable[str] | None = None) -> Record:
        """The targets of an utterance at some taps; all of them by default.

        Raises:
            UserError: it is not there, or damaged.
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
        return Record(utt, entry.samples, entry.text, rows, entry.audio)

    def _rows(self, shard: ShardEntry, entry: Entry, tap: str) -> NDArray[Any]:
        row = self.manifest.taps[tap].row
        file = self._file(shard.name, tap)
        length = entry.rows[tap] * row.itemsize
        # pread has no position that processes could share after a fork.
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

    def _read_index(self, shard: ShardEntry) -> dict[str, Entry]:
        path = self.directory / shard.name / INDEX
        if fingerprint(path) != shard.index:
            raise UserError(f"{path} is damaged: its checksum is wrong; {self._again(shard)}")
        return read_index(path, self.taps)

    def _open(self, shard: str, tap: str) -> IO[bytes]:
        path = self.directory / shard / tap
        try:
            return path.open("rb", buffering=0)
        except OSError as e:
            raise UserError(f"cannot read {path}: {e.strerror}") from None

    def _again(self, shard: ShardEntry) -> str:
        return f"remove {self.directory / shard.name} and repeat the command that made the store"
