"""Read damaged target stores: each is refused, or gives the values that were written.

A complete store with other content is detected by ``targets``, from the settings. Here every file has its
checksum, so that every change of an utterance must be detected.
"""

import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from harness import Outcome, limited
from stores import NAMES, TAPS, make, records

from espnet_kd.errors import UserError
from espnet_kd.targets.format import INDEX, MANIFEST
from espnet_kd.targets.store import Store, verify

TRIES = 240
SHARDS = ("00001", "00002")


def run(seed: int, tries: int = TRIES, only: str | None = None) -> list[Outcome]:
    """Damage copies of a store in all ways in turn."""
    outcomes = {name: Outcome(f"store: {name}") for name in DAMAGES if only in (None, name)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "whole")
        make(folder / "other", [r for r in records(names=[f"v{i}" for i in range(5)])])
        for number in range(tries):
            kind = list(outcomes)[number % len(outcomes)]
            rng = random.Random(seed * 10**6 + number)
            damaged = Path(shutil.copytree(folder / "whole", folder / "damaged"))
            DAMAGES[kind](damaged, folder / "other", rng)
            outcomes[kind].attempt(f"--seed {seed}, number {number}", partial(read_all, damaged), "damaged")
            shutil.rmtree(damaged)
    return list(outcomes.values())


def read_all(directory: Path) -> None:
    """Read every utterance; ``verify`` must find what reading finds, and never raise."""
    with limited(30):
        expected = {record.utt: record for record in records()}
        store = Store(directory)
        problems = list(verify(store))
        try:
            found = {utt: store.read(utt) for utt in NAMES}
            assert list(store) == NAMES, "it has other utterances"
        except UserError:
            assert problems, "verify has no problem with what cannot be read"
            raise
        for utt, record in found.items():
            assert (record.samples, record.text) == (expected[utt].samples, expected[utt].text), utt
            for tap in TAPS:
                assert np.array_equal(record.rows[tap], expected[utt].rows[tap]), f"{utt} at {tap} differs"


def _files(store: Path) -> list[Path]:
    return sorted(p for p in store.rglob("*") if p.is_file())


def flip(store: Path, other: Path, rng: random.Random) -> None:
    """Flip one bit of a file."""
    path = rng.choice(_files(store))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(store: Path, other: Path, rng: random.Random) -> None:
    """Cut off the end of a file."""
    path = rng.choice(_files(store))
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def lengthen(store: Path, other: Path, rng: random.Random) -> None:
    """Append bytes to a file."""
    path = rng.choice(_files(store))
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 40)))


def remove(store: Path, other: Path, rng: random.Random) -> None:
    """Remove a file or shard."""
    path = rng.choice([*_files(store), *(store / name for name in SHARDS)])
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def swap(store: Path, other: Path, rng: random.Random) -> None:
    """Swap two shards, or the same file of both."""
    part = rng.choice(["", INDEX, *TAPS])
    one, two, third = store / SHARDS[0] / part, store / SHARDS[1] / part, store / "third"
    one.rename(third)
    two.rename(one)
    third.rename(two)


def foreign(store: Path, other: Path, rng: random.Random) -> None:
    """Replace a file, a shard or the manifest by that of another store."""
    name = rng.choice([MANIFEST, *SHARDS, *(f"{s}/{f}" for s in SHARDS for f in (INDEX, *TAPS))])
    target = store / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    (shutil.copytree if (other / name).is_dir() else shutil.copy)(other / name, target)


def edit(store: Path, other: Path, rng: random.Random) -> None:
    """Change a number of the manifest or of an index."""
    path = rng.choice([p for p in _files(store) if p.suffix in (".json", ".jsonl")])
    text = path.read_text()
    places = [i for i, c in enumerate(text) if c.isdigit()]
    place = rng.choice(places)
    digit = rng.choice([d for d in "0123456789" if d != text[place]])
    path.write_text(text[:place] + digit + text[place + 1 :])


def zeros(store: Path, other: Path, rng: random.Random) -> None:
    """Set a block of a file to zeros, as after a crash of the machine."""
    path = rng.choice(_files(store))
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 16, 512, 4096)))
    data[start:end] = bytes(end - start)
    path.write_bytes(data)


def reverse(store: Path, other: Path, rng: random.Random) -> None:
    """Replace the rows of an utterance by those of another one, or change their order."""
    tap = rng.choice(list(TAPS))
    path = store / rng.choice(SHARDS) / tap
    data, size = path.read_bytes(), 20
    rows = [data[i : i + size] for i in range(0, len(data), size)]
    path.write_bytes(b"".join(reversed(rows)))


DAMAGES: dict[str, Callable[[Path, Path, random.Random], None]] = {
    f.__name__: f for f in (flip, cut, lengthen, remove, swap, foreign, edit, zeros, reverse)
}
