"""The token list of a teacher for a student."""

from pathlib import Path

import pytest
import yaml

from espnet_kd.commands.token_from import main
from espnet_kd.data import tokens
from espnet_kd.errors import UserError

SENTENCES = ("HELLO WORLD", "HELLO OTHER WORLD", "WHO OR WHAT", "THE WHOLE WORLD")


@pytest.fixture(params=["char", "bpe"])
def teacher(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """The configuration of an experiment whose tokens are made of these sentences, and their type."""
    (tmp_path / "text").write_text("".join(f"u{i} {line}\n" for i, line in enumerate(SENTENCES)))
    options = ["--token_type", request.param, "--nbpe", "20", "--text", str(tmp_path / "text")]
    tokens.main([*options, "--out", str(tmp_path / "theirs")])
    found = (tmp_path / "theirs/tokens.txt").read_text().splitlines()
    model = str(tmp_path / "theirs/bpe.model")
    config = {"token_list": found, "token_type": request.param, "bpemodel": model}
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp/config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "exp", request.param


def take(teacher: tuple[Path, str], text: str) -> Path:
    exp, kind = teacher
    (exp.parent / "text").write_text(text)
    options = ["--token_type", kind, "--transcripts", str(exp.parent / "text")]
    main([str(exp), *options, "--out", str(exp.parent / "out")])
    return exp.parent / "out/tokens.txt"


def test_transcripts_that_the_tokens_cannot_write_are_refused(
    teacher: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A student in lower case would learn <unk> from a teacher in upper case."""
    with pytest.raises(UserError, match=r"/text: \d+ of \d+ tokens \(.+\) are not in the list, and would be"):
        take(teacher, "u1 hello world\nu2 who\n")
    assert not (teacher[0].parent / "out/tokens.txt").exists()
    found = take(teacher, "u1 HELLO\n")
    assert found.read_text() == (teacher[0].parent / "theirs/tokens.txt").read_text()
    assert not capsys.readouterr().err


def test_tokens_of_other_text_are_checked_too(teacher: tuple[Path, str]) -> None:
    text = teacher[0].parent / "text"
    (text.parent / "lower").write_text("u1 hello world\n")
    options = ["--token_type", teacher[1], "--nbpe", "20", "--text", str(text)]
    options += ["--transcripts", str(text.parent / "lower"), "--out", str(text.parent / "out")]
    with pytest.raises(UserError, match=r"/lower: \d+ of \d+ tokens \(.+\) are not in the list"):
        tokens.main(options)
    assert not (text.parent / "out/tokens.txt").exists()


def test_single_unknown_tokens_are_counted(
    teacher: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    take(teacher, "u1 HELLO WORLD HELLO WORLD HELLO WORLD HELLO Z\n")
    assert "(Z) are not in the list, and are learnt as <unk>" in capsys.readouterr().err
