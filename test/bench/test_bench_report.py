"""What a benchmark prints."""

from bench.report import environment, table, verdict


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_target_is_met_up_to_its_limit() -> None:
    assert verdict("step", 1.15, 1.15) == ("step: 1.15 (target: at most 1.15, met)", True)
    assert verdict("step", 1.16, 1.15) == ("step: 1.16 (target: at most 1.15, MISSED)", False)
    assert verdict("speed", 3, at_least=3) == ("speed: 3.00 (target: at least 3.00, met)", True)
    assert verdict("speed", 2, at_least=3) == ("speed: 2.00 (target: at least 3.00, MISSED)", False)


def test_the_environment_is_one_line() -> None:
    assert "torch" in environment() and "\n" not in environment()
