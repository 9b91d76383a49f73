"""``espnet-kd targets``: compute the targets that a training needs, and write them to a store on disk.

The configuration of the training decides what is stored: for criteria of type topk the classes that they
need, for all others whole vectors. Shards that exist are not computed again, so that an interrupted command
can be repeated. ``--verify`` checks every record of a store, and that the audio has not changed since.
``--estimate`` says what a store would cost.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, get_args

from espnet_kd import parallel
from espnet_kd.command_line import command_parser, path_text
from espnet_kd.config import merge_files
from espnet_kd.data.tables import Lookup
from espnet_kd.errors import UserError, printable
from espnet_kd.files import fingerprint
from espnet_kd.targets.format import (
    INDEX,
    OUTPUT_LAYER,
    Cost,
    Manifest,
    Number,
    ShardEntry,
    TapFormat,
    audio_checksum,
    damage,
    read_cost,
    read_index,
    write_output_layer,
)
from espnet_kd.targets.store import Store, verify

SHOWN = 20  # problems at most
MOST_CODEBOOKS = 64
GPU_SECONDS = 240.0  # of audio at a time


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command's options."""
    p = command_parser("targets")
    p.add_argument(
        "--store", type=path_text, help="directory of the targets (default: teacher.store of --config)"
    )
    p.add_argument("--verify", action="store_true", help="only check --store, and the audio of --data")
    p.add_argument(
        "--estimate", action="store_true", help="only tell what the targets will take: disk, time, memory"
    )
    p.add_argument("--if_configured", action="store_true", help="do nothing if --config has no teacher.store")
    # The name of earlier versions.
    p.add_argument("--if_wanted", action="store_true", dest="if_configured", help=argparse.SUPPRESS)
    p.add_argument("--config", nargs="+", type=Path, default=[], help="of the training, with its criteria")
    p.add_argument(
        "--teacher", type=path_text, nargs="+", help="trained experiments (default: those of --config)"
    )
    p.add_argument(
        "--generation", type=int, default=1,
        help="from 2 on, --teacher replaces those of --config, which are refused before (default: 1)",
    )  # fmt: skip
    p.add_argument("--data", nargs="+", type=Path, default=[], help="formatted directories: training, dev")
    p.add_argument("--k", type=int, help="classes to keep (default: teacher.k, or as many as are needed)")
    p.add_argument(
        "--codebooks", type=int, default=8, help="of a quantiser, for criteria of type mvq (default: 8)"
    )
    p.add_argument(
        "--number", choices=get_args(Number), default="float16",
        help="type of log-probabilities and vectors (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="1: workers run on GPUs (default: 0)")
    p.add_argument(
        "--batch_seconds", type=float, metavar="S",
        help="audio, padding included, that teachers get at a time; 0: one utterance, whose targets then do "
        "not depend on the padding of others (default: 0, with --ngpu 1 240)",
    )  # fmt: skip
    g = p.add_argument_group("parallel work")
    g.add_argument("--cluster", default="local", help="local, or YAML of a Dask cluster (default: local)")
    g.add_argument("--workers", type=int, help="processes, one thread each (default: cores or GPUs)")
    g.add_argument("--shards", type=int, help=f"default: one for {parallel.PER_SHARD} utterances")
    return p


def main(argv: list[str] | None = None) -> None:
    """Write the missing part of a store, or verify a store."""
    args = parser().parse_args(argv)
    if args.verify:
        if args.estimate:
            raise UserError("--verify is for a store that is there, --estimate for one that is not: give one")
        if args.store is None:
            raise UserError("--verify needs --store DIR")
        check(Store(args.store), args.data)
        return
    if not args.config or not args.data:
        raise UserError("give --config YAML of the training and --data DIR of its speech")
    if not args.if_configured or asks_for_store(args):
        (estimate if args.estimate else make)(args)


def asks_for_store(args: argparse.Namespace) -> bool:
    """Return True if the options or the configuration name a store and a teacher to make it with."""
    teacher = merge_files(args.config).get("teacher")
    given = set(teacher) if isinstance(teacher, dict) else set()
    return (args.store is not None or "store" in given) and (args.teacher is not None or given > {"store"})


def check(store: Store, data: Sequence[Path] = ()) -> None:
    """Check every record of a store, and that the targets were computed from this speech.

    Args:
        store: the store.
        data: data directories, perhaps with a part of the utterances; by default those that the store was
            made from, if they exist.

    Raises:
        UserError: there is a problem; the first ones are printed.
    """
    problems = 0
    made_of = [store.directory / d["directory"] for d in store.manifest.settings.get("data", ())]
    places = list(data) or (made_of if all((p / "wav.scp").is_file() for p in made_of) else [])
    for problem in chain(verify(store), check_speech(store, places, part=bool(data)) if places else ()):
        problems += 1
        if problems <= SHOWN:
            print(printable(problem))
    manifest = store.manifest
    if problems:
        raise UserError(f"{store.directory}: {problems} problems in {manifest.utterances} utterances")
    aside = "" if places else "; the audio was not found and not compared: give --data"
    size = f"{manifest.utterances} utterances, {manifest.hours:.2f} hours"
    print(f"{store.directory}: {size}, no problem{aside}")


def check_speech(store: Store, places: Sequence[Path], part: bool) -> Iterator[str]:
    """Yield a line for each difference between a store and the speech in data directories.

    Args:
        store: the store.
        places: data directories.
        part: whether the store may have more utterances than the directories.
    """
    from espnet_kd.targets.utterances import read_data

    try:
        data = read_data(places, with_text=False)
    except UserError as e:
        yield str(e)
        return
    where = " and ".join(map(str, places))
    speech = Lookup((utt, wav) for utt, (wav, _) in data)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for shard in store.manifest.shards:
            try:
                entries = store.entries(shard)
            except UserError:  # `verify` reports it
                continue
            wavs = {utt: speech.get(utt) for utt in sorted(entries)}
            foreign = (utt for utt, wav in wavs.items() if wav is None and not part)
            yield from (f"{store.directory}: {utt} is not in {where}" for utt in foreign)
            shared = {utt: wav for utt, wav in wavs.items() if wav is not None}
            for utt, found in zip(shared, pool.map(_audio_of, shared, shared.values()), strict=True):
                if isinstance(found, str):
                    yield found
                elif entries[utt].audio not in (None, found):
                    yield f"{store.directory}: the targets of {utt} are of other audio than {shared[utt]}"
    absent = (utt for utt, _ in data if utt not in store)
    yield from (f"{store.directory} has no targets of {utt} of {where}" for utt in absent)


def _audio_of(utt: str, wav: str) -> int | str:
    """Compute the checksum of an utterance's audio; return a message if it cannot be read."""
    from espnet_kd.data.audio import read_speech

    try:
        return audio_checksum(read_speech(wav, utt)[0])
    except UserError as e:
        return str(e)


def estimate(args: argparse.Namespace) -> None:
    """Run the teachers on a few utterances, print what all targets will take, and write nothing.

    Raises:
        UserError: configuration, teachers or data are unusable.
    """
    from espnet_kd.targets import worker

    args.store = args.store or "none"  # which is not looked at
    asked, data = _asked(args)
    where = parallel.parse_cluster(args.cluster, args.workers, bool(args.ngpu))
    asked_for = "cuda" if args.ngpu else "cpu"
    device = parallel.device_here(asked_for)
    with tempfile.TemporaryDirectory() as empty:
        spec = worker.spec(asked.teacher, asked.taps, asked.rate, device, batch_seconds_of(args), empty)
        observer = worker.load(spec)
        observer.untrained(data)
        expected = worker.estimate(data, observer)
    line = f"{expected.line(where.workers)}, {worker.peak_memory(device)} each{_by_cpu(device, asked_for)}"
    print(f"{len(data)} utterances: {line}")


def _by_cpu(here: str, device: str) -> str:
    """Return a remark on an estimate that is not of the device of the workers; else nothing."""
    return "" if here == device else "; measured on the CPU, since this machine has no GPU"


def _asked(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the plan of a store and its utterances."""
    from espnet_kd.targets.plan import needs_text, plan
    from espnet_kd.targets.utterances import read_data

    if not 1 <= args.codebooks <= MOST_CODEBOOKS:
        raise UserError(f"--codebooks is {args.codebooks}: give a number from 1 to {MOST_CODEBOOKS}")
    asked = plan(args)
    return asked, read_data(args.data, needs_text(asked.taps))


def make(args: argparse.Namespace) -> Store:
    """Write the missing shards of a store, then its manifest.

    Raises:
        UserError: configuration, teachers or data are unusable, or the directory holds another store.
    """
    from espnet_kd.targets import worker  # imports ESPnet, which takes seconds
    asked, data = _asked(args)
    where = parallel.parse_cluster(args.cluster, args.workers, bool(args.ngpu))
    directory, device = Path(str(asked.teacher.store)), "cuda" if args.ngpu else "cpu"
    settings = asked.settings(data, device)
    batch_seconds = batch_seconds_of(args)
    if batch_seconds:
        settings["batch_seconds"] = batch_seconds
    if (there := _served(directory, asked, settings)) is not None:
        print(f"{directory}: already there, {_summary(there.manifest)}")
        return there
    paths = parallel.shard_paths(
        directory.resolve(), parallel.number_of_shards(len(data), args.shards), suffix=""
    )
    with parallel.lock_shards(directory, {**settings, "shards": len(paths)}, "targets"):
        todo = {path for path in paths if not path.exists()}
        print(f"{directory}: {len(paths)} shards, {len(todo)} to make", flush=True)
        place = str(directory.resolve())
        spec = worker.spec(asked.teacher, asked.taps, asked.rate, device, batch_seconds, place)
        here = replace(spec, device=parallel.device_here(device))
        started = time.perf_counter()
        quantisers = worker.make_quantisers(data, here) if "quantiser" in settings else {}
        if todo:
            expected = worker.estimate(data, worker.load(here))
            worker.check_room(directory, expected.size * len(todo) / len(paths))
            line = f"{expected.line(where.workers)}{_by_cpu(here.device, device)}"
            print(f"{directory}: expected for all: {line}", flush=True)
        if not where.is_here:
            worker.release()
        work = partial(worker.work, spec=spec)
        # Without a record of the shards that are there, that of the others would be too small.
        cost = read_cost(directory) or (Cost() if len(todo) == len(paths) else None)
        missing = (shard for shard in parallel.divide(data, len(data), paths) if shard.path in todo)
        for number, shard in enumerate(parallel.process_shards(missing if todo else (), work, where), 1):
            if cost is not None:
                cost = Cost(cost.cpu_seconds + shard.cpu_seconds, cost.seconds + shard.seconds)
                cost.write(directory)
            done = f"{len(shard.utterances)} utterances, {number} of {len(todo)} shards"
            print(f"{shard.path.name}: {done}", flush=True)
        planned = parallel.divide(data, len(data), paths)
        manifest = replace(_manifest(directory, planned, asked, data, settings), quantisers=quantisers)
        manifest.write(directory)
    took = time.perf_counter() - started
    print(f"{directory}: made in {took:.1f} s, {_summary(manifest)}")
    return Store(directory)


def batch_seconds_of(args: argparse.Namespace) -> float:
    """Return the seconds of audio that teachers get at a time.

    Raises:
        UserError: the option is no number from 0 up.
    """
    if args.batch_seconds is None:
        return GPU_SECONDS if args.ngpu else 0.0
    seconds = float(args.batch_seconds)
    if not 0 <= seconds < float("inf"):
        raise UserError(
            f"--batch_seconds is {seconds:g}: give a number of seconds, 0 for one utterance at a time"
        )
    return seconds


def _served(directory: Path, asked: Any, settings: dict[str, Any]) -> Store | None:
    """Open a complete store in `directory` if it serves the request; else return None.

    It may have more than is asked for, but must be of the same teachers and data.

    Raises:
        UserError: the store was written by another version of espnet_kd.
    """
    from espnet_kd.targets.fit import mismatch, unserved
    from espnet_kd.targets.format import MANIFEST, OtherFormatError

    if not (directory / MANIFEST).exists():
        return None
    try:
        store = Store(directory)
    except OtherFormatError:
        raise
    except UserError:  # its shards may be complete: only the manifest will be written again
        return None
    manifest, kept = store.manifest, store.manifest.settings
    whole = manifest.output_layer is None or (directory / OUTPUT_LAYER).is_file()
    whole = whole and not any(_incomplete(directory / s.name, manifest.taps) for s in manifest.shards)
    same = kept["frontend"] == settings["frontend"] and len(kept["data"]) == len(settings["data"])
    same = same and all(d.items() <= k.items() for d, k in zip(settings["data"], kept["data"], strict=True))
    seconds = kept.get("batch_seconds", 0)  # values made one utterance at a time serve every request
    same = same and seconds in (0, settings.get("batch_seconds", 0))
    fits = mismatch(manifest, asked.teacher, asked.tokens) is None
    fits = fits and unserved(manifest, asked.terms, list(asked.taps)) is None
    for path, tap in asked.taps.items() if fits else ():
        there = manifest.taps[path]
        fits = fits and tap.number == there.number and tap.k <= (there.k or tap.k)
        fits = fits and (tap.kind != "codes" or tap.size == there.size)
    return store if whole and same and fits else None


def _incomplete(path: Path, taps: Mapping[str, TapFormat]) -> bool:
    """Return True if a shard has no index, or lacks a part of its rows."""
    try:
        return any(damage(path, read_index(path / INDEX, list(taps)), taps))
    except UserError:
        return True


def _manifest(
    directory: Path, planned: Iterable[parallel.Shard], asked: Any, data: Any, settings: dict[str, Any]
) -> Manifest:
    """Make the manifest of complete shards.

    Raises:
        UserError: a shard has other utterances than planned, or lacks files.
    """
    from espnet_kd.targets.worker import size_of

    entries, samples = [], 0
    for shard in planned:
        name = str(shard.path.relative_to(directory.resolve()))
        path = directory / name / INDEX
        index = read_index(path, list(asked.taps))
        again = f"remove {path.parent} and repeat the command"
        if problem := next(damage(path.parent, index, asked.taps), None):
            raise UserError(f"{problem}: {again}")
        pairs = zip_longest(index, (utt for utt, _ in shard.utterances))
        for found, expected in (pair for pair in pairs if pair[0] != pair[1]):
            raise UserError(
                f"{path.parent} has {found or 'nothing'} where {expected or 'nothing'} is planned: it was "
                f"made from other data or is incomplete; {again}"
            )
        samples += sum(entry.samples for entry in index.values())
        entries.append(ShardEntry(name, shard.utterances[0][0], len(index), fingerprint(path)))
    names = [source.name for source in asked.teacher.sources]
    teachers = [{"experiment": n, **t} for n, t in zip(names, settings["teachers"], strict=True)]
    rest: dict[str, Any] = {
        key: settings[key]
        for key in ("mean", "data", "frontend", "device", "batch_seconds", "quantiser")
        if key in settings
    }
    sources = (os.path.relpath(source.path, directory) for source in data.sources)
    rest["data"] = [{"directory": p, **d} for p, d in zip(sources, rest["data"], strict=True)]
    size = sum(size_of(directory / entry.name) for entry in entries)
    layer = None
    if asked.output_layer is not None:
        layer = write_output_layer(directory, asked.output_layer)
        size += (directory / OUTPUT_LAYER).stat().st_size
    return Manifest(
        tuple(teachers),
        settings["tokens"],
        rest,
        asked.taps,
        asked.probe,
        asked.rate,
        tuple(entries),
        samples,
        size,
        layer,
        asked.long_probe,
        tuple(asked.tokens),
        asked.blank,
    )


def _summary(manifest: Manifest) -> str:
    """Describe the size of a store in one line."""
    from espnet_kd.targets.worker import megabytes

    rate = manifest.size / 1e6 / manifest.hours
    size = f"{megabytes(manifest.size)} ({rate:.2f} MB per hour of speech)"
    return f"{manifest.utterances} utterances, {manifest.hours:.2f} hours, {size}"
