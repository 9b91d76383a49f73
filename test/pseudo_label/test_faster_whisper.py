"""Labels from faster-whisper, by a model that answers from a table."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from miniature import write_speech

from espnet_kd.decoding import records
from espnet_kd.errors import UserError
from espnet_kd.pseudo_label import command, faster_whisper


class FakeModel:
    """Finds two parts in a second of speech, and nothing in less."""

    options: dict

    def __init__(self, directory: str, **options: object) -> None:
        if "damaged" in directory:
            raise RuntimeError("Unable to open file 'model.bin'")
        names = ["a", "b", "12", "<|endoftext|>", "<|0.00|>"]
        self.hf_tokenizer = SimpleNamespace(
            decode=lambda ids: names[ids[0]], token_to_id=names.index
        )

    def transcribe(self, wave: np.ndarray, **options: object) -> tuple:
        FakeModel.options = options
        parts = [
            SimpleNamespace(text=" Hello.", tokens=[4, 0, 1, 0, 4], avg_logprob=-0.5, start=0.0, end=0.5),
            SimpleNamespace(text=" You", tokens=[1], avg_logprob=-1.5, start=0.5, end=1.0),
        ]
        return iter(parts if len(wave) == 16000 else []), SimpleNamespace(language="en")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "faster_whisper", ModuleType("faster_whisper"))
    sys.modules["faster_whisper"].WhisperModel = FakeModel
    faster_whisper.load_model.cache_clear()
    for name in ("model", "damaged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_text("weights")
        (tmp_path / name / "tokenizer.json").write_text("{}")
    write_speech(tmp_path / "dump", {"s1-a": 16000, "s1-b": 8000})
    return tmp_path / "model"


def label(model: str, *options: str) -> None:
    places = ("--data", "dump", "--dst", "dst", "--workers", "1")
    command.main([*places, "--labeller", "faster_whisper", "--model", model, *options])


def test_parts_become_one_hypothesis_with_times(model: Path) -> None:
    label("model", "--beam_size", "3", "--suppress_numerals", "--languages", "en")
    one, two = records.read_decoded(Path("dst/decode"))
    best = one.nbest[0]
    assert (best.text, best.tokens, one.language) == ("Hello. You", 4, "en")
    assert best.score == -3.75  # (3 * -0.5 - 1.5) / 4 = -0.75 a token, times four tokens and the end
    assert best.segments == ((0.0, 0.5, "Hello."), (0.5, 1.0, "You"))
    assert (two.nbest, two.samples) == ((), 8000)
    assert FakeModel.options["suppress_tokens"] == [-1, 2] and FakeModel.options["beam_size"] == 3
    assert FakeModel.options["temperature"] == 0.0
    assert Path("dst/text").read_text() == "s1-a Hello. You\n"


def test_what_cannot_be_used(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="damaged cannot be loaded by faster-whisper: Unable to open"):
        label("damaged")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(UserError, match=r"needs its package: pip install 'espnet_kd\[faster_whisper\]'"):
        label("model", "--decode_dir", "other")
