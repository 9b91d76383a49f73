"""Measure peak memory and time of criteria on large vocabularies, in chunks of positions and in one piece.

Each pass, forward and backward, runs in a process of its own: ``python -m bench.divergences TYPE WHO``.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.report import table, verdict
from bench.rnnt.memory import Megabytes, MemoryWatch, printed_by
from bench.timing import interleaved, ratio
from espnet_kd.criteria import build_criterion, criterion

TYPES = ("kl", "skew_kl", "jsd", "akl", "decoupled_kl")
PLAIN, CHUNKS = "one piece", "chunks"
WIDER = 2**62  # more than there are logits
ROUNDS = 3
MOST_COPIES = 1.5  # of the logits: their gradient, and what the chunks hold
MOST_TIME = 1.5  # relative to one piece: each chunk is computed again in the backward pass


@dataclass(frozen=True)
class Size:
    """Positions and classes of a batch."""

    positions: int
    classes: int

    @property
    def copy(self) -> Megabytes:
        """Return the megabytes of one copy of the logits in float32."""
        return self.positions * self.classes * 4 / 1e6


SIZE, WARM_UP = Size(256, 50_000), Size(24, 50_000)


def main() -> bool:
    """Measure every criterion and print a table; return True if memory and time keep to their limits."""
    rows, most, slowest = [], 0.0, 0.0
    for name in TYPES:
        plain, chunked = (peak(name, who) for who in (PLAIN, CHUNKS))
        both = {who: training_pass(name, who) for who in (PLAIN, CHUNKS)}
        timings = interleaved(both, ROUNDS, warm_up=1)
        slower = ratio(timings[CHUNKS], [timings[PLAIN]])
        most, slowest = max(most, chunked / SIZE.copy), max(slowest, slower)
        copies = [f"{x / SIZE.copy:.1f}" for x in (plain, chunked)]
        milliseconds = [f"{1000 * timings[who].median:.0f}" for who in (PLAIN, CHUNKS)]
        rows.append([name, *copies, f"{chunked / plain:.2f}", *milliseconds, f"{slower:.2f}"])
    print(f"Forward and backward pass, {SIZE}: a copy of the logits has {SIZE.copy:.0f} MB\n")
    head = [f"copies, {PLAIN}", f"copies, {CHUNKS}", "ratio", f"ms, {PLAIN}", f"ms, {CHUNKS}", "ratio"]
    print(table(["criterion", *head], rows) + "\n")
    checks = [
        verdict("copies of the logits that a pass in chunks adds", most, at_most=MOST_COPIES),
        verdict("time in chunks against one piece", slowest, at_most=MOST_TIME),
    ]
    print("\n".join(line for line, _ in checks))
    return all(met for _, met in checks)


def peak(name: str, who: str) -> Megabytes:
    """Measure how much a pass adds to the peak memory of its process, in a new process."""
    return printed_by("bench.divergences", name, who)


def measure(name: str, who: str) -> Megabytes:
    """Measure a pass in this process, after a small one, of a few chunks, that loads libraries."""
    training_pass(name, who, WARM_UP)()
    run = training_pass(name, who)
    with MemoryWatch() as watch:
        run()
    return watch.growth


def training_pass(name: str, who: str, size: Size | None = None) -> Callable[[], None]:
    """Return what computes a criterion and the gradient of the student's logits."""
    size, random = size or SIZE, torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, size.positions, size.classes, generator=random).unbind()
    student.requires_grad_()
    compare, mask = build_criterion(name), torch.ones(1, size.positions, dtype=torch.bool)
    own = criterion.CPU_CHUNK

    def run() -> None:
        criterion.CPU_CHUNK = WIDER if who == PLAIN else own
        try:
            torch.autograd.grad(compare(student, teacher, mask), student)
        finally:
            criterion.CPU_CHUNK = own

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=TYPES)
    parser.add_argument("who", choices=(PLAIN, CHUNKS))
    arguments = parser.parse_args()
    print(measure(arguments.name, arguments.who))
