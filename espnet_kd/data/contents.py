"""``espnet-kd contents``: fingerprints of data by what is in the files, whatever their names and times.

Of a file it is the SHA-256; of a data directory that of its ids and of the content of their audio, so that
two directories with the same speech have one fingerprint. A file is read again only if its size, time of
modification or time of change (which no program can set) differs from what is on record.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, fingerprint, read_table

CACHE = ".contents.json"  # beside wav.scp
YOUNG = 2.0  # seconds; a younger file may be written again within the tick of the file system's clock
IN_ARK = re.compile(r"(.*\.ark)(:\d+)")
LENGTH = 32  # hexadecimal digits that are kept, 128 bits


def main(argv: list[str] | None = None) -> None:
    """``contents PATH...``: print the fingerprint of each data directory, wav.scp (its speech) or file."""
    parser = command_parser("contents")
    parser.add_argument("paths", nargs="+", type=Path, help="files, or directories with wav.scp")
    for path in parser.parse_args(argv).paths:
        print(of_speech(path.parent) if path.name == "wav.scp" else of_path(path))


def of_path(path: Path) -> str:
    """Fingerprint of a file, or of the speech and the transcripts, if there are any, of a data directory.

    Raises:
        UserError: it, or an audio file, cannot be read.
    """
    if not path.is_dir():
        return fingerprint(path)[:LENGTH]
    text = fingerprint(path / "text") if (path / "text").is_file() else ""
    return _digest([of_speech(path), text])


def of_speech(directory: Path) -> str:
    """Fingerprint of the ids of a data directory and of the content of their audio.

    Raises:
        UserError: wav.scp, or an audio file, cannot be read.
    """
    table = read_table(directory / "wav.scp")
    places = {utt: _file_and_rest(value) for utt, value in table.items()}
    contents = Contents(directory / CACHE)
    found = contents.of(file for file, _ in places.values() if file)
    for utt, (file, _) in places.items():
        if file and file not in found:
            raise UserError(f"{directory / 'wav.scp'}: {file} of {utt} does not exist or cannot be read")
    contents.save()
    return _digest([utt, found.get(places[utt][0], ""), places[utt][1]] for utt in sorted(places))


def inherit(directory: Path, sources: Iterable[Path]) -> None:
    """Put what is on record of the audio of other data directories beside a new wav.scp, to read it once."""
    rows: dict[str, list[object]] = {}
    for source in sources:
        rows |= _read(source / CACHE)
    if rows:
        _write(directory / CACHE, rows)


class Contents:
    """Fingerprints of files, kept in a table.

    Args:
        table: JSON of path to size, times in nanoseconds and fingerprint. A missing or damaged one is empty.
    """

    def __init__(self, table: Path) -> None:
        self.table = table
        self._known = _read(table)
        self._seen: dict[str, list[object]] = {}

    def of(self, paths: Iterable[str]) -> dict[str, str]:
        """The fingerprint of each file that can be read."""
        files = list(dict.fromkeys(paths))
        rows = {f: self._unchanged(f) for f in files}
        new = [f for f in files if rows[f] is None]
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:  # reading waits for the disk
            rows |= zip(new, pool.map(_row, new), strict=True)
        self._seen |= {f: row for f, row in rows.items() if row is not None}
        return {f: str(self._seen[f][-1]) for f in files if f in self._seen}

    def save(self) -> None:
        """Keep what was read; where the directory cannot be written, it is read again the next time."""
        if self._seen == self._known or not os.access(self.table.parent, os.W_OK):
            return
        _write(self.table, self._seen)

    def _unchanged(self, path: str) -> list[object] | None:
        """What is on record of a file, if that is true still."""
        known = self._known.get(path)
        try:
            return known if known is not None and known[:-1] == _state(path) else None
        except OSError:
            return None


def _row(path: str) -> list[object] | None:
    """What to record of a file; None if it cannot be read."""
    try:
        before = _state(path)
        digest = fingerprint(Path(path))[:LENGTH]
        young = time.time() - before[2] / 1e9 < YOUNG or _state(path) != before
    except (OSError, UserError):
        return None
    return [0, 0, 0, digest] if young else [*before, digest]


def _state(path: str) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _write(table: Path, rows: Mapping[str, list[object]]) -> None:
    with atomic_path(table) as temporary:
        temporary.write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(table: Path) -> Mapping[str, list[object]]:
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        return {path: row for path, row in content.items() if len(row) == 4 and isinstance(row[-1], str)}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _file_and_rest(value: str) -> tuple[str, str]:
    """The file that an entry of wav.scp names, and what else it says; a pipe names none."""
    if value.endswith("|"):
        return "", value
    match = IN_ARK.fullmatch(value)
    return (match[1], match[2]) if match else (value, "")


def _digest(content: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in content:
        digest.update(json.dumps(part, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:LENGTH]
