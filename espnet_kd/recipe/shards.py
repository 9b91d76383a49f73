"""Work on many utterances in shards: whole or absent, so that a run that was killed goes on where it was.

``DIR/settings.json`` says what the shards were made with; ``DIR/00001`` and so on hold the utterances, sorted
by their ids, however many workers made them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, locked, read_json

SETTINGS = "settings.json"
PER_SHARD = 100  # utterances; what a killed worker has to do again at most


@dataclass(frozen=True)
class Shard:
    """Utterances that are worked on together: id, and what a worker has to know of it."""

    path: Path
    utterances: tuple[tuple[str, Any], ...]


def plan(
    directory: Path,
    utterances: Mapping[str, Any],
    count: int | None = None,
    suffix: str = ".jsonl",
) -> list[Shard]:
    """Cut the utterances, in order of their ids, into shards of equal size (give or take one).

    The number of workers is no matter, so that it may differ when the command is repeated.

    Args:
        utterances: id to what a worker has to know.
        count: number of shards; None takes one for every ``PER_SHARD`` utterances.
        suffix: of their names.
    """
    order = sorted(utterances)
    count = min(count or -(-len(order) // PER_SHARD), len(order))
    edges = [len(order) * i // count for i in range(count + 1)]
    return [
        Shard(
            directory / f"{i + 1:05d}{suffix}",
            tuple((u, utterances[u]) for u in order[edges[i] : edges[i + 1]]),
        )
        for i in range(count)
    ]


@contextmanager
def claimed(directory: Path, settings: Mapping[str, Any], what: str = "decoded shards") -> Iterator[None]:
    """Hold a directory for shards of these settings; no other run gets it meanwhile.

    Args:
        what: is kept in it, for the message of an error.

    Raises:
        UserError: it has shards of other settings or other files, or another run works in it.
    """
    with locked(directory, f"another run works in {directory}: wait for it, or stop it"):
        _settle(directory, settings, what)
        _sweep(directory)
        yield
        _sweep(directory)


def read_settings(directory: Path) -> dict[str, Any]:
    """What the shards of a directory were made with.

    Raises:
        UserError: they have no or a damaged settings.json.
    """
    path = directory / SETTINGS
    if not path.exists():
        raise UserError(f"{directory} is not finished or something else: there is no {SETTINGS}")
    try:
        return read_json(path)
    except UserError as e:
        raise UserError(f"{e}: remove {directory} and make it again") from None


def _settle(directory: Path, settings: Mapping[str, Any], what: str) -> None:
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
        raise UserError(f"{directory} holds something else than {what}: give another directory")
    with atomic_path(directory / SETTINGS) as temporary:
        temporary.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sweep(directory: Path) -> None:
    """Remove what killed workers have left half-written."""
    for leftover in directory.glob(".[0-9]*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    """The first value that differs, such as ``beam_size 5, now 10``."""
    one, two = before.get(key), now.get(key)
    while True:
        if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
            one, two = next((a, b) for a, b in zip(one, two, strict=True) if a != b)
        elif isinstance(one, dict) and isinstance(two, dict):
            key = min(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))
            one, two = one.get(key), two.get(key)
        else:
            break
    return f"{key} {_short(one)}, now {_short(two)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
