"""Confidence intervals of error rates by resampling utterances.

Source:
    Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance
    evaluation": the paired bootstrap over utterances.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
RESAMPLES = 10_000
SEED = 20210101
DRAWS = 2**18  # utterances drawn at a time, so that memory is bounded; at least those of one resample


@dataclass(frozen=True)
class Interval:
    """A value in per cent with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """Error rate of the first system minus that of the second, in percentage points.

    Attributes:
        relative: the difference in per cent of the second system's rate.
        p: two-sided p-value, twice the share of resamples in which the difference has the other sign.
    """

    relative: float
    p: float


def pool(runs: list[list[tuple[int, int]]]) -> tuple[Counts, Counts]:
    """Sum the counts of several runs (seeds) of one system, utterance by utterance.

    Args:
        runs: per run the (errors, words) of each utterance, in one order.

    Returns:
        errors, words: both (N,), N utterances; words are counted once per run.
    """
    counts = np.array(runs, dtype=np.int64).sum(axis=0)  # (N, 2)
    return counts[:, 0], counts[:, 1]


def rate_interval(errors: Counts, words: Counts, resamples: int = RESAMPLES) -> Interval:
    """Return the error rate of one system; ``errors`` and ``words`` are (N,), N utterances."""
    rates = np.concatenate([_rate(errors, words, times) for times in _draws(len(words), resamples)])
    low, high = np.quantile(rates, [0.025, 0.975])
    return Interval(100 * errors.sum() / words.sum(), float(low), float(high))


def paired_difference(
    first: tuple[Counts, Counts], second: tuple[Counts, Counts], resamples: int = RESAMPLES
) -> Difference:
    """Compare two systems on the same utterances: each resample draws the same ones for both.

    The sides may pool different numbers of runs; each is divided by its own words.

    Args:
        first: errors and words, each (N,), in the order of ``second``.
        second: errors and words of the other system.
        resamples: number of draws.

    Raises:
        ValueError: the sides have different utterances.
    """
    if first[1].shape != second[1].shape or (first[1] * second[1].sum() != second[1] * first[1].sum()).any():
        raise ValueError("the two systems were not scored on the same references")
    deltas = np.concatenate(
        [_rate(*first, times) - _rate(*second, times) for times in _draws(len(first[1]), resamples)]
    )
    low, high = np.quantile(deltas, [0.025, 0.975])
    rates = [float(100 * errors.sum() / words.sum()) for errors, words in (first, second)]
    # One more than the count on each side of the fraction: p is never 0 after finitely many draws.
    tail = min((deltas <= 0).sum(), (deltas >= 0).sum())
    p = min(1.0, 2 * float(tail + 1) / (resamples + 1))
    value = rates[0] - rates[1]
    relative = 100 * value / rates[1] if rates[1] else float("nan")
    return Difference(value, float(low), float(high), relative, p)


def _draws(utterances: int, resamples: int) -> Iterator[Counts]:
    """Yield how often each utterance is drawn, (R, N) for R resamples; the same for the same N."""
    rng = np.random.default_rng(SEED)
    rows = max(1, DRAWS // utterances)
    for start in range(0, resamples, rows):
        shape = min(rows, resamples - start), utterances
        drawn = rng.integers(0, utterances, size=shape)
        drawn += (
            utterances * np.arange(shape[0])[:, None]
        )  # each resample has numbers of its own, to count in one go
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(shape)


def _rate(errors: Counts, words: Counts, times: Counts) -> NDArray[np.float64]:
    """Return the error rate of each resample, (R,) per cent; ``times`` is (R, N), see ``_draws``."""
    # A resample may draw only utterances without words.
    rate: NDArray[np.float64] = 100 * (times @ errors) / np.maximum(times @ words, 1)
    return rate
