"""A shard: some utterances in a directory that appears when it is complete."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, fsync, read_lines
from espnet_kd.store.tap import Tap

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Record:
    """Targets of one utterance.

    Attributes:
        samples: length of its waveform.
        text: CRC-32 of its tokens; None if no tap depends on them.
        rows: (P,) of the tap's row type, by tap.
        audio: CRC-32 of the samples of its file; None if that is not known.
    """

    utt: str
    samples: int
    text: int | None
    rows: dict[str, NDArray[Any]]
    audio: int | None = None


@dataclass(frozen=True)
class Entry:
    """Where the rows of one utterance are.

    Attributes:
        start: number of its first row, by tap.
        rows: how many, by tap.
        crc: CRC-32 of their bytes, by tap.
        audio: as in ``Record``.
    """

    utt: str
    samples: int
    text: int | None
    start: dict[str, int]
    rows: dict[str, int]
    crc: dict[str, int]
    audio: int | None = None


def text_checksum(tokens: Sequence[int]) -> int:
    """CRC-32 of token numbers."""
    return zlib.crc32(np.asarray(tokens, dtype="<i4").tobytes())


def audio_checksum(samples: NDArray[Any]) -> int:
    """CRC-32 of samples (N,), full scale 1, as float32: 16 bits of any container give the same."""
    return zlib.crc32(np.ascontiguousarray(samples, dtype="<f4"))


def write_shard(path: Path, records: Iterable[Record], taps: Mapping[str, Tap]) -> None:
    """Write utterances, sorted by id, into a directory; one that is there already is left alone.

    Raises:
        UserError: a value is not finite, or too large for the type of its tap.
    """
    if path.exists():
        return
    with atomic_dir(path) as temporary:
        files = {tap: (temporary / tap).open("wb") for tap in taps}
        try:
            with (temporary / INDEX).open("w", encoding="utf-8") as index:
                for record in records:
                    line: dict[str, Any] = {"utt": record.utt, "samples": record.samples, "text": record.text}
                    line["audio"] = record.audio
                    for tap, file in files.items():
                        check_finite(record, tap, taps[tap])
                        content = record.rows[tap].tobytes()
                        file.write(content)
                        line[tap] = [len(record.rows[tap]), zlib.crc32(content)]
                    index.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        finally:
            for file in files.values():
                file.close()
        fsync(*temporary.iterdir())


def damage(directory: Path, entries: Mapping[str, Entry], taps: Mapping[str, Tap]) -> Iterator[str]:
    """What is wrong with a shard's files, a line each: missing, or not as long as its index says."""
    for name, tap in taps.items():
        expected = sum(e.rows[name] for e in entries.values()) * tap.row.itemsize
        path = directory / name
        size = path.stat().st_size if path.is_file() else -1
        if size != expected:
            yield f"{path} {'is missing' if size < 0 else f'has {size} bytes, not {expected}'}"


def check_finite(record: Record, path: str, tap: Tap) -> None:
    """Refuse what is not a number or became infinite.

    Raises:
        UserError: names the utterance.
    """
    rows = record.rows[path]
    for name in rows.dtype.names or ():
        if not np.isfinite(rows[name]).all():
            raise UserError(
                f"{record.utt}: a value at {path} is not finite or too large for {tap.number}: has the "
                "teacher's training diverged? Otherwise keep float32"
            )


def read_index(path: Path, taps: Sequence[str]) -> dict[str, Entry]:
    """The index of a shard, by utterance.

    Raises:
        UserError: it cannot be read, a line is not one of ours, or an utterance is there twice.
    """
    entries: dict[str, Entry] = {}
    end = dict.fromkeys(taps, 0)
    for number, text in enumerate(read_lines(path), 1):
        try:
            line = json.loads(text)
            rows, crc = ({tap: int(line[tap][i]) for tap in taps} for i in range(2))
            utt = line["utt"]
            entry = Entry(utt, int(line["samples"]), line["text"], end, rows, crc, line["audio"])
            twice = utt in entries
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
            raise UserError(f"{path}:{number} is not a line of a store: make its shard again") from None
        if twice:
            raise UserError(f"{path}:{number}: {utt} occurs a second time: make its shard again")
        entries[utt] = entry
        end = {tap: end[tap] + rows[tap] for tap in taps}
    return entries
