"""Posteriors in the page of utterances, without models."""

import re

import numpy as np
import pytest

from espnet_kd.errors import UserError
from espnet_kd.report import strips
from espnet_kd.report.posteriors import CtcModel, Panel

TOKENS = ["<blank>", "<space>", "a&", "\u2581b"]
# Frames: blank; a& with a space behind it; blank; b
FRAMES = np.array(
    [[0.98, 0.01, 0.01, 0], [0.25, 0.25, 0.5, 0], [1, 0, 0, 0], [0.02, 0, 0, 0.98]], dtype=np.float32
)


def test_a_bar_is_as_high_as_the_posterior() -> None:
    drawn = strips.draw([Panel("teacher", FRAMES, TOKENS)], "u1", 2.0)
    assert 'width="360"' in drawn and "scale(90 1)" in drawn  # 180 pixels a second, four frames
    best, other = (re.search(rf'class="{kind}" d="([^"]*)"', drawn)[1] for kind in ("best", "other"))  # type: ignore[index]
    # Of 44 pixels, upwards from 28 + 44: a half, and the space, a quarter, above it; 0.98 * 44 = 43.1
    assert best == "M1 72h1v-22h-1zM3 72h1v-43h-1z"
    assert other == "M1 50h1v-11h-1z"


def test_the_highest_frame_of_a_token_has_its_name() -> None:
    panel = Panel("<student>", FRAMES, TOKENS)
    assert strips.named(panel) == [(1, "a&amp;"), (3, "\u2423b")]
    drawn = strips.draw([panel, panel], "u1", 2.0)
    assert drawn.count('class="token" x="135"') == 2  # the middle of frame 1
    assert 'aria-label="&lt;student&gt;: a&amp; at 0.8 s, \u2423b at 1.8 s; &lt;student&gt;: ' in drawn
    assert 'tabindex="0"' in drawn and "<student>" not in drawn
    silent = Panel("teacher", np.eye(4, dtype=np.float32)[[0, 0]], TOKENS)
    assert "teacher: blanks alone" in strips.draw([silent], "u1", 0.01) and strips.named(silent) == []


def test_a_model_without_ctc_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def load(run: str) -> CtcModel:
        if run == "b":
            raise UserError("exp/b has no CTC layer (its weight is 0)")
        return CtcModel(lambda speech, rate: FRAMES, TOKENS)

    monkeypatch.setattr(strips, "choose_models", lambda groups, name: [("teacher", "a"), ("student", "b")])
    monkeypatch.setattr(strips, "load_ctc", load)
    models, reasons = strips.load_models([], "test")
    assert list(models) == ["teacher"]
    assert reasons == ["No posteriors of student: exp/b has no CTC layer (its weight is 0)."]
    assert "warning: No posteriors of student" in capsys.readouterr().err


def test_speech_that_is_too_short_for_a_model_has_no_strip(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(speech: np.ndarray, rate: int) -> np.ndarray:
        raise RuntimeError("too short\nfor convolutions")

    def answer(frames: int) -> CtcModel:
        return CtcModel(lambda speech, rate: np.full((frames, 2), 0.5, np.float32), ["<blank>", "a"])

    models = {"one": CtcModel(refuse, []), "two": answer(0), "three": answer(3)}
    found = strips.panels_of(models, np.zeros(10, np.float32), 16000, "u1")
    assert [(panel.label, panel.posteriors.shape) for panel in found] == [("three", (3, 2))]
    assert "u1 has no posteriors of one: too short" in capsys.readouterr().err
