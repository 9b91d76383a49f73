"""Give damaged variants of valid inputs to every parser of the package.

An input may be read, or refused by a ``UserError`` of one line that names the file. The same seed,
target and number give the same input: ``make attack ARGS="fuzz --seed S --only TARGET --number N"``.
"""

import contextlib
import io
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from harness import Outcome, bound_memory
from mutate import mutate_bytes, mutate_tree
from parsers import Target, targets

TRIES = 1_050_000
CHUNK = 2000  # inputs that a process does at a time


def run(seed: int, tries: int = TRIES, only: str | None = None, number: int | None = None) -> list[Outcome]:
    """Attack all parsers, or one, with ``tries`` inputs; with ``number``, show and try a single input."""
    names = [only] if only else list(targets())
    if number is not None:
        return [one(names[0], seed, number)]
    shares = {name: targets()[name].share for name in names}
    jobs = []
    for name in names:
        count = -(-tries * shares[name] // sum(shares.values()))
        jobs += [(name, seed, start, min(CHUNK, int(count) - start)) for start in range(0, int(count), CHUNK)]
    outcomes = {name: Outcome(f"fuzz {name}") for name in names}
    started = time.monotonic()
    workers = min(os.cpu_count() or 1, len(jobs))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=bound) as pool:
        for (name, *_), outcome in zip(jobs, pool.map(chunk, *zip(*jobs, strict=True)), strict=True):
            outcomes[name] += outcome
    rate = sum(o.tried for o in outcomes.values()) / (time.monotonic() - started)
    print(f"fuzz: {rate:.0f} inputs a second")
    return list(outcomes.values())


def bound() -> None:
    """Make the targets, then limit the memory of this worker."""
    targets()
    bound_memory()


def chunk(name: str, seed: int, start: int, count: int) -> Outcome:
    """Try some inputs of a target."""
    outcome = Outcome(f"fuzz {name}")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for number in range(start, start + count):
            attack(outcome, name, seed, number)
    return outcome


def one(name: str, seed: int, number: int) -> Outcome:
    """Show a single input, and try it."""
    print(repr(make(targets()[name], seed, number))[:5000])
    attack(outcome := Outcome(f"fuzz {name}"), name, seed, number)
    return outcome


def attack(outcome: Outcome, name: str, seed: int, number: int) -> None:
    """Try one input."""
    target = targets()[name]
    data = make(target, seed, number)
    outcome.attempt(
        f"--seed {seed} --only {name} --number {number}", lambda: target.run(data), target.where, target.also
    )


def make(target: Target, seed: int, number: int) -> Any:
    """Return the input with that number."""
    rng = random.Random(seed * 10**9 + number)
    data = rng.choice(target.seeds)
    if isinstance(data, bytes):
        return mutate_bytes(data, rng, rng.choice(target.seeds))
    if target.text is None:
        return mutate_tree(data, rng)
    if rng.random() < 0.5:
        return target.text(mutate_tree(data, rng))
    return mutate_bytes(target.text(data), rng, target.text(rng.choice(target.seeds)))
