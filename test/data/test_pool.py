"""Work on audio in processes says how far it is, also in a log."""

import pytest

from espnet_kd.data import pool


def test_a_log_shows_progress_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10_000, 100))  # a piece takes 100 s, lines are 300 s apart
    monkeypatch.setattr(pool.time, "monotonic", lambda: float(next(clock)))
    assert list(pool.in_processes(str, range(8), 1, 8)) == list("01234567")
    assert capsys.readouterr().out.splitlines() == ["writing audio: 37 %", "writing audio: 75 %"]
