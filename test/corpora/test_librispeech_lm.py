"""Sentences for language models of LibriSpeech."""

import gzip
from pathlib import Path

import pytest

from espnet_kd.corpora.prepare import main
from espnet_kd.errors import UserError


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_sentences_become_a_kaldi_text(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, text = tmp_path / f"sentences.txt{suffix}", tmp_path / "local" / "text"
    content = b"A BANK CHECK\n\nTHE  END\n"
    source.write_bytes(gzip.compress(content, mtime=0) if suffix else content)
    main(["librispeech-lm", str(source), str(text)])
    # As ESPnet's recipe counts: by lines, the empty one included.
    assert text.read_text() == "librispeech_lng_00000001 A BANK CHECK\nlibrispeech_lng_00000003 THE END\n"
    source.unlink()
    main(["librispeech-lm", str(source), str(text)])
    assert capsys.readouterr().out == f"{text}: 2 sentences\n{text}: already there\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no sentences"),
        (gzip.compress(b"A B\n" * 999, mtime=0)[:-9], "cannot be read: "),
        (b"\xff\xfe", "cannot be read: Not a gzipped file"),
    ],
)
def test_a_file_without_sentences_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    source = tmp_path / "sentences.txt.gz"
    source.write_bytes(content or gzip.compress(b"\n", mtime=0))
    with pytest.raises(UserError, match=f"sentences.txt.gz {message}"):
        main(["librispeech-lm", str(source), str(tmp_path / "text")])
    assert not (tmp_path / "text").exists()
