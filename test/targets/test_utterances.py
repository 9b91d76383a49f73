"""The utterances that targets are computed for."""

from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.targets.utterances import read_data


def write_dump(path: Path, *utts: str, text: str = "") -> Path:
    path.mkdir()
    (path / "wav.scp").write_text("".join(f"{utt} {path}/{utt}.flac\n" for utt in utts))
    (path / "text").write_text("".join(f"{utt} WORDS OF {utt}\n" for utt in text.split() or utts))
    return path


def test_utterances_of_two_directories_are_sorted(tmp_path: Path) -> None:
    """The order is that of the bytes, in which a store is searched; tables need not be sorted."""
    a, b = write_dump(tmp_path / "a", "u1", "u3", "B2"), write_dump(tmp_path / "b", "u2", "é1", "a9")
    data = read_data([a, b], with_text=True)
    assert [utt for utt, _ in data] == ["B2", "a9", "u1", "u2", "u3", "é1"] and len(data) == 6
    assert dict(data)["u2"] == (str(b / "u2.flac"), "WORDS OF u2")
    assert dict(read_data([a, b], with_text=False))["u2"] == (str(b / "u2.flac"), "")


def test_utterances_are_chosen_by_number_and_at_random(tmp_path: Path) -> None:
    data = read_data([write_dump(tmp_path / "a", *(f"u{i}" for i in range(9)))], with_text=False)
    assert [utt for utt, _ in data.chosen([7, 0, 3])] == ["u7", "u0", "u3"]
    options = ((20, 1), (20, 1), (20, 2), (4, 1))
    found = [[utt for utt, _ in data.at_random(most, seed)] for most, seed in options]
    assert found[0] == found[1] != found[2]
    assert sorted(found[0]) == [f"u{i}" for i in range(9)] and len(set(found[3])) == 4


def test_an_utterance_without_transcript_or_of_two_directories_is_refused(tmp_path: Path) -> None:
    a = write_dump(tmp_path / "a", "u1", "u2", text="u1 u9")
    with pytest.raises(UserError, match="a/text has no transcript of u2, which the targets need"):
        read_data([a], with_text=True)
    b = write_dump(tmp_path / "b", "u2", "u7")
    with pytest.raises(UserError, match="b/wav.scp: u2 is in .*a/wav.scp, too: give it once"):
        read_data([a, b], with_text=False)
