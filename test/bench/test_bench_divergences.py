"""The benchmark of criteria on large vocabularies has a row for each, and checks its limits."""

import pytest

from bench import divergences
from espnet_kd.criteria import criterion


def test_each_criterion_has_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(divergences, "SIZE", divergences.Size(12, 1000))
    monkeypatch.setattr(divergences, "ROUNDS", 1)
    own, found = criterion.CPU_CHUNK, {}
    monkeypatch.setattr(
        divergences, "peak", lambda *what: found.setdefault(what, divergences.measure(*what) + 1.0)
    )
    met = divergences.main()
    output = capsys.readouterr().out
    assert set(found) == {(name, who) for name in divergences.TYPES for who in ("one piece", "chunks")}
    assert all(f"| {name} |" in output for name in divergences.TYPES)
    assert met == ("MISSED" not in output) and own == criterion.CPU_CHUNK


def test_more_memory_than_a_copy_and_a_half_misses_the_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(divergences, "SIZE", divergences.Size(12, 1000))
    monkeypatch.setattr(divergences, "ROUNDS", 1)
    monkeypatch.setattr(divergences, "MOST_TIME", 1e9)
    for copies, met in ((1.4, True), (1.6, False)):
        monkeypatch.setattr(divergences, "peak", lambda *_, n=copies: n * divergences.SIZE.copy)
        assert divergences.main() is met
    assert "MISSED" in capsys.readouterr().out
