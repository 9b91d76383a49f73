"""``espnet-kd format``: write the audio of a data directory into dump/, one file per utterance.

An audio file under its final name is complete, so that a run resumes after an interruption. wav.scp is
written last and marks the directory as complete. ``data/.sources.json`` and ``data/settings.json`` record the
content of the source audio and how it was cut and converted.
"""

import hashlib
import json
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data.audio import CONTAINERS, finished_samples, parse_rate, write_utterance
from espnet_kd.data.contents import FingerprintCache
from espnet_kd.data.datadir import DataDir, Utterance, read_data_dir, spk2utt
from espnet_kd.errors import UserError
from espnet_kd.files import LOCK, atomic_path, locked, read_json, write_table

SETTINGS = "settings.json"
SOURCES, CONTENTS = (
    ".sources.json",
    ".contents.json",
)  # fingerprints of the source audio, by utterance and by file
SPECIAL_SPACE = re.compile(r"[^\S ]")
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
TABLES = ("text", "utt2spk", "spk2utt", "utt2num_samples", "feats_type", "audio_format", "wav.scp")


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
    parser.add_argument("--audio_format", choices=CONTAINERS, default="flac", help="default: %(default)s")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--unlabelled", action="store_true", help="the speech has no transcripts")
    kind.add_argument(
        "--scored", action="store_true", help="the directory is a test set: refuse empty transcripts"
    )
    args = parser.parse_args(argv)
    if args.src.resolve() == args.dst.resolve():
        raise UserError(f"{args.src} cannot be formatted into itself")
    fs = parse_rate(args.fs)
    source = read_data_dir(args.src, labelled=not args.unlabelled)
    source, respaced = with_plain_spaces(source)
    if args.scored and (empty := [utt for utt, words in source.text.items() if not words]):
        raise UserError(
            f"{args.src}/text: {empty[0]} has no words ({len(empty)} in all), so the test set "
            "cannot be scored: transcribe the utterance, or remove it"
        )
    if respaced:
        print(
            f"warning: {args.dst}/text: tabs or special spaces, such as U+00A0, of {respaced} transcripts "
            "were replaced by plain spaces",
            file=sys.stderr,
        )
    with locked(args.dst / "data", f"another run is writing audio into {args.dst}: wait for it, or stop it"):
        samples, clipped = format_data_dir(source, args.dst, args.nj, fs, args.audio_format)
    if clipped:
        print(f"warning: {args.dst}: {clipped} samples were clipped", file=sys.stderr)
    print(f"{args.dst}: {len(samples)} utterances, {sum(samples.values()) / fs / 3600:.2f} hours")


def with_plain_spaces(source: DataDir) -> tuple[DataDir, int]:
    """Replace tabs and special spaces of the transcripts by plain spaces.

    With character tokens ESPnet maps every other space to the unknown token.

    Returns:
        The data directory, and the number of transcripts that were changed.

    Raises:
        UserError: a transcript has a control character.
    """
    changed = {u: " ".join(words.split()) for u, words in source.text.items() if SPECIAL_SPACE.search(words)}
    text = source.text | changed
    for utt, words in text.items():
        if found := CONTROL_CHARACTER.search(words):
            raise UserError(
                f"{source.path}/text: the transcript of {utt} has a control character, {found[0]!r}"
            )
    return replace(source, text=text), len(changed)


def format_data_dir(
    source: DataDir, dst: Path, nj: int, fs: int, audio_format: str
) -> tuple[dict[str, int], int]:
    """Write the audio and the tables of a dump directory.

    Returns:
        Utterance -> number of samples, and the number of clipped samples.

    Raises:
        UserError: the audio of an utterance cannot be used; names utterance and file. Files that are complete
            are kept.
    """
    jobs = [Job(u, dst / "data" / u.speaker / f"{u.id}.{audio_format}") for u in source]
    check_settings(dst / "data", source, fs, audio_format, {job.target for job in jobs})
    remove_outdated(dst / "data", jobs)
    found = {job.utterance.id: finished_samples(job.target) for job in jobs}
    todo = [job for job in jobs if found[job.utterance.id] is None]
    samples = {utt: n for utt, n in found.items() if n is not None}
    clipped = 0
    print(f"{dst}: {len(jobs)} utterances, {len(todo)} to write", flush=True)
    if todo:
        (dst / "wav.scp").unlink(missing_ok=True)
    for job, (n, clips) in zip(todo, run_jobs(todo, nj, fs, audio_format), strict=True):
        samples[job.utterance.id] = n
        clipped += clips
    write_tables(dst, source, samples, {job.utterance.id: job.target for job in jobs}, audio_format)
    return samples, clipped


def check_settings(data: Path, source: DataDir, fs: int, audio_format: str, targets: set[Path]) -> None:
    """Remove audio that was written with other settings, for other utterances, or incompletely.

    Args:
        data: directory of the audio.
        source: data directory that is formatted.
        fs: sampling rate in Hz.
        audio_format: as in "flac".
        targets: audio files of ``source``.

    Raises:
        UserError: ``data`` holds files that ``format`` has not written.
    """
    tables = [source.segments, source.speed, *filter(None, [source.channel])]
    cuts = json.dumps(tables, sort_keys=True).encode()
    settings = {"fs": fs, "audio_format": audio_format, "cuts": hashlib.sha256(cuts).hexdigest()}
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
        with atomic_path(marker) as tmp:
            tmp.write_text(json.dumps(settings) + "\n")
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
        with atomic_path(data / SOURCES) as tmp:
            tmp.write_text(json.dumps(now, ensure_ascii=False) + "\n", encoding="utf-8")
    cache.save()


def _read_settings(marker: Path) -> dict[str, Any] | None:
    """Read with which settings the audio was written; None if the file is damaged."""
    try:
        return read_json(marker)
    except UserError as e:
        print(f"warning: {e}: the audio is written again", file=sys.stderr)
        return None


def run_jobs(jobs: list[Job], nj: int, fs: int, audio_format: str) -> Iterator[tuple[int, int]]:
    """Write the files; yield samples and clipped samples of each, in order."""
    work = partial(_work, fs=fs, audio_format=audio_format)
    nj = min(nj, len(jobs))
    if nj <= 1:
        yield from _progress(map(work, jobs), len(jobs))
        return
    # spawn, because a forked child would inherit locks that threads of this process hold
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(nj, context, initializer=_end_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            yield from _progress(pool.map(work, jobs, chunksize=8), len(jobs))
        except BrokenProcessPool:
            raise UserError(
                "a process was killed, perhaps for lack of memory: repeat the command to resume"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def write_tables(
    dst: Path, source: DataDir, samples: dict[str, int], targets: dict[str, Path], audio_format: str
) -> None:
    """Write the tables, wav.scp last."""
    if source.text:
        write_table(dst / "text", source.text)
    else:
        (dst / "text").unlink(missing_ok=True)
    write_table(dst / "utt2spk", source.speaker)
    write_table(dst / "spk2utt", spk2utt(source.speaker))
    write_table(dst / "utt2num_samples", samples)
    for name, value in (("feats_type", "raw"), ("audio_format", audio_format)):
        with atomic_path(dst / name) as tmp:
            tmp.write_text(f"{value}\n")
    write_table(dst / "wav.scp", targets)


def _work(job: Job, fs: int, audio_format: str) -> tuple[int, int]:
    return write_utterance(job.utterance, job.target, fs, audio_format)


def _progress(results: Iterable[tuple[int, int]], total: int) -> Iterable[tuple[int, int]]:
    """Yield the results, and show a progress bar on a terminal."""
    if not sys.stdout.isatty():
        return results
    from rich.progress import track

    return track(results, "writing audio", total)


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent is killed; without this it would wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
