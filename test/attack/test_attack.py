"""Run every attack a few times: it must find no fault. ``make attack`` runs them many times."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import harness  # noqa: E402


def outcomes(part: str, **options: object) -> list[harness.Outcome]:
    return importlib.import_module(part).run(1, **options)


@pytest.mark.parametrize(
    ("part", "tries"), [("damaged_stores", 27), ("hostile_archives", 60), ("audio_headers", 110)]
)
def test_no_attack_succeeds(part: str, tries: int) -> None:
    found = outcomes(part, tries=tries)
    assert sum(o.tried for o in found) == tries
    assert [fault for o in found for fault in o.faults] == []


def test_every_parser_holds() -> None:
    fuzz = importlib.import_module("fuzz")
    found = [fuzz.chunk(name, 1, 0, 10) for name in fuzz.targets()]
    assert len(found) > 34 and all(o.tried == 10 for o in found)
    assert [fault for o in found for fault in o.faults] == []


def test_the_same_seed_gives_the_same_input() -> None:
    fuzz = importlib.import_module("fuzz")
    target = fuzz.targets()["table"]
    inputs = [fuzz.make(target, 1, number) for number in range(50)]
    assert inputs == [fuzz.make(target, 1, number) for number in range(50)]
    assert inputs != [fuzz.make(target, 2, number) for number in range(50)]


def test_outcomes_are_told_apart() -> None:
    outcome = harness.Outcome("x")
    outcome.attempt("a", lambda: None)
    outcome.attempt("b", lambda: fail(harness.UserError("file: wrong")), "file")
    outcome.attempt("c", lambda: fail(harness.UserError("wrong")), "file")
    outcome.attempt("d", lambda: fail(KeyError("k")))
    outcome.attempt("e", lambda: fail(ValueError("declared")), also=(ValueError,))
    outcome.attempt("f", lambda: [0 for _ in iter(int, 1)], seconds=0.05)
    assert (outcome.tried, outcome.right, outcome.refused, len(outcome.faults)) == (6, 1, 2, 3)
    assert [fault[0] for fault in outcome.faults] == ["c", "d", "f"] and "Hang" in outcome.faults[2]
    assert "fault: x: d: KeyError" in harness.table([outcome])


def fail(error: Exception) -> None:
    raise error
