"""``espnet-kd format``: write the audio of a data directory into dump/.

It is one file per utterance, or archives of many (see ``archives.py``), which a corpus of more than a
million utterances needs; ``--feats_type raw_copy`` leaves files that can be used as they are where they are.
An audio file under its final name is complete, so that a run resumes after an interruption.
wav.scp is written last and marks the directory as complete. ``data/settings.json``, and for single files
``data/.sources.json``, record the content of the source audio and how it was cut and converted.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import batched
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data import archives
from espnet_kd.data.audio import (
    CONTAINERS,
    finished_samples,
    parse_rate,
    rate_of,
    samples_in_place,
    write_utterance,
)
from espnet_kd.data.contents import FingerprintCache
from espnet_kd.data.datadir import DataDir, Utterance, parse_segment, read_data_dir
from espnet_kd.data.dump import spread_over
from espnet_kd.data.pool import in_processes
from espnet_kd.data.tables import SortedTable, spk2utt_rows
from espnet_kd.errors import UserError
from espnet_kd.files import LOCK, atomic_path, locked, read_json, write_rows, write_text

FORMATS = (*CONTAINERS, *(f"{name}{archives.ARK}" for name in CONTAINERS))
MANY = 1_000_000  # files; more slow down any file system, and their list fills the memory
SETTINGS = "settings.json"
SOURCES, CONTENTS = (
    ".sources.json",
    ".contents.json",
)  # fingerprints of the source audio, by utterance and by file
ODD_SPACES = re.compile(r"[^\S ]|  ")
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
TABLES = ("text", "utt2spk", "spk2utt", "utt2num_samples", "feats_type", "audio_format", "wav.scp")
LOOKED_AT = 100  # audio files, for their sampling rates
TOGETHER = 8  # files that a process writes before it gives notice

Made = tuple[str, tuple[int, str]]  # utterance, its number of samples and its entry of wav.scp


@dataclass(frozen=True, slots=True)
class Job:
    """One file to write."""

    utterance: Utterance
    target: Path


def main(argv: list[str] | None = None) -> None:
    """Run ``format [--nj N] [--fs 16k] [--audio_format flac] [--unlabelled | --scored] SRC DST``."""
    parser = command_parser("format")
    parser.add_argument("src", type=Path, help="data directory")
    parser.add_argument("dst", type=Path, help="dump directory to write")
    parser.add_argument("--nj", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--fs", default="16k", help="sampling rate (default: %(default)s)")
    parser.add_argument(
        "--audio_format",
        choices=FORMATS,
        default="flac",
        help="one file per utterance, or .ark: archives of a thousand (default: %(default)s)",
    )
    parser.add_argument(
        "--feats_type",
        choices=("raw", "raw_copy"),
        default="raw",
        help="raw_copy: leave wav and flac files that can be used as they are in their places (default: raw)",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--unlabelled", action="store_true", help="the speech has no transcripts")
    kind.add_argument(
        "--scored", action="store_true", help="the directory is a test set: refuse empty transcripts"
    )
    args = parser.parse_args(argv)
    if args.src.resolve() == args.dst.resolve():
        raise UserError(f"{args.src} cannot be formatted into itself: give another directory")
    fs = parse_rate(args.fs)
    source = read_data_dir(args.src, labelled=not args.unlabelled)
    _report_transcripts(source, args)
    _report_rates(source, args.dst, fs)
    if not args.audio_format.endswith(archives.ARK) and len(source.speaker) > MANY:
        print(
            f"warning: {len(source.speaker)} files are slow to write and to list: give --audio_format "
            f"{args.audio_format}{archives.ARK} for archives",
            file=sys.stderr,
        )
    with locked(args.dst / "data", f"another run is writing audio into {args.dst}: wait for it, or stop it"):
        in_place = args.feats_type == "raw_copy"
        samples, clipped = format_data_dir(source, args.dst, args.nj, fs, args.audio_format, in_place)
    if clipped:
        print(f"warning: {args.dst}: {clipped} samples were clipped", file=sys.stderr)
    print(f"{args.dst}: {len(source.speaker)} utterances, {samples / fs / 3600:.2f} hours")


def _report_transcripts(source: DataDir, args: argparse.Namespace) -> None:
    """Check the transcripts, and print how many of them ``plain_text`` changes.

    Raises:
        UserError: one has a control character, or is empty in a test set.
    """
    respaced = empty = 0
    first = ""
    for utt, words in source.text or ():
        if ODD_SPACES.search(words):
            respaced += 1
            words = " ".join(words.split())
        if found := CONTROL_CHARACTER.search(words):
            raise UserError(
                f"{source.path}/text: the transcript of {utt} has a control character, {found[0]!r}"
            )
        if not words:
            empty, first = empty + 1, first or utt
    if args.scored and empty:
        raise UserError(
            f"{args.src}/text: {first} has no words ({empty} in all), so the test set "
            "cannot be scored: transcribe the utterance, or remove it"
        )
    if respaced:
        print(
            f"warning: {args.dst}/text: tabs, special spaces, such as U+00A0, and several spaces in a row of "
            f"{respaced} transcripts were replaced by single plain spaces",
            file=sys.stderr,
        )


def _report_rates(source: DataDir, dst: Path, fs: int) -> None:
    """Look at some audio files, and print how many have a lower sampling rate than they will get."""
    places = set(spread_over(len(source.wav), LOOKED_AT))
    found = [rate_of(wav, name) for place, (name, wav) in enumerate(source.wav) if place in places]
    low = [rate for rate in found if rate is not None and rate < fs]
    if low:
        print(
            f"{dst}: of {len(found)} audio files looked at, {len(low)} with a sampling rate below {fs} Hz "
            f"(the lowest {min(low)} Hz): they are resampled, and stay without sound above half their rate"
        )


def plain_text(text: SortedTable) -> Iterator[tuple[str, str]]:
    """Yield the transcripts with one plain space between words.

    With character tokens ESPnet maps every other space to the unknown token, and two spaces to two tokens. Of
    several spaces, stage 3 of asr.sh leaves one, too (Kaldi's apply_map.pl).
    """
    return ((utt, " ".join(words.split()) if ODD_SPACES.search(words) else words) for utt, words in text)


def format_data_dir(
    source: DataDir, dst: Path, nj: int, fs: int, audio_format: str, in_place: bool = False
) -> tuple[int, int]:
    """Write the audio and the tables of a dump directory.

    Args:
        in_place: leave files that can be used as they are where they are.

    Returns:
        The number of samples, and of clipped samples.

    Raises:
        UserError: the audio of an utterance cannot be used; names utterance and file. Files that are complete
            are kept.
    """
    if not audio_format.endswith(archives.ARK):
        there = {u.id: (n, str(u.audio)) for u in source if in_place and (n := samples_in_place(u, fs))}
        rest = (u for u in source if u.id not in there)
        jobs = [Job(u, dst / "data" / u.speaker / f"{u.id}.{audio_format}") for u in rest]
        found, clipped = write_files(source, dst, jobs, nj, fs, audio_format)
        made = there | {j.utterance.id: (found[j.utterance.id], str(j.target)) for j in jobs}
        rows = ((utt, made[utt]) for utt, _ in source.speaker)
        return write_tables(dst, source, rows, audio_format), clipped
    count, data = len(source.speaker), dst / "data"
    paths = {path for ark in archives.archive_paths(data, count) for path in (ark, archives.index_of(ark))}
    check_settings(data, {"fs": fs, "audio_format": audio_format}, paths)
    settings = archives.Settings(fs, audio_format, dst / "wav.scp")
    written = archives.write_archives(source, data, nj, settings)
    print(f"{dst}: {count} utterances, {written} of {len(paths) // 2} archives were written", flush=True)
    samples = write_tables(dst, source, archives.read_rows(data, count), audio_format)
    return samples, archives.clipped_samples(data, count) if written else 0


def write_files(
    source: DataDir, dst: Path, jobs: list[Job], nj: int, fs: int, audio_format: str
) -> tuple[dict[str, int], int]:
    """Write the audio files that are missing or outdated.

    Returns:
        Utterance -> number of samples, and the number of samples that were clipped now.
    """
    settings = {"fs": fs, "audio_format": audio_format, "cuts": _hash_of_cuts(source)}
    check_settings(dst / "data", settings, {job.target for job in jobs})
    remove_outdated(dst / "data", jobs)
    found = {job.utterance.id: finished_samples(job.target) for job in jobs}
    todo = [job for job in jobs if found[job.utterance.id] is None]
    samples = {utt: n for utt, n in found.items() if n is not None}
    clipped = 0
    print(f"{dst}: {len(jobs)} utterances, {len(todo)} to write", flush=True)
    if todo:
        (dst / "wav.scp").unlink(missing_ok=True)
    work = partial(_work, fs=fs, audio_format=audio_format)
    parts = list(batched(todo, TOGETHER))
    results = (pair for part in in_processes(work, parts, nj, len(parts)) for pair in part)
    for job, (n, clips) in zip(todo, results, strict=True):
        samples[job.utterance.id] = n
        clipped += clips
    return samples, clipped


def _hash_of_cuts(source: DataDir) -> str:
    """Return the SHA-256 of segments, speeds and channels as JSON."""
    segments = {u: parse_segment(source.path, u, value) for u, value in source.segments or ()}
    tables: list[dict[str, Any]] = [segments, {utt: float(value) for utt, value in source.speed or ()}]
    if source.channel:
        tables.append({utt: int(value) for utt, value in source.channel})
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()


def check_settings(data: Path, settings: dict[str, Any], targets: set[Path]) -> None:
    """Remove audio that was written with other settings, for other utterances, or incompletely.

    Args:
        data: directory of the audio.
        settings: that all its files depend on.
        targets: files that belong there.

    Raises:
        UserError: ``data`` holds files that ``format`` has not written.
    """
    marker = data / SETTINGS
    ours = {data / name for name in (SETTINGS, SOURCES, CONTENTS, LOCK)}
    present = [p for p in data.rglob("*") if not p.is_dir() and p not in ours]
    if not marker.exists() and not all(p.name.startswith(".") for p in present):
        raise UserError(f"{data} holds other files: choose another directory")
    same = marker.exists() and _read_settings(marker) == settings
    for path in present:
        if not same or path not in targets:
            (data.parent / "wav.scp").unlink(missing_ok=True)
            path.unlink()
    if not same:
        write_text(marker, json.dumps(settings) + "\n")
    for path in [p for name in TABLES for p in data.parent.glob(f".{name}.*")]:  # left by a killed run
        path.unlink()
    for path in data.iterdir():
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def remove_outdated(data: Path, jobs: list[Job]) -> None:
    """Remove audio whose source has changed, and record the fingerprints of all sources.

    The record is written before any audio, so that it is right for what a killed run leaves. A source that no
    longer exists counts as unchanged. Times of files are not compared, because archives set them.
    """
    cache = FingerprintCache(data / CONTENTS)
    found = cache.fingerprints(str(job.utterance.audio) for job in jobs)
    try:
        made_of = json.loads((data / SOURCES).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        made_of = {}
    made_of = made_of if isinstance(made_of, dict) else {}
    now = {j.utterance.id: found.get(str(j.utterance.audio), made_of.get(j.utterance.id, "")) for j in jobs}
    for job in jobs:
        if now[job.utterance.id] != made_of.get(job.utterance.id, "") and job.target.exists():
            (data.parent / "wav.scp").unlink(missing_ok=True)
            job.target.unlink()
    if now != made_of:
        write_text(data / SOURCES, json.dumps(now, ensure_ascii=False) + "\n")
    cache.save()


def _read_settings(marker: Path) -> dict[str, Any] | None:
    """Read with which settings the audio was written; None if the file is damaged."""
    try:
        return read_json(marker)
    except UserError as e:
        print(f"warning: {e}: the audio is written again", file=sys.stderr)
        return None


def write_tables(dst: Path, source: DataDir, made: Iterable[Made], audio_format: str) -> int:
    """Write the tables, wav.scp last, and return the number of samples of all utterances."""
    if source.text is not None:
        write_rows(dst / "text", plain_text(source.text))
    else:
        (dst / "text").unlink(missing_ok=True)
    write_rows(dst / "utt2spk", source.speaker)
    write_rows(dst / "spk2utt", spk2utt_rows(source.speaker))
    total = 0
    with atomic_path(dst / "wav.scp") as places, places.open("w", encoding="utf-8") as f:

        def samples() -> Iterator[tuple[str, int]]:
            nonlocal total
            for utt, (count, place) in made:
                f.write(f"{utt} {place}\n")
                total += count
                yield utt, count

        write_rows(dst / "utt2num_samples", samples())
        f.flush()
        for name, value in (("feats_type", "raw"), ("audio_format", audio_format)):
            write_text(dst / name, f"{value}\n")
    return total


def _work(jobs: tuple[Job, ...], fs: int, audio_format: str) -> list[tuple[int, int]]:
    return [write_utterance(job.utterance, job.target, fs, audio_format) for job in jobs]
