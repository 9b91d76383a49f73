"""Time several variants in turn, so that noise of the machine affects all of them equally."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Seconds = float


@dataclass(frozen=True)
class Timing:
    """The durations of one variant, one per round."""

    seconds: tuple[Seconds, ...]

    @property
    def median(self) -> Seconds:
        """Return the median duration."""
        return statistics.median(self.seconds)

    def cells(self) -> list[str]:
        """Format median, minimum and maximum in milliseconds, for a table."""
        return [f"{1000 * s:.1f}" for s in (self.median, min(self.seconds), max(self.seconds))]


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 3,
    clock: Callable[[], Seconds] = time.perf_counter,
) -> dict[str, Timing]:
    """Call the variants in turn, A B C A B C ..., in this process.

    Args:
        variants: name to what is timed; returning means that it is done.
        rounds: timed calls of each variant.
        warm_up: rounds before them that do not count.
        clock: gives the time.
    """
    seconds: dict[str, list[Seconds]] = {name: [] for name in variants}
    for number in range(warm_up + rounds):
        for name, call in variants.items():
            start = clock()
            call()
            if number >= warm_up:
                seconds[name].append(clock() - start)
    return {name: Timing(tuple(s)) for name, s in seconds.items()}


def ratio(over: Timing, under: Sequence[Timing]) -> float:
    """Return the median, over the rounds, of one variant's duration divided by the sum of others'."""
    sums = (sum(parts) for parts in zip(*(t.seconds for t in under), strict=True))
    return statistics.median(o / u for o, u in zip(over.seconds, sums, strict=True))
