"""The directory of an exported model: texts of tokens, and descriptions that are refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from miniature import write_speech

from espnet_kd.commands import measure, transcribe
from espnet_kd.errors import UserError
from espnet_kd.export import directory
from espnet_kd.export.directory import VERSION, read_tokens, text_of, write_tokens
from espnet_kd.export.sherpa import token_names
from espnet_kd.files import fingerprint

CHARACTERS = ["<blank>", "<space>", "A", "B"]
PIECES = ["<blank>", "\u2581A", "B", "\u2581"]


@pytest.mark.parametrize(
    ("tokens", "token_type", "text"),
    [(CHARACTERS, "char", "AB A"), (PIECES, "bpe", "AB A"), (["<blank>", "", "A", "B"], "word", "A B A")],
)
def test_tokens_become_text(tokens: list[str], token_type: str, text: str) -> None:
    numbers = {"char": [2, 3, 1, 2], "bpe": [1, 2, 1], "word": [2, 3, 2]}[token_type]
    assert text_of(numbers, tokens, token_type) == text


def test_an_unknown_subword_is_what_sentencepiece_writes() -> None:
    """It stands between spaces: ESPnet counts three words here, and would with "A<unk>B" count one."""
    assert text_of([1, 0, 2], ["<unk>", "\u2581A", "B"], "bpe") == "A \u2047 B"
    assert text_of([1, 0, 2], ["<unk>", "A", "B"], "char") == "A<unk>B"


def test_sherpa_onnx_joins_tokens_to_the_same_text() -> None:
    assert token_names(CHARACTERS, "char") == ["<blank>", "\u2581", "A", "B"]
    assert token_names(PIECES, "bpe") == PIECES
    assert token_names(["<blank>", "ONE"], "word") == ["<blank>", "\u2581ONE"]


def test_a_token_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_tokens(tmp_path, dict(enumerate(PIECES)))
    assert read_tokens(tmp_path) == PIECES


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a directory that `espnet-kd export` wrote"):
        directory.load(tmp_path)
    for content, message in (
        ({"version": 99, "format": "onnx"}, "another version"),
        ({"version": VERSION, "format": "onnx", "settings": {"search": "ctc"}}, "lacks or has a wrong"),
    ):
        (tmp_path / "export.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            directory.load(tmp_path)


@pytest.mark.parametrize("command", [measure, transcribe])
def test_graphs_of_an_older_checkpoint_are_named(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An export that its check refuses leaves the one before in its place."""
    out = tmp_path / "exp/onnx"
    out.mkdir(parents=True)
    (tmp_path / "exp/last.pth").write_bytes(b"new")
    source = {"checkpoint": "last.pth", "checkpoint_sha256": fingerprint(tmp_path / "exp/last.pth")}
    (out / "export.json").write_text(json.dumps({"version": VERSION, "format": "onnx", "source": source}))
    words = [str(out), "--data", str(write_speech(tmp_path / "dev", {"u1": 800}))]
    for content, warns in ((b"new", False), (b"newer", True)):
        (tmp_path / "exp/last.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"export\.json lacks or has a wrong"):  # it has no graphs
            command.main(words)
        printed = "".join(capsys.readouterr())
        assert warns == (f"warning: {out}: it was made of another last.pth than there is now" in printed)


def test_neither_torch_nor_espnet_is_needed_to_transcribe() -> None:
    program = (
        "import sys, espnet_kd.export.directory, espnet_kd.export.sherpa\n"
        "sys.exit(bool({'torch', 'espnet2'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
