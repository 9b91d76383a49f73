"""Read and write Kaldi data directories.

They have ``wav.scp, utt2spk, spk2utt[, text][, segments][, utt2speed][, utt2ref_channels]``.
``utt2ref_channels`` is ESPnet's table of that name (``format_wav_scp.sh --utt2ref_channels``): the channel of
the audio that holds the utterance, counted from 0. So both sides of a call name the same file, without pipes.
"""

import heapq
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, has_odd_characters, lock_file, locked, read_table, rows_of, write_rows

Seconds = float
Row = tuple[str, object]  # key and value of a table
LONGEST: Seconds = 1e9
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
    """The tables of a data directory; all but ``wav`` are keyed by utterance.

    Attributes:
        wav: recording -> audio path; utterance -> audio path if ``segments`` is empty.
        text: empty in a directory without transcripts.
        segments: (recording, start, end); empty if every utterance is a whole file.
        speed: factors other than 1.
        channel: counted from 0; empty if the audio has one channel.
    """

    path: Path
    wav: dict[str, str]
    text: dict[str, str]
    speaker: dict[str, str]
    segments: dict[str, tuple[str, Seconds, Seconds]]
    speed: dict[str, float]
    channel: dict[str, int]

    def __iter__(self) -> Iterator[Utterance]:
        for utt, speaker in self.speaker.items():
            recording, start, end = self.segments.get(utt, (None, None, None))
            audio = Path(self.wav[recording or utt])
            speed = self.speed.get(utt, 1.0)
            channel = self.channel.get(utt)
            text = self.text.get(utt)
            yield Utterance(utt, speaker, audio, text, recording, start, end, speed, channel)


def read_data_dir(path: str | Path, labelled: bool = True) -> DataDir:
    """Read a data directory and check that its tables have the same ids.

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
    wav, speaker = (read_table(path / name) for name in ("wav.scp", "utt2spk"))
    text = read_table(path / "text") if labelled else {}
    segments = _read_segments(path / "segments")
    if labelled:
        check_same_keys(path, {"utt2spk": speaker, "text": text})
    for utt, name in speaker.items():
        if not name:
            raise UserError(f"{path}/utt2spk: {utt} has no speaker")
        check_id(path / "utt2spk", utt)
        check_id(path / "utt2spk", name)
    if segments:
        check_same_keys(path, {"utt2spk": speaker, "segments": segments})
        _check_recordings(path, wav, segments)
    else:
        check_same_keys(path, {"utt2spk": speaker, "wav.scp": wav})
    for key, value in wav.items():
        if value.endswith("|"):
            raise UserError(f"{path}/wav.scp: {key} is a pipe, which is not run: give the path of a file")
        if not value:
            raise UserError(f"{path}/wav.scp: {key} has no path")
    if not speaker:
        raise UserError(f"{path} has no utterances")
    speeds, channels = _read_speeds(path / "utt2speed"), _read_channels(path / "utt2ref_channels")
    for name, table in (("utt2speed", speeds), ("utt2ref_channels", channels)):
        if unknown := table.keys() - speaker.keys():
            more = f" ({len(unknown)} such ids)" if len(unknown) > 1 else ""
            raise UserError(f"{path}/{name}: {min(unknown)} is not in utt2spk{more}: correct or remove it")
    return DataDir(path, wav, text, speaker, segments, speeds, channels)


def validate_data_dir(path: str | Path) -> int:
    """Check a data directory as ``read_data_dir`` does, and return the number of utterances."""
    return len(read_data_dir(path).speaker)


def _read_segments(path: Path) -> dict[str, tuple[str, Seconds, Seconds]]:
    segments = {}
    for utt, value in (read_table(path) if path.exists() else {}).items():
        try:
            recording, start, end = value.split()
            segments[utt] = (recording, float(start), float(end))
        except ValueError:
            raise UserError(f"{path}: {utt}: expected `recording start end`, not {value[:60]!r}") from None
        if not 0 <= float(start) < float(end) < LONGEST:
            raise UserError(f"{path}: {utt} has start {start} and end {end}: 0 <= start < end must hold")
    return segments


def _check_recordings(path: Path, wav: Mapping[str, str], segments: Mapping[str, tuple[Any, ...]]) -> None:
    for utt, (recording, *_) in segments.items():
        if recording not in wav:
            raise UserError(f"{path}: {utt} is a segment of {recording}, which is not in wav.scp")


def _read_speeds(path: Path) -> dict[str, float]:
    speeds = {}
    for utt, value in (read_table(path) if path.exists() else {}).items():
        try:
            speeds[utt] = float(value)
        except ValueError:
            raise UserError(f"{path}: {utt}: {value[:60]!r} is not a speed factor") from None
        if not SPEEDS[0] <= speeds[utt] <= SPEEDS[1]:
            raise UserError(f"{path}: {utt}: a speed factor is from {SPEEDS[0]} to {SPEEDS[1]}, not {value}")
    return speeds


def _read_channels(path: Path) -> dict[str, int]:
    channels = {}
    for utt, value in (read_table(path) if path.exists() else {}).items():
        if not value.isdecimal() or len(value) > 6:
            raise UserError(f"{path}: {utt}: {value[:60]!r} is not the number of one channel, counted from 0")
        channels[utt] = int(value)
    return channels


def check_id(where: str | Path, name: str) -> None:
    """Refuse an id that cannot be both a key of a Kaldi table and a file name."""
    if not name or name.startswith(".") or "/" in name or has_odd_characters(name):
        raise UserError(
            f"{where}: {name!r} cannot be an id: no spaces, slashes or control characters, no dot in front"
        )


def check_same_keys(path: Path, tables: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse tables of one directory that have different keys."""
    (first, one), *others = tables.items()
    for second, two in others:
        differing = one.keys() ^ two.keys()
        if differing:
            utt = min(differing)
            a, b = (first, second) if utt in one else (second, first)
            more = f" ({len(differing)} ids differ)" if len(differing) > 1 else ""
            raise UserError(f"{path}: {utt} is in {a} but not in {b}{more}")


def write_data_dir(
    dst: str | Path, utterances: Iterable[Utterance], extra_files: Mapping[str, bytes] | None = None
) -> None:
    """Write a data directory, sorted as Kaldi sorts; it appears when it is complete.

    Args:
        dst: the directory.
        utterances: in any order.
        extra_files: name -> content of further files, such as a reference for another scorer.

    Raises:
        UserError: there are no utterances, an id is invalid or occurs twice, only some utterances have
            segments or transcripts, or ``dst`` is a directory of another kind.
    """
    dst = Path(dst)
    by_id = _by_id(dst, utterances)
    segmented = {u.recording is not None for u in by_id.values()}
    if len(segmented) > 1:
        raise UserError(f"{dst}: some utterances are segments of recordings and some are whole files")
    labelled = {u.text is not None for u in by_id.values()}
    if len(labelled) > 1:
        raise UserError(f"{dst}: some utterances have a transcript and some have none")
    speaker = {u.id: u.speaker for u in by_id.values()}
    tables: dict[str, Mapping[str, object]] = {"wav.scp": _recordings(dst, by_id.values())}
    if True in labelled:
        tables["text"] = {u.id: u.text for u in by_id.values()}
    tables |= {"utt2spk": speaker, "spk2utt": spk2utt(speaker)}
    if True in segmented:
        tables["segments"] = {u.id: format_segment(u.recording, u.start, u.end) for u in by_id.values()}
    tables["utt2speed"] = {u.id: f"{u.speed:g}" for u in by_id.values() if u.speed != 1}
    tables["utt2ref_channels"] = {u.id: u.channel for u in by_id.values() if u.channel is not None}
    write_tables(dst, {name: rows_of(table) for name, table in tables.items() if table}, extra_files)


def _by_id(dst: Path, utterances: Iterable[Utterance]) -> dict[str, Utterance]:
    by_id: dict[str, Utterance] = {}
    for u in utterances:
        check_id(dst, u.id)
        check_id(dst, u.speaker)
        if u.id in by_id:
            raise UserError(f"{dst}: two utterances have the id {u.id} ({by_id[u.id].audio} and {u.audio})")
        by_id[u.id] = u
    if not by_id:
        raise UserError(f"{dst} would have no utterances")
    return by_id


def _recordings(dst: Path, utterances: Iterable[Utterance]) -> dict[str, Path]:
    table: dict[str, Path] = {}
    for u in utterances:
        if table.setdefault(u.recording or u.id, u.audio) != u.audio:
            first = table[u.recording or u.id]
            raise UserError(f"{dst}: recording {u.recording} has two files, {first} and {u.audio}")
    return table


def spk2utt(speaker: Mapping[str, str]) -> dict[str, str]:
    """Return the table spk2utt that belongs to a table utt2spk."""
    table: dict[str, list[str]] = {}
    for utt in sorted(speaker):
        table.setdefault(speaker[utt], []).append(utt)
    return {name: " ".join(utts) for name, utts in table.items()}


def format_segment(recording: str | None, start: Seconds | None, end: Seconds | None) -> str:
    """Return the value of a row of ``segments``."""
    assert recording is not None and start is not None and end is not None
    return f"{recording} {round(start, 6)} {round(end, 6)}"


def write_tables(
    dst: Path, tables: Mapping[str, Iterable[Row]], extra_files: Mapping[str, bytes] | None = None
) -> None:
    """Write a data directory from the sorted rows of its tables; it appears when it is complete.

    Raises:
        UserError: ``dst`` is a directory of another kind.
    """
    if dst.is_dir() and any(dst.iterdir()) and not (dst / "wav.scp").exists():
        raise UserError(f"{dst} has files but is not a data directory: choose another name")
    with atomic_dir(dst) as tmp:
        for name, rows in tables.items():
            write_rows(tmp / name, rows)
        for name, content in (extra_files or {}).items():
            (tmp / name).write_bytes(content)


def merge_sorted(path: Path, copies: Iterable[Iterator[Row]]) -> Iterator[Row]:
    """Yield the rows of several sorted tables in the order of their keys.

    Args:
        path: where the tables are from, for messages.
        copies: the rows of each table.

    Raises:
        UserError: two tables have a key in common.
    """
    last = None
    for key, value in heapq.merge(*copies):
        if key == last:
            raise UserError(
                f"{path}: two utterances or speakers would have the name {key}: rename one of them"
            )
        yield key, value
        last = key


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
