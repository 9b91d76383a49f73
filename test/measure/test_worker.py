"""Times of one model, on a clock that the test moves."""

from pathlib import Path

import fake_recogniser
import numpy as np
import pytest
from fake_recogniser import FakeRecogniser

from espnet_kd.measure import worker


class Clock:
    """Stands for ``time.perf_counter``: each call of the model takes the next of some times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, took: list[float]) -> None:
        self.now = 100.0
        monkeypatch.setattr(worker.time, "perf_counter", lambda: self.now)
        times = iter(took)

        def accept(stream: object, samples: object, last: bool) -> str:
            self.now += next(times)
            return words(stream, samples, last)

        words = fake_recogniser.FakeStream.accept
        monkeypatch.setattr(fake_recogniser.FakeStream, "accept", accept)


def model(**settings: object) -> FakeRecogniser:
    return FakeRecogniser(Path("model"), {"rate": 10, **settings}, stream=True)


def test_speech_arrives_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1 s in 2.5 s of speech, decoded in 0.2, 1.5 and 0.1 s.

    The first is there at 1.0 and decoded at 1.2; the second at 2.0, decoded at 3.5; the last is there at 2.5,
    but waits until 3.5, and is decoded at 3.6: 1.1 after the end.
    """
    Clock(monkeypatch, [0.2, 1.5, 0.1])
    speech = np.r_[np.zeros(10), np.ones(15)].astype(np.float32)  # the first chunk is silent
    found = worker.decode(model(chunk=10), speech)
    assert found["text"] == "word word"
    assert found["seconds"] == pytest.approx(1.8)
    assert found["first_text_s"] == pytest.approx(3.5)
    assert found["end_s"] == pytest.approx(1.1)


def test_fast_decoding_ends_soon_after_the_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks of 1 s and an empty last: 0.1 s after the end, plus 0.1 s for the last."""
    Clock(monkeypatch, [0.1, 0.1, 0.1])
    found = worker.decode(model(chunk=10), np.ones(20, np.float32))
    assert (found["first_text_s"], found["end_s"]) == (pytest.approx(1.1), pytest.approx(0.2))


def test_without_text_there_is_no_first_text(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, [0.0] * 3)
    assert worker.decode(model(chunk=10), np.zeros(25, np.float32))["first_text_s"] is None


def test_a_model_of_whole_utterances_begins_when_they_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([5.0, 5.25])
    monkeypatch.setattr(worker.time, "perf_counter", lambda: next(now))
    found = worker.decode(model(), np.ones(20, np.float32))
    assert 0 < found.pop("cpu_seconds") < 0.25
    assert found == {"duration_s": 2.0, "text": "one", "seconds": 0.25, "first_text_s": 2.25, "end_s": 0.25}


def test_the_peak_of_memory_is_seen() -> None:
    before = worker.peak_memory()
    block = np.ones(30_000_000, np.uint8)  # 30 MB
    block[::4096] = 2
    del block
    assert worker.peak_memory() > before - 1  # it never falls
    assert worker.peak_memory() > 30
