import numpy as np
import pytest

from espnet_kd.scoring.bootstrap import DRAWS, SEED, paired_difference, pool, rate_interval

WORDS = np.full(200, 10)


def system(rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).binomial(10, rate, size=200), WORDS


def test_identical_systems_do_not_differ() -> None:
    a = system(0.2, 0)
    d = paired_difference(a, a)
    assert (d.value, d.low, d.high, d.relative, d.p) == (0, 0, 0, 0, 1)


def test_equal_systems_with_other_errors_do_not_differ_significantly() -> None:
    d = paired_difference(system(0.2, 0), system(0.2, 1))
    assert d.low < 0 < d.high
    assert d.p > 0.05


def test_a_clear_difference_is_found_and_has_a_sign() -> None:
    better, worse = system(0.1, 0), system(0.2, 1)
    d = paired_difference(better, worse)
    assert d.value == pytest.approx(100 * (better[0].sum() - worse[0].sum()) / 2000)
    assert d.low < d.value < d.high < 0
    assert 0 < d.p < 0.001
    assert d.relative == pytest.approx(100 * (better[0].sum() / worse[0].sum() - 1))
    assert paired_difference(worse, better).low > 0


def test_the_bootstrap_is_paired() -> None:
    # One error fewer in every second utterance, whatever the utterance's difficulty: the paired
    # interval is far narrower than that of either rate.
    hard = np.random.default_rng(0).integers(1, 10, size=200)
    easier = hard - (np.arange(200) % 2)
    d = paired_difference((easier, WORDS), (hard, WORDS))
    alone = rate_interval(hard, WORDS)
    assert d.high - d.low < 0.5 * (alone.high - alone.low)


def test_seeds_are_pooled_by_utterance() -> None:
    errors, words = pool([[(1, 4), (0, 2)], [(3, 4), (1, 2)]])
    assert errors.tolist() == [4, 1]
    assert words.tolist() == [8, 4]


def test_pooling_a_run_with_itself_changes_nothing() -> None:
    (e, w), base = system(0.1, 0), system(0.2, 1)
    run = list(zip(e.tolist(), w.tolist(), strict=True))
    assert paired_difference(pool([run, run, run]), base) == paired_difference(pool([run]), base)


def test_sides_with_different_numbers_of_seeds_are_comparable() -> None:
    a = pool([[(1, 10)] * 50, [(3, 10)] * 50])  # mean 20 %
    b = pool([[(2, 10)] * 50])  # 20 %
    assert paired_difference(a, b).value == 0


def test_the_interval_is_that_of_a_binomial_rate() -> None:
    # 2000 words, rate r: standard error sqrt(r (1 - r) / 2000)
    errors, words = system(0.2, 3)
    i = rate_interval(errors, words)
    r = i.value / 100
    half = 196 * np.sqrt(r * (1 - r) / 2000)
    assert i.high - i.low == pytest.approx(2 * half, rel=0.2)
    assert i.low < i.value < i.high


def test_draws_are_the_same_every_time_and_any_number() -> None:
    a = system(0.1, 0)
    assert rate_interval(*a, resamples=DRAWS // 200 + 1) == rate_interval(*a, resamples=DRAWS // 200 + 1)


def test_other_references_are_refused() -> None:
    with pytest.raises(ValueError, match="same references"):
        paired_difference(system(0.1, 0), (system(0.1, 0)[0], np.arange(200) + 1))
    with pytest.raises(ValueError, match="same references"):
        paired_difference(system(0.1, 0), (np.ones(3, int), np.ones(3, int)))


@pytest.mark.parametrize("utterances", [1, 7, 200, DRAWS // 3])
def test_the_fast_way_is_the_plain_one(utterances: int) -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(1, 20, utterances)
    errors = rng.binomial(words, 0.3)
    draws = np.random.default_rng(SEED).integers(0, utterances, size=(20, utterances))
    rates = 100 * errors[draws].sum(1) / words[draws].sum(1)
    interval = rate_interval(errors, words, resamples=20)
    assert [interval.low, interval.high] == np.quantile(rates, [0.025, 0.975]).tolist()
