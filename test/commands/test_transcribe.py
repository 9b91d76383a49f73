"""Texts of audio files and pipes, without ESPnet."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_recogniser
import numpy as np
import pytest
import soundfile
from fake_recogniser import FakeRecogniser
from miniature import tone, write_speech

from espnet_kd.commands import transcribe
from espnet_kd.errors import UserError
from espnet_kd.measure.recogniser import KINDS

RATE = 100  # of the imitated models


def model(**settings: object) -> FakeRecogniser:
    return FakeRecogniser(Path("model"), {"rate": RATE, **settings}, stream=True)


def seconds(*loud: float) -> Iterator[np.ndarray]:
    """Speech of a second for each number, which is its loudness."""
    return (np.full(RATE, level, np.float32) for level in loud)


class Input(io.TextIOWrapper):
    """Stands for the standard input."""

    def __init__(self, content: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content))
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def exp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(KINDS, *fake_recogniser.KIND)
    soundfile.write("a.wav", tone(16000), 16000, "PCM_16")
    soundfile.write("b.wav", tone(8000), 8000, "PCM_16")
    return fake_recogniser.write(tmp_path / "exp", words="one two")


def test_a_file_is_a_line(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcribe.main([str(exp), "a.wav"])
    assert capsys.readouterr().out == "one two\n"


def test_a_formatted_set_becomes_a_kaldi_text(exp: Path) -> None:
    write_speech(Path("test"), {"u1": 800, "u2": 800, "u3": 800})
    Path("keys").write_text("u3 3\nu1 1\n")
    transcribe.main([str(exp), "--data", "test", "--key_file", "keys", "--out", "logs/text"])
    assert Path("logs/text").read_text() == "u3 one two\nu1 one two\n"
    Path("keys").write_text("u9 9\n")
    with pytest.raises(UserError, match="test lacks u9 of keys: give ids of this set"):
        transcribe.main([str(exp), "--data", "test", "--key_file", "keys"])
    with pytest.raises(UserError, match="give audio files, or - for a pipe, or the --data"):
        transcribe.main([str(exp)])
    with pytest.raises(UserError, match="--key_file and --out are for a formatted set"):
        transcribe.main([str(exp), "a.wav", "--out", "texts"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data test --channel 2", "--channel and --longest are for files and pipes"),
        ("--data test --longest 20", "--channel and --longest are for files and pipes"),
        ("--data test --fs 8k", "--fs is of a pipe without a header"),
        ("a.wav --fs 8k", "--fs is of a pipe without a header"),
        ("- --fs 16k", "--fs 16k: the WAV in the pipe has 8000 Hz in its header: leave it out"),
    ],
)
def test_an_option_without_effect_is_refused(
    exp: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_speech(Path("test"), {"u1": 800})
    monkeypatch.setattr(sys, "stdin", Input(Path("b.wav").read_bytes()))
    with pytest.raises(UserError, match=message):
        transcribe.main([str(exp), *words.split()])


def test_several_files_have_their_names_and_remarks_are_made_once(
    exp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcribe.main([str(exp), "a.wav", "b.wav", "b.wav"])
    out, err = capsys.readouterr()
    assert out == "a.wav one two\nb.wav one two\nb.wav one two\n"
    assert err.count("speech of 8000 Hz is resampled to the model's 16000 Hz by soxr; it has no freq") == 1


def test_control_characters_are_not_printed(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = fake_recogniser.write(exp.parent / "evil", words="one\x1b[2Jtwo\nthree")
    transcribe.main([str(other), "a.wav"])
    assert capsys.readouterr().out == r"one\x1b[2Jtwo\nthree" + "\n"


def test_long_speech_is_cut_for_a_model_of_whole_utterances(
    exp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcribe.main([str(exp), "a.wav"])
    assert "cut" not in capsys.readouterr().err
    soundfile.write("long.wav", np.tile(tone(16000), 5), 16000, "PCM_16")
    transcribe.main([str(exp), "long.wav", "--longest", "2"])
    out, err = capsys.readouterr()
    assert 3 <= out.count("one two\n") <= 5 and "speech of more than 2 s is cut at quiet moments" in err


def test_a_pipe_is_read(
    exp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Input(tone(4000).astype("<i2").tobytes()))
    transcribe.main([str(exp), "-", "--fs", "8k"])
    out, err = capsys.readouterr()
    assert out == "one two\n" and "speech of 8000 Hz" in err
    monkeypatch.setattr(sys, "stdin", Input(Path("b.wav").read_bytes()))
    transcribe.main([str(exp), "-"])
    assert capsys.readouterr().out == "one two\n"


def test_what_cannot_be_transcribed_is_refused(exp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Input(b""))
    with pytest.raises(UserError, match="- has no samples: nothing can be transcribed"):
        transcribe.main([str(exp), "-"])
    monkeypatch.setattr(sys, "stdin", Input(b"", terminal=True))
    with pytest.raises(UserError, match="- reads a pipe, not a terminal: arecord"):
        transcribe.main([str(exp), "-"])
    failing = fake_recogniser.write(exp.parent / "failing", fails=True)
    with pytest.raises(UserError, match=r"a\.wav cannot be decoded: no such kernel"):
        transcribe.main([str(failing), "a.wav"])


def test_ctrl_c_while_the_model_is_loaded_ends_without_a_traceback(
    exp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transcribe, "load_recogniser", interrupted)
    with pytest.raises(SystemExit, match="130"):
        transcribe.main([str(exp), "a.wav"])


def test_an_error_of_printing_is_not_one_of_the_file(exp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")  # as of `espnet-kd transcribe ... | head -1`

    monkeypatch.setattr(transcribe, "show", show)
    with pytest.raises(BrokenPipeError):
        transcribe.main([str(exp), "a.wav"])


def test_files_are_looked_at_before_the_model_is_loaded(exp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRecogniser, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"missing\.wav does not exist"):
        transcribe.main([str(exp), "a.wav", "missing.wav"])


def test_a_stream_gives_what_has_changed_and_a_final_text() -> None:
    found = list(transcribe.stream_texts(model(chunk=RATE), seconds(0, 1, 0, 1), longest=30, shortest=30))
    assert found == [("word", False), ("word word", False), ("word word", True)]


def test_a_pause_ends_an_utterance_of_a_live_stream() -> None:
    speech = (1, 0, 0, 0, 1, 1)  # after 2 s without a new word; silence without any word ends none
    found = [text for text in transcribe.stream_texts(model(chunk=RATE), seconds(*speech), 30, 0) if text[1]]
    assert found == [("word", True), ("word word", True)]
    found = [text for text in transcribe.stream_texts(model(chunk=RATE), seconds(*speech), 30, 15) if text[1]]
    assert found == [("word word word", True)], "a file is not cut at every pause"


def test_an_hour_is_streamed_in_utterances_of_bounded_length() -> None:
    streaming, whole = model(chunk=RATE), seconds(*[1] * 3600)
    finals = [text for text, final in transcribe.stream_texts(streaming, whole, 30, 15) if final]
    assert sum(text.count("word") for text in finals) == 3600
    assert max(text.count("word") for text in finals) == 30
    lengths = np.diff([0] + [i for i, (_, last) in enumerate(streaming.accepted) if last])
    assert lengths.max() <= 31


def test_the_last_samples_are_not_lost_and_nothing_is_made_of_nothing() -> None:
    streaming = model(chunk=RATE)
    list(transcribe.stream_texts(streaming, [np.ones(250, np.float32)], 30, 30))
    assert streaming.accepted == [(100, False), (100, False), (50, True)]
    streaming = model(chunk=RATE)  # ends with the chunk that ended an utterance
    list(transcribe.stream_texts(streaming, seconds(1, 1), 2, 1))
    assert streaming.accepted == [(100, False), (100, False), (0, True)]


def test_a_terminal_shows_partial_texts_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "8")
    transcribe.show(iter([("one", False), ("one two three", False), ("one two three", True)]), "")
    assert capsys.readouterr().out == "\rone\x1b[K\ro three\x1b[K\rone two three\x1b[K\n"


def test_without_a_terminal_only_final_texts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    transcribe.show(iter([("one", False), ("one two", True), ("", True)]), "a.wav ")
    assert capsys.readouterr().out == "a.wav one two\n"
    transcribe.show(iter([("", True)]), "a.wav ")
    assert capsys.readouterr().out == "a.wav\n"
