"""The benchmark of a step's memory has a row for each number of classes, and checks its limit."""

from dataclasses import replace

import pytest

from bench import transducer_memory
from bench.speech_model import ModelSize


def test_each_number_of_classes_has_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(
        transducer_memory.CASE, student=ModelSize(1, 16), teacher=ModelSize(1, 16), utterances=2, seconds=1.0
    )
    monkeypatch.setattr(transducer_memory, "CASE", small)
    monkeypatch.setattr(transducer_memory, "CLASSES", (30, 3000))
    found = {}
    monkeypatch.setattr(
        transducer_memory, "peak", lambda *what: found.setdefault(what, transducer_memory.measure(*what))
    )
    met = transducer_memory.main()
    output = capsys.readouterr().out
    assert set(found) == {(classes, who) for classes in (30, 3000) for who in ("plain", "distilled")}
    assert "| 30 |" in output and "| 3000 |" in output
    assert met == ("MISSED" not in output)


def test_more_memory_than_blocks_misses_the_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transducer_memory, "sizes", lambda classes: (1000, 2.0))
    for more, met in ((7.0, True), (9.0, False)):
        monkeypatch.setattr(
            transducer_memory,
            "peak",
            lambda classes, who, more=more: 10.0 + (more if (classes, who) == (8000, "distilled") else 0.0),
        )
        assert transducer_memory.main() is met
    assert "MISSED" in capsys.readouterr().out
