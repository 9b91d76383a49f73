"""Decoded shards: whole or absent, so that a run that was killed goes on where it was.

``DIR/settings.json`` says what the shards were made with, ``DIR/00001.jsonl`` and so on hold a line for each
utterance. ``cat DIR/*.jsonl`` is the whole set, sorted by utterance, however many workers made it.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.recipe.pseudo_label.records import Record, from_json, to_json

SETTINGS = "settings.json"
PER_SHARD = 100  # utterances; what a killed worker has to do again at most

Decode = Callable[[str, str], Record]  # utterance id, audio as wav.scp names it


@dataclass(frozen=True)
class Shard:
    """Utterances that are decoded together: id, and audio as wav.scp names it."""

    path: Path
    utterances: tuple[tuple[str, str], ...]


def plan(directory: Path, wavs: Mapping[str, str], count: int | None = None) -> list[Shard]:
    """Cut the utterances, in order of their ids, into shards of equal size (give or take one).

    The number of workers is no matter, so that it may differ when the command is repeated.

    Args:
        count: number of shards; None takes one for every ``PER_SHARD`` utterances.
    """
    order = sorted(wavs)
    count = min(count or -(-len(order) // PER_SHARD), len(order))
    edges = [len(order) * i // count for i in range(count + 1)]
    return [
        Shard(directory / f"{i + 1:05d}.jsonl", tuple((u, wavs[u]) for u in order[edges[i] : edges[i + 1]]))
        for i in range(count)
    ]


@contextmanager
def claimed(directory: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Hold a directory for shards of these settings; no other run gets it meanwhile.

    Raises:
        UserError: it has shards of other settings or other files, or another run works in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write {directory}: {e.strerror}") from None
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run decodes into {directory}: wait for it, or stop it") from None
        _settle(directory, settings)
        _sweep(directory)
        yield
        _sweep(directory)


def write(shard: Shard, decode: Decode) -> Shard:
    """Decode a shard; the file appears when it is complete.

    Raises:
        UserError: an utterance cannot be decoded.
    """
    if not shard.path.exists():
        with atomic_path(shard.path) as temporary, temporary.open("w", encoding="utf-8") as f:
            for utt, wav in shard.utterances:
                f.write(to_json(decode(utt, wav)) + "\n")
    return shard


def read(directory: Path) -> Iterator[Record]:
    """All records of a directory, sorted by utterance.

    Raises:
        UserError: it has no shards, they are not complete, or a line is not one of ours.
    """
    expected = read_settings(directory)["shards"]
    paths = sorted(directory.glob("[0-9]*.jsonl"))
    if len(paths) != expected:
        raise UserError(
            f"{directory} has {len(paths)} of {expected} shards: repeat the command that makes them"
        )
    for path in paths:
        with path.open(encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                try:
                    yield from_json(line)
                except (ValueError, KeyError, TypeError):
                    raise UserError(
                        f"{path}:{number} is not a decoded utterance: remove the file and decode again"
                    ) from None


def read_settings(directory: Path) -> dict[str, Any]:
    """What the shards of a directory were made with.

    Raises:
        UserError: they have no or a damaged settings.json.
    """
    path = directory / SETTINGS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} has no decoded shards: there is no {SETTINGS}") from None
    except ValueError:
        raise UserError(f"{path} is not JSON: remove {directory} and decode again") from None


def fingerprint(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None


def _settle(directory: Path, settings: Mapping[str, Any]) -> None:
    """Make ``directory`` ready: nothing in it is of other settings or half-written."""
    present = [p for p in directory.iterdir() if not p.name.startswith(".")]
    if (directory / SETTINGS).exists():
        before = read_settings(directory)
        differing = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
        if differing:
            raise UserError(
                f"{directory} holds shards of another {' and '.join(differing)} "
                f"({_difference(before, settings, differing[0])}): repeat the command as it was, "
                "give another directory, or remove this one"
            )
    elif present:
        raise UserError(f"{directory} holds something else than decoded shards: give another directory")
    with atomic_path(directory / SETTINGS) as temporary:
        temporary.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sweep(directory: Path) -> None:
    """Remove what killed workers have left half-written."""
    for leftover in directory.glob(".*.jsonl.*"):
        leftover.unlink()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    """The first value that differs, such as ``beam_size 5, now 10``."""
    one, two = before.get(key), now.get(key)
    while isinstance(one, dict) and isinstance(two, dict):
        key = min(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))
        one, two = one.get(key), two.get(key)
    return f"{key} {_short(one)}, now {_short(two)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
