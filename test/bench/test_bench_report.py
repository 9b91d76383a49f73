"""Tables, targets and environment that a benchmark prints."""

import pytest

from bench.report import environment, judge, table, verdict
from bench.timing import Timing


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_target_is_met_up_to_its_limit() -> None:
    assert verdict("step", 1.15, 1.15) == ("step: 1.15 (target: at most 1.15, met)", True)
    assert verdict("step", 1.16, 1.15) == ("step: 1.16 (target: at most 1.15, MISSED)", False)
    assert verdict("speed", 3, at_least=3) == ("speed: 3.00 (target: at least 3.00, met)", True)
    assert verdict("speed", 2, at_least=3) == ("speed: 2.00 (target: at least 3.00, MISSED)", False)


def test_the_environment_is_one_line() -> None:
    assert "torch" in environment() and "\n" not in environment()


@pytest.mark.parametrize(("target", "met"), [(2.0, True), (1.9, False)])
def test_every_case_is_judged(capsys: pytest.CaptureFixture[str], target: float, met: bool) -> None:
    times = {"both": Timing((0.006,)), "a": Timing((0.001,)), "b": Timing((0.002,))}
    ratios = {"both / (a + b)": ("both", ["a", "b"])}
    column = ("MB", lambda case: dict.fromkeys(times, "7"))
    assert judge({"x": 1, "y": 2}, lambda case: times, ratios, target, column) is met
    printed = capsys.readouterr().out
    assert "| case | variant | median ms | min ms | max ms | MB |" in printed
    assert "| y: 2 | b | 2.0 | 2.0 | 2.0 | 7 |" in printed
    assert f"y: both / (a + b): 2.00 (target: at most {target:.2f}, {'met' if met else 'MISSED'})" in printed
