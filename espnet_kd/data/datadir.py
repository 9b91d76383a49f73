"""Read and write Kaldi data directories.

They have ``wav.scp, utt2spk, spk2utt[, text][, segments][, utt2speed][, utt2ref_channels]``.
``utt2ref_channels`` is ESPnet's table of that name (``format_wav_scp.sh --utt2ref_channels``): the channel of
the audio that holds the utterance, counted from 0. So both sides of a call name the same file, without pipes.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path

from espnet_kd.data.tables import (
    Lookup,
    SortedTable,
    join,
    sort_lines,
    spk2utt_rows,
    unshared_keys,
    write_columns,
)
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, has_odd_characters, lock_file, locked, rows_of, write_rows

Seconds = float
Row = tuple[str, object]  # key and value of a table
Plain = tuple[
    str, str, str, str | None, str | None, Seconds | None, Seconds | None, float, int | None
]  # the attributes of an Utterance
LONGEST: Seconds = 1e9
PLAIN_ID = re.compile(r"[A-Za-z0-9_+-][\w+.,=@-]*", re.ASCII)
OPTIONAL = ("segments", "utt2speed", "utt2ref_channels")
SPEEDS = (0.1, 10)  # factors; others are mistakes, for which resampling would fill the memory


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance.

    Attributes:
        id: should begin with the speaker, as Kaldi advises, so that sorting groups speakers.
        audio: path for wav.scp.
        text: transcript; None in a directory without transcripts.
        recording: of which the utterance is the segment from ``start`` to ``end``; None if it is a whole
            file.
        speed: factor that ``format`` applies; 1.1 is faster, higher and shorter.
        channel: of the audio, counted from 0; None if it has only one.
    """

    id: str
    speaker: str
    audio: Path
    text: str | None
    recording: str | None = None
    start: Seconds | None = None
    end: Seconds | None = None
    speed: float = 1.0
    channel: int | None = None


def hours_of(utterances: Iterable[Utterance]) -> float:
    """Return the total length of utterances that are pieces of recordings."""
    return sum(u.end - u.start for u in utterances if u.end is not None and u.start is not None) / 3600


@dataclass(frozen=True)
class DataDir:
    """The tables of a data directory, read row by row; all but ``wav`` are keyed by utterance.

    Iterating yields the utterances, sorted by id. If there are ``segments``, the paths of all recordings are
    kept in memory meanwhile.

    Attributes:
        wav: recording -> audio path; utterance -> audio path without ``segments``.
        text: None in a directory without transcripts.
        segments: ``recording start end``; None if every utterance is a whole file.
        speed: factors other than 1, or None.
        channel: counted from 0; None if all audio has one channel.
    """

    path: Path
    wav: SortedTable
    text: SortedTable | None
    speaker: SortedTable
    segments: SortedTable | None
    speed: SortedTable | None
    channel: SortedTable | None

    def __iter__(self) -> Iterator[Utterance]:
        return (Utterance(row[0], row[1], Path(row[2]), *row[3:]) for row in self.plain())

    def plain(self) -> Iterator[Plain]:
        """Yield the utterances as tuples of their attributes with the audio as text, which is faster."""
        recordings = dict(self.wav) if self.segments is not None else {}
        speeds, channels = Lookup(self.speed or ()), Lookup(self.channel or ())
        for utt, (speaker, place, *text) in self._rows():
            audio, recording, start, end = place, None, None, None
            if self.segments is not None:
                recording, start, end = parse_segment(self.segments.path, utt, place)
                audio = recordings[recording]
            speed, channel = speeds.get(utt), channels.get(utt)
            yield (
                utt,
                speaker,
                audio,
                text[0] if text else None,
                recording,
                start,
                end,
                1.0 if speed is None else float(speed),
                None if channel is None else int(channel),
            )

    def _rows(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield each utterance with its speaker, its audio or segment, and its transcript if it has one."""
        tables = {"utt2spk": self.speaker}
        tables |= {"wav.scp": self.wav} if self.segments is None else {"segments": self.segments}
        return join(self.path, tables | ({} if self.text is None else {"text": self.text}))

    def check(self) -> None:
        """Check all rows.

        Raises:
            UserError: see ``read_data_dir``.
        """
        recordings = set(self.wav.ids()) if self.segments is not None else set()
        for utt, (speaker, place, *_) in self._rows():
            if not speaker:
                raise UserError(f"{self.speaker.path}: {utt} has no speaker")
            check_id(self.speaker.path, utt)
            check_id(self.speaker.path, speaker)
            if self.segments is not None:
                recording, *_ = parse_segment(self.segments.path, utt, place)
                if recording not in recordings:
                    raise UserError(
                        f"{self.path}: {utt} is a segment of {recording}, which is not in wav.scp"
                    )
        for key, value in self.wav:
            if value.endswith("|"):
                raise UserError(
                    f"{self.wav.path}: {key} is a pipe, which is not run: give the path of a file"
                )
            if not value:
                raise UserError(f"{self.wav.path}: {key} has no path")
        for table, check in ((self.speed, _check_speed), (self.channel, _check_channel)):
            if table is not None:
                check(table)
                _check_subset(table, self.speaker)


def read_data_dir(path: str | Path, labelled: bool = True) -> DataDir:
    """Open a data directory and check that its tables have the same ids.

    An utterance may have an empty transcript; stage 4 drops it with a message.

    Args:
        path: the directory.
        labelled: False for a directory without transcripts, or to ignore them.

    Raises:
        UserError: a file is missing or malformed, an id occurs twice or is missing in a file, or wav.scp has
            a pipe; names file and id.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a directory: first run the stage that makes it")
    wav, speaker = (SortedTable(path / name) for name in ("wav.scp", "utt2spk"))
    text = SortedTable(path / "text") if labelled else None
    segments, speed, channel = (
        SortedTable(path / name) if (path / name).exists() else None
        for name in ("segments", "utt2speed", "utt2ref_channels")
    )
    if not speaker and not wav:
        raise UserError(f"{path} has no utterances")
    found = DataDir(path, wav, text, speaker, segments or None, speed, channel)
    found.check()
    return found


def parse_segment(path: Path, utt: str, value: str) -> tuple[str, Seconds, Seconds]:
    """Return recording, start and end of a row of the table ``path`` of segments.

    Raises:
        UserError: it has other words, or the times are impossible.
    """
    try:
        recording, first, last = value.split()
        start, end = float(first), float(last)
    except ValueError:
        raise UserError(f"{path}: {utt}: expected `recording start end`, not {value[:60]!r}") from None
    if not 0 <= start < end < LONGEST:
        raise UserError(f"{path}: {utt} has start {first} and end {last}: 0 <= start < end must hold")
    return recording, start, end


def _check_speed(table: SortedTable) -> None:
    for utt, value in table:
        try:
            speed = float(value)
        except ValueError:
            raise UserError(f"{table.path}: {utt}: {value[:60]!r} is not a speed factor") from None
        if not SPEEDS[0] <= speed <= SPEEDS[1]:
            limits = f"from {SPEEDS[0]} to {SPEEDS[1]}"
            raise UserError(f"{table.path}: {utt}: a speed factor is {limits}, not {value}")


def _check_channel(table: SortedTable) -> None:
    for utt, value in table:
        if not value.isdecimal() or len(value) > 6:
            raise UserError(
                f"{table.path}: {utt}: {value[:60]!r} is not the number of one channel, counted from 0"
            )


def _check_subset(table: SortedTable, speaker: SortedTable) -> None:
    unknown = (utt for utt, side in unshared_keys(table.ids(), speaker.ids()) if side == 0)
    if (first := next(unknown, None)) is not None:
        count = 1 + sum(1 for _ in unknown)
        more = f" ({count} such ids)" if count > 1 else ""
        raise UserError(f"{table.path}: {first} is not in utt2spk{more}: correct or remove it")


def check_id(where: str | Path, name: str) -> None:
    """Refuse an id that cannot be both a key of a Kaldi table and a file name."""
    if PLAIN_ID.fullmatch(name):  # most ids, and much faster
        return
    if not name or name.startswith(".") or "/" in name or has_odd_characters(name):
        raise UserError(
            f"{where}: {name!r} cannot be an id: no spaces, slashes or control characters, no dot in front"
        )


def write_data_dir(
    dst: str | Path, utterances: Iterable[Utterance], extra_files: Mapping[str, bytes] | None = None
) -> int:
    """Write a data directory, sorted as Kaldi sorts; it appears when it is complete.

    Args:
        dst: the directory.
        utterances: in any order; they are not kept in memory, but the paths of their recordings are.
        extra_files: name -> content of further files, such as a reference for another scorer.

    Returns:
        The number of utterances.

    Raises:
        UserError: there are no utterances, an id is invalid or occurs twice, only some utterances have
            segments or transcripts, or ``dst`` is a directory of another kind.
    """
    dst = Path(dst)
    kinds: dict[str, set[bool]] = {"segmented": set(), "labelled": set()}
    recordings: dict[str, str] = {}
    lines = sort_lines(_checked_lines(dst, utterances, kinds, recordings))
    first = next(lines, None)  # all utterances have been checked then
    if first is None:
        raise UserError(f"{dst} would have no utterances")
    if len(kinds["segmented"]) > 1:
        raise UserError(f"{dst}: some utterances are segments of recordings and some are whole files")
    if len(kinds["labelled"]) > 1:
        raise UserError(f"{dst}: some utterances have a transcript and some have none")
    with new_data_dir(dst) as tmp:
        rows = _rows_of_lines(dst, chain([first], lines), whole=not recordings)
        count = write_columns(tmp, ("wav.scp", "text", "utt2spk", *OPTIONAL), rows)
        if recordings:
            write_rows(tmp / "wav.scp", rows_of(recordings))
        write_rows(tmp / "spk2utt", spk2utt_rows(SortedTable(tmp / "utt2spk")))
        for name in ("text", *OPTIONAL):
            if not (tmp / name).stat().st_size:
                (tmp / name).unlink()
        for name, content in (extra_files or {}).items():
            (tmp / name).write_bytes(content)
    return count


def _checked_lines(
    dst: Path, utterances: Iterable[Utterance], kinds: dict[str, set[bool]], recordings: dict[str, str]
) -> Iterator[str]:
    """Yield each utterance as id and JSON; note in ``kinds`` and ``recordings`` what they have."""
    for u in utterances:
        check_id(dst, u.id)
        check_id(dst, u.speaker)
        kinds["segmented"].add(u.recording is not None)
        kinds["labelled"].add(u.text is not None)
        audio = str(u.audio)
        if u.recording is not None and recordings.setdefault(u.recording, audio) != audio:
            raise UserError(
                f"{dst}: recording {u.recording} has two files, {recordings[u.recording]} and {audio}"
            )
        segment = None if u.recording is None else format_segment(u.recording, u.start, u.end)
        speed = None if u.speed == 1 else f"{u.speed:g}"
        yield f"{u.id} {json.dumps([audio, u.text, u.speaker, segment, speed, u.channel])}"


def _rows_of_lines(dst: Path, lines: Iterable[str], whole: bool) -> Iterator[tuple[str, list[object]]]:
    last, audio = "", ""
    for line in lines:
        utt, _, content = line.partition(" ")
        values = json.loads(content)
        if utt == last:
            raise UserError(f"{dst}: two utterances have the id {utt} ({audio} and {values[0]})")
        last, audio = utt, values[0]
        yield utt, values if whole else [None, *values[1:]]


def format_segment(recording: str | None, start: Seconds | None, end: Seconds | None) -> str:
    """Return the value of a row of ``segments``."""
    assert recording is not None and start is not None and end is not None
    return f"{recording} {round(start, 6)} {round(end, 6)}"


@contextmanager
def new_data_dir(dst: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes the data directory ``dst`` if the block succeeds.

    Raises:
        UserError: ``dst`` is a directory of another kind.
    """
    if dst.is_dir() and any(dst.iterdir()) and not (dst / "wav.scp").exists():
        raise UserError(f"{dst} has files but is not a data directory: choose another name")
    with atomic_dir(dst) as tmp:
        yield tmp


def merge_sorted(path: Path, copies: Iterable[Iterator[Row]]) -> Iterator[Row]:
    """Yield the rows of several sorted tables in the order of their keys.

    The keys of one table often follow each other, because copies have prefixes. So a table is read on until
    its key comes after the next key of another.

    Args:
        path: where the tables are from, for messages.
        copies: the rows of each table.

    Raises:
        UserError: two tables have a key in common.
    """
    waiting = [(key, value, rows) for rows in copies for key, value in islice(rows, 1)]
    waiting.sort(key=itemgetter(0), reverse=True)
    while waiting:
        key, value, rows = waiting.pop()
        limit = waiting[-1][0] if waiting else None
        if key == limit:
            raise UserError(
                f"{path}: two utterances or speakers would have the name {key}: rename one of them"
            )
        yield key, value
        for key, value in rows:
            if limit is not None and key >= limit:
                waiting.append((key, value, rows))
                waiting.sort(key=itemgetter(0), reverse=True)
                break
            yield key, value


def lock_data_dirs(dst: Path) -> AbstractContextManager[None]:
    """Lock the directory of the data directories of a corpus for this process.

    Raises:
        UserError: another process is preparing a corpus there.
    """
    busy = f"another run prepares data in {dst}: wait for it, or stop it"
    place = dst.resolve()  # because "." has no name
    if place.is_dir() and not os.access(place.parent, os.W_OK):
        return locked(place, busy)
    # kd.sh holds the lock .data.lock at the same time
    return lock_file(place.with_name(f".{place.name}.preparing.lock"), busy)
