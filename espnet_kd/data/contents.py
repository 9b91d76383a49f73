"""``espnet-kd contents``: print fingerprints of files and data directories.

The fingerprint of a file is the SHA-256 of its content; that of a data directory is a hash of its utterance
ids and the contents of their audio files, so that two directories with the same speech have one fingerprint.
Fingerprints of files are cached; a file is read again only if its size, time of modification or time of
change (which no program can set) differs from those in the cache.
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
from espnet_kd.data.tables import SortedTable
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint, write_text

CACHE_FILE = ".contents.json"  # beside wav.scp
YOUNG = 2.0  # seconds; a younger file may change again without another time of modification
IN_ARK = re.compile(r"(.*\.ark)(:\d+)")
WHOLE = ""  # key of the fingerprint of a whole table in the cache; no file has this name
PLAIN = re.compile(r"[\w\-./:+=@, ]*", re.ASCII)  # what JSON writes as it is
LENGTH = 32  # hexadecimal digits of a fingerprint, 128 bits


def main(argv: list[str] | None = None) -> None:
    """Run ``contents PATH...``."""
    parser = command_parser("contents")
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        help="files, data directories, or the wav.scp of a directory for its speech without transcripts",
    )
    for path in parser.parse_args(argv).paths:
        print(fingerprint_speech(path.parent) if path.name == "wav.scp" else fingerprint_path(path))


def fingerprint_path(path: Path) -> str:
    """Return the fingerprint of a file, or of the speech and transcripts of a data directory.

    Raises:
        UserError: a file cannot be read.
    """
    if not path.is_dir():
        return fingerprint(path)[:LENGTH]
    text = fingerprint(path / "text") if (path / "text").is_file() else ""
    return digest([fingerprint_speech(path), text])


def fingerprint_speech(directory: Path) -> str:
    """Return the fingerprint of the ids of a data directory and the contents of their audio.

    It is cached with the state of wav.scp, because a table of millions of utterances takes a minute to read.

    Raises:
        UserError: wav.scp, or an audio file, cannot be read.
    """
    cache = FingerprintCache(directory / CACHE_FILE)
    before = steady_state(directory / "wav.scp")
    if (known := cache.whole(before)) is not None:
        return known
    table = SortedTable(directory / "wav.scp")
    files = dict.fromkeys(file for value in table.values() if (file := file_and_rest(value)[0]))
    found = cache.fingerprints(files)
    for file in files:
        if file not in found:
            utt = next(utt for utt, value in table if file_and_rest(value)[0] == file)
            raise UserError(f"{directory / 'wav.scp'}: {file} of {utt} does not exist or cannot be read")
    places = ((utt, *file_and_rest(value)) for utt, value in table)
    whole = digest([utt, found.get(file, ""), rest] for utt, file, rest in places)
    cache.save(before, whole)
    return whole


def inherit_fingerprints(directory: Path, sources: Iterable[Path]) -> None:
    """Copy the caches of other data directories beside a new wav.scp, so that the audio is not read again."""
    rows: dict[str, list[object]] = {}
    for source in sources:
        rows |= _read_rows(source / CACHE_FILE)
    rows.pop(WHOLE, None)
    if rows:
        _write_rows(directory / CACHE_FILE, rows)


class FingerprintCache:
    """Fingerprints of files, cached in a JSON file.

    Args:
        table: JSON file, path -> size, times in nanoseconds, and fingerprint. A missing or damaged file
            counts as empty.
    """

    def __init__(self, table: Path) -> None:
        self.table = table
        self._known = _read_rows(table)
        self._whole = self._known.pop(WHOLE, None)
        self._seen: dict[str, list[object]] = {}

    def fingerprints(self, paths: Iterable[str]) -> dict[str, str]:
        """Return path -> fingerprint of all files that can be read."""
        files = list(dict.fromkeys(paths))
        rows = {f: self._unchanged(f) for f in files}
        new = [f for f in files if rows[f] is None]
        with ThreadPoolExecutor(
            min(8, len(os.sched_getaffinity(0)))
        ) as pool:  # threads, because reading waits for the disk
            rows |= zip(new, pool.map(file_row, new), strict=True)
        self._seen |= {f: row for f, row in rows.items() if row is not None}
        return {f: str(self._seen[f][-1]) for f in files if f in self._seen}

    def whole(self, state: list[int]) -> str | None:
        """Return the fingerprint of the whole table with this state, if no file of it has changed."""
        if self._whole is None or self._whole[:-1] != state or not all(map(self._unchanged, self._known)):
            return None
        return str(self._whole[-1])

    def save(self, state: list[int] | None = None, whole: str = "") -> None:
        """Write the cache, if the directory can be written.

        Args:
            state: of the table of the files, and their fingerprint ``whole``; None to leave both out.
        """
        rows = self._seen if state is None or not state[1] else {**self._seen, WHOLE: [*state, whole]}
        if (self._seen == self._known and rows is self._seen) or not os.access(self.table.parent, os.W_OK):
            return
        _write_rows(self.table, rows)

    def _unchanged(self, path: str) -> list[object] | None:
        """Return the cached row of a file if its size and times have not changed."""
        known = self._known.get(path)
        try:
            return known if known is not None and known[:-1] == state_of(path) else None
        except OSError:
            return None


def file_row(path: str) -> list[object] | None:
    """Return the row of a file: size, times and fingerprint; None if it cannot be read."""
    try:
        before = steady_state(path)
        found = fingerprint(Path(path))[:LENGTH]
        return [*(before if state_of(path) == before else [0, 0, 0]), found]
    except (OSError, UserError):
        return None


def steady_state(path: str | Path) -> list[int]:
    """Return size and times of a file; zeros for a young one, or one that does not exist."""
    try:
        found = state_of(path)
    except OSError:
        return [0, 0, 0]
    return [0, 0, 0] if time.time() - found[2] / 1e9 < YOUNG else found


def state_of(path: str | Path) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _write_rows(table: Path, rows: Mapping[str, list[object]]) -> None:
    write_text(table, json.dumps(rows, ensure_ascii=False) + "\n")


def _read_rows(table: Path) -> dict[str, list[object]]:
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        return {path: row for path, row in content.items() if len(row) == 4 and isinstance(row[-1], str)}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def file_and_rest(value: str) -> tuple[str, str]:
    """Split an entry of wav.scp into the file, "" for a pipe, and the rest."""
    if value.endswith("|"):
        return "", value
    match = IN_ARK.fullmatch(value)
    return (match[1], match[2]) if match else (value, "")


def digest(content: Iterable[object]) -> str:
    """Return a hash of a list as the lines of its JSON."""
    sha = hashlib.sha256()
    for part in content:
        sha.update(_json_line(part))
    return sha.hexdigest()[:LENGTH]


def _json_line(part: object) -> bytes:
    if isinstance(part, list) and all(isinstance(x, str) and PLAIN.fullmatch(x) for x in part):  # faster
        return f'["{"\", \"".join(part)}"]\n'.encode()
    return json.dumps(part, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
