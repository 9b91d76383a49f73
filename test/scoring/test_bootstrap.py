import numpy as np
import pytest

from espnet_kd.scoring.bootstrap import DRAWS, SEED, Runs, difference, rate_interval

WORDS = np.full(200, 10)
SIMULATIONS = 120
Table = dict[str, tuple[int, int]]


def table(errors: np.ndarray, words: np.ndarray = WORDS, prefix: str = "u") -> Table:
    pairs = zip(errors.tolist(), words.tolist(), strict=True)
    return {f"{prefix}{number:06d}": pair for number, pair in enumerate(pairs)}


def system(rate: float, seed: int) -> dict[int, Table]:
    return {1: table(np.random.default_rng(seed).binomial(10, rate, size=200))}


def test_identical_systems_do_not_differ() -> None:
    a = system(0.2, 0)
    d = difference(a, a)
    assert (d.value, d.low, d.high, d.relative, d.p, d.seeds) == (0, 0, 0, 0, 1, 1)


def test_equal_systems_with_other_errors_do_not_differ_significantly() -> None:
    d = difference(system(0.2, 0), system(0.2, 1))
    assert d.low < 0 < d.high
    assert d.p > 0.05


def test_a_clear_difference_is_found_and_has_a_sign() -> None:
    better, worse = system(0.1, 0), system(0.2, 1)
    wrong = [sum(errors for errors, _ in side[1].values()) for side in (better, worse)]
    d = difference(better, worse)
    assert d.value == pytest.approx(100 * (wrong[0] - wrong[1]) / 2000)
    assert d.low < d.value < d.high < 0
    assert 0 < d.p < 0.001
    assert d.relative == pytest.approx(100 * (wrong[0] / wrong[1] - 1))
    assert difference(worse, better).low > 0


def test_the_bootstrap_is_paired() -> None:
    # One error fewer in every second utterance, whatever the utterance's difficulty: the paired
    # interval is far narrower than that of either rate.
    hard = np.random.default_rng(0).integers(1, 10, size=200)
    d = difference({1: table(hard - (np.arange(200) % 2))}, {1: table(hard)})
    alone = rate_interval({1: table(hard)})
    assert d.high - d.low < 0.5 * (alone.high - alone.low)


def test_the_rate_of_several_seeds_is_that_of_all_their_errors() -> None:
    runs: Runs = {1: {"a": (1, 4), "b": (0, 2)}, 2: {"a": (3, 4), "b": (1, 2)}}
    assert rate_interval(runs).value == pytest.approx(100 * 5 / 12)
    folds: Runs = {1: {"a": (1, 4)}, 2: {"b": (1, 2)}}
    assert rate_interval(folds).value == pytest.approx(100 * 2 / 6)


def test_seeds_that_agree_add_no_width() -> None:
    (run,), base = system(0.1, 0).values(), system(0.2, 1)
    three, one = difference({1: run, 2: run, 3: run}, base), difference({1: run}, base)
    assert (three.low, three.high, three.p) == pytest.approx((one.low, one.high, one.p))


def test_sides_with_different_numbers_of_seeds_are_comparable() -> None:
    ones, twos, threes = (table(np.full(50, wrong), np.full(50, 10)) for wrong in (1, 2, 3))
    d = difference({1: ones, 2: threes}, {1: twos})  # 20 % both
    assert (d.value, d.seeds) == (0, 1)
    assert d.low < 0 < d.high  # the seeds of one side are 20 points apart


def test_what_both_sides_share_in_a_seed_is_paired() -> None:
    # Seed 2 is 10 points harder for both sides: their difference is the same in every seed.
    ones, twos, threes = (table(np.full(50, wrong), np.full(50, 10)) for wrong in (1, 2, 3))
    paired = difference({1: ones, 2: twos}, {1: twos, 2: threes})
    assert (paired.value, paired.low, paired.high) == pytest.approx((-10, -10, -10))
    other_seeds = difference({1: ones, 2: twos}, {3: twos, 4: threes})
    assert other_seeds.low < -10 < 0 < other_seeds.high


def test_the_interval_of_a_single_seed_is_that_of_a_binomial_rate() -> None:
    # 2000 words, rate r: standard error sqrt(r (1 - r) / 2000)
    i = rate_interval(system(0.2, 3))
    r = i.value / 100
    half = 196 * np.sqrt(r * (1 - r) / 2000)
    assert i.high - i.low == pytest.approx(2 * half, rel=0.2)
    assert i.low < i.value < i.high


@pytest.mark.parametrize(("seeds", "t"), [(2, 12.71), (3, 4.303), (5, 2.776)])
def test_where_only_seeds_differ_the_interval_is_that_of_students_t(seeds: int, t: float) -> None:
    # Every utterance of a seed has the same rate, so drawing utterances changes nothing.
    rates = np.random.default_rng(0).integers(20, 60, seeds)
    i = rate_interval({s: table(np.full(9, rate), np.full(9, 100)) for s, rate in enumerate(rates)})
    half = t * rates.std(ddof=1) / np.sqrt(seeds)
    assert i.high - i.value == pytest.approx(half, rel=0.35)


def simulated(rng: np.random.Generator, seeds: int, folds: bool) -> tuple[Runs, Runs]:
    """Two systems of equal quality whose difference varies by seed, by utterance, and by both together."""
    utterances, words = 60, np.full(60, 1000)
    common = rng.normal(0, 8, utterances)  # an utterance that suits one of the systems
    sides: tuple[dict[int, Table], dict[int, Table]] = ({}, {})
    for seed in range(seeds):
        noise = rng.normal(0, 11, utterances) + (rng.normal(0, 11, utterances) if folds else common)
        shift = np.rint(noise + rng.normal(0, 4.5)).astype(int)
        name = f"{seed}-" if folds else "u"
        sides[0][seed], sides[1][seed] = (table(200 + s, words, name) for s in (shift, 0 * shift))
    return sides


def merged(runs: Runs) -> Runs:
    """All errors as if they were of a single training."""
    total: dict[str, tuple[int, int]] = {}
    for run in runs.values():
        for utt, (errors, words) in run.items():
            before = total.get(utt, (0, 0))
            total[utt] = before[0] + errors, before[1] + words
    return {1: total}


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_contain_the_true_difference_as_often_as_they_promise(seeds: int, folds: bool) -> None:
    rng = np.random.default_rng(seeds)
    found, alone = [], []
    for _ in range(SIMULATIONS):
        first, second = simulated(rng, seeds, folds)
        for inside, sides in ((found, (first, second)), (alone, (merged(first), merged(second)))):
            d = difference(*sides, resamples=400)
            inside.append(d.low <= 0 <= d.high)
    print(f"{seeds} seeds, folds {folds}: {np.mean(found):.1%}, over utterances alone {np.mean(alone):.1%}")
    assert np.mean(found) >= 0.91
    assert np.mean(alone) <= 0.8


def test_draws_are_the_same_every_time_and_any_number() -> None:
    a = system(0.1, 0)
    assert rate_interval(a, resamples=DRAWS // 200 + 1) == rate_interval(a, resamples=DRAWS // 200 + 1)


def test_other_references_are_refused() -> None:
    (one,) = system(0.1, 0).values()
    for other in (table(np.zeros(200, int), np.arange(200) + 1), dict(list(one.items())[:3])):
        with pytest.raises(ValueError, match="same references"):
            difference({1: one}, {1: other})
    with pytest.raises(ValueError, match="overlap"):
        rate_interval({1: {"a": (0, 1), "b": (0, 1)}, 2: {"b": (0, 1), "c": (0, 1)}})
    with pytest.raises(ValueError, match="same references"):  # other folds
        difference({1: {"a": (0, 1)}, 2: {"b": (0, 1)}}, {1: {"a": (0, 1)}, 3: {"c": (0, 1)}})


@pytest.mark.parametrize("utterances", [1, 7, 200, DRAWS // 3])
def test_the_fast_way_is_the_plain_one(utterances: int) -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(1, 20, utterances)
    errors = rng.binomial(words, 0.3)
    draws = np.random.default_rng(SEED).integers(0, utterances, size=(20, utterances))
    rates = 100 * errors[draws].sum(1) / words[draws].sum(1)
    interval = rate_interval({1: table(errors, words)}, resamples=20)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(rates, [0.025, 0.975]).tolist())


def test_utterances_of_folds_are_drawn_within_their_fold() -> None:
    # One utterance a fold: nothing is left to draw but the folds.
    folds = {1: {"a": (2, 10)}, 2: {"b": (2, 10)}, 3: {"c": (2, 10)}}
    i = rate_interval(folds)
    assert (i.value, i.low, i.high) == pytest.approx((20, 20, 20))
