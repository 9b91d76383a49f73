"""Interleaved timing, with a simulated clock."""

from bench.timing import Timing, interleaved, ratio


def test_variants_take_turns_and_the_warm_up_does_not_count() -> None:
    now, order = 0.0, []

    def work(name: str, seconds: float) -> None:
        nonlocal now
        order.append(name)
        now += seconds + (10 if len(order) <= 2 else 0)  # the first round is slow

    variants = {"a": lambda: work("a", 1.0), "b": lambda: work("b", 2.0)}
    timings = interleaved(variants, rounds=2, warm_up=1, clock=lambda: now)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert timings == {"a": Timing((1.0, 1.0)), "b": Timing((2.0, 2.0))}


def test_cells_are_median_minimum_maximum_in_milliseconds() -> None:
    assert Timing((0.004, 0.001, 0.002)).cells() == ["2.0", "1.0", "4.0"]


def test_a_ratio_compares_within_rounds() -> None:
    # 6/(1+2) = 2, 60/(10+20) = 2, 9/(1+2) = 3: the slow second round is slow on both sides. Median 2.
    assert ratio(Timing((6.0, 60.0, 9.0)), [Timing((1.0, 10.0, 1.0)), Timing((2.0, 20.0, 2.0))]) == 2
