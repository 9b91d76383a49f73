"""Joining transcription units to utterances."""

from collections import Counter
from pathlib import Path

import pytest
from miniature_csj import Part, said, sdb

from espnet_kd.corpora.csj import Talk, join_units, make_utterances
from espnet_kd.corpora.csj_text import read_sdb
from espnet_kd.data.datadir import Utterance

TALK = Talk("A01F0055", Path("a.sdb"), {"": Path("a.wav")})
DIALOGUE = Talk("D01F0002", Path("d.sdb"), {"L": Path("d-L.wav"), "R": Path("d-R.wav")})


def utterances(
    path: Path, *parts: Part, talk: Talk = TALK, dropped: Counter | None = None, **options: float
) -> list[Utterance]:
    path.write_bytes(sdb(talk.id, parts))
    words = read_sdb(path)
    joined = join_units(words, [w.surface for w in words], talk.is_dialogue, **options)
    return make_utterances(talk, joined, Counter() if dropped is None else dropped)


def brief(found: list[Utterance]) -> list[tuple[str, str]]:
    return [(u.id.split("_", 1)[1], u.text) for u in found]


def test_an_utterance(tmp_path: Path) -> None:
    assert utterances(tmp_path / "a", said(0.4, 3.1, "あ", "い")) == [
        Utterance("A01F0055_0000400_0003100", "A01F0055", Path("a.wav"), "あい", "A01F0055", 0.4, 3.1)
    ]


@pytest.mark.parametrize(
    ("start", "joined"),
    [(2.3, True), (2.5, True), (2.501, False), (4.0, False), (1.5, True)],
)
def test_units_are_joined_up_to_a_gap_of_half_a_second(tmp_path: Path, start: float, joined: bool) -> None:
    found = brief(utterances(tmp_path / "a", said(1, 2, "あ"), said(start, 5, "い")))
    begin = f"{int(1000 * start):07d}"
    apart = [("0001000_0002000", "あ"), (f"{begin}_0005000", "い")]
    assert found == ([("0001000_0005000", "あい")] if joined else apart)


def test_the_gap_is_an_option(tmp_path: Path) -> None:
    parts = [said(1, 2, "あ"), said(2.7, 5, "い")]
    assert len(utterances(tmp_path / "a", *parts)) == 2
    assert len(utterances(tmp_path / "a", *parts, gap=0.75)) == 1


def test_beyond_ten_seconds_nothing_more_is_joined(tmp_path: Path) -> None:
    # 10.0 s are not more than 10, so the next unit still comes to them; 14.2 s are
    parts = [said(0, 6, "あ"), said(6.2, 10, "い"), said(10.2, 14.2, "う"), said(14.4, 15, "え")]
    assert brief(utterances(tmp_path / "a", *parts)) == [
        ("0000000_0014200", "あいう"),
        ("0014400_0015000", "え"),
    ]
    assert len(utterances(tmp_path / "a", *parts, longest=5)) == 3


def test_milliseconds_are_truncated_as_in_espnet_s_ids(tmp_path: Path) -> None:
    # 1000 * 1.001 is 1000.9999999999999 in binary
    found = utterances(tmp_path / "a", said(1.001, 2.5, "あ"))
    assert found[0].id.endswith("_0001000_0002500") and found[0].start == 1.0


def test_a_masked_name_drops_the_whole_joined_utterance(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    parts = [said(1, 2, "あ"), said(2.2, 3, "い", "××"), said(3.1, 4, "う"), said(9, 10, "え")]
    assert brief(utterances(tmp_path / "a", *parts, dropped=dropped)) == [("0009000_0010000", "え")]
    assert dropped == {"utterances with a masked name (×)": 1}


def test_an_utterance_without_duration_is_dropped_and_counted(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    assert not utterances(tmp_path / "a", said(1, 1, "あ"), dropped=dropped)
    assert dropped == {"utterances that end before they begin": 1}


def test_words_without_text_or_part_of_speech_are_skipped(tmp_path: Path) -> None:
    noise = Part(2.1, 2.2, [("ざつ", "", "", "")])
    parts = [said(1, 2, "あ", "", "い"), noise, said(2.6, 3, "う")]  # with the noise the gap would be 0.4 s
    wanted = [("0001000_0002000", "あい"), ("0002600_0003000", "う")]
    assert brief(utterances(tmp_path / "a", *parts)) == wanted


def test_the_sides_of_a_dialogue_are_speakers_with_a_recording_each(tmp_path: Path) -> None:
    parts = [
        said(1, 2, "あ", channel="L"),
        said(1.5, 2.5, "い", channel="R"),
        said(2.6, 3, "う", channel="R"),
        said(3.1, 4, "え", channel="L"),
    ]
    found = utterances(tmp_path / "d", *parts, talk=DIALOGUE)
    assert [(u.id, u.speaker, u.recording, str(u.audio), u.text) for u in found] == [
        ("D01F0002-L_0001000_0002000", "D01F0002-L", "D01F0002-L", "d-L.wav", "あ"),
        ("D01F0002-R_0001500_0003000", "D01F0002-R", "D01F0002-R", "d-R.wav", "いう"),
        ("D01F0002-L_0003100_0004000", "D01F0002-L", "D01F0002-L", "d-L.wav", "え"),
    ]


def test_the_channel_of_a_monologue_is_ignored(tmp_path: Path) -> None:
    parts = [said(1, 2, "あ", channel="L"), said(2.2, 3, "い", channel="R")]
    assert brief(utterances(tmp_path / "a", *parts)) == [("0001000_0003000", "あい")]
