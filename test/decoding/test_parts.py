"""A development set that consists of test sets has their hypotheses."""

from pathlib import Path

import pytest

from espnet_kd.decoding.parts import DECODED, find_parts, main
from espnet_kd.errors import UserError

TEXT = {"a": "yes", "b": "no", "c": "so"}


def dump(root: Path, *utterances: str, samples: int = 100) -> Path:
    root.mkdir(parents=True)
    (root / "utt2num_samples").write_text("".join(f"{utt} {samples}\n" for utt in utterances))
    (root / "text").write_text("".join(f"{utt} {TEXT[utt]}\n" for utt in utterances))
    return root


def decode(root: Path, *utterances: str) -> None:
    root.mkdir(parents=True)
    for file in DECODED:
        (root / file).write_text("".join(f"{utt} {file} of {utt}\n" for utt in utterances))


def test_parts_are_those_that_have_every_utterance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = dump(tmp_path / "dev", "a", "b")
    clean, other = dump(tmp_path / "clean", "a"), dump(tmp_path / "other", "b", "c")  # c was too long for dev
    main(["--set", str(whole), "--among", str(tmp_path / "missing"), str(other), str(clean)])
    assert capsys.readouterr().out == "clean\nother\n"
    assert find_parts(whole, [clean]) == {}
    again = dump(tmp_path / "again", "a", "b")
    assert set(find_parts(whole, [clean, again]).values()) == {clean, again}


def test_another_length_or_transcript_is_another_utterance(tmp_path: Path) -> None:
    whole = dump(tmp_path / "dev", "a")
    assert find_parts(whole, [dump(tmp_path / "longer", "a", samples=101)]) == {}
    same = dump(tmp_path / "same", "a")
    (same / "text").write_text("a maybe\n")
    assert find_parts(whole, [same]) == {}


def test_hypotheses_are_joined_once(tmp_path: Path) -> None:
    whole = dump(tmp_path / "dev", "a", "b")
    parts = [dump(tmp_path / "clean", "b"), dump(tmp_path / "other", "a", "c")]
    decode(tmp_path / "exp/clean", "b")
    decode(tmp_path / "exp/other", "c", "a")
    words = ["--set", str(whole), "--among", *map(str, parts), "--decoded", str(tmp_path / "exp")]
    main(words)
    joined = tmp_path / "exp/dev"
    assert {p.name for p in joined.iterdir()} == set(DECODED)
    assert (joined / "text").read_text() == "a text of a\nb text of b\n"
    before = (joined / "text").stat().st_mtime_ns
    main(words)
    assert (joined / "text").stat().st_mtime_ns == before  # so its score is not out of date
    for file in {*DECODED} - {"text"}:  # an ensemble writes texts alone
        for name in ("clean", "other", "dev"):
            (tmp_path / "exp" / name / file).unlink()
    (tmp_path / "exp/clean/text").write_text("b other\n")
    main(words)
    assert (joined / "text").read_text() == "a text of a\nb other\n"
    (tmp_path / "exp/clean/text").write_text("")
    with pytest.raises(UserError, match="clean/text lacks b: remove .*clean and decode it again$"):
        main(words)
