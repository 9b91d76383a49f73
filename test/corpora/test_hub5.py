from pathlib import Path

import pytest

from espnet_kd.corpora.eval2000 import Segment, add_margins, plain_reference, read_pem, read_stm, repaired_stm
from espnet_kd.errors import UserError

STM = "en_4156 A en_4156_A 357.64 359.64 <O,en,F,en-F>  HE IS A POLICE OFFICER"


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def segments(*times: tuple[float, float], side: str = "A") -> list[Segment]:
    return [Segment(f"x.pem:{i}", "en_4156", side, *span) for i, span in enumerate(times)]


def test_a_pem(tmp_path: Path) -> None:
    line = "en_4156 A unknown_speaker 301.85 302.48"
    found = read_pem(write(tmp_path / "x.pem", ";; a comment", "", line, line))
    assert list(found) == ["en_4156-A_030185-030248"]
    assert found["en_4156-A_030185-030248"].speaker == "en_4156-A"


def test_a_comment_is_a_line_that_begins_as_one(tmp_path: Path) -> None:
    words = STM + " ;; OR SO"
    _, segment = read_stm(write(tmp_path / "x.stm", " ;; comment", words)).popitem()
    assert segment.words.endswith("OFFICER ;; OR SO")
    kept = repaired_stm(write(tmp_path / "x.stm", ";; en_4156", words), without=["en_4156"])
    assert kept == ";; en_4156\n"
    with pytest.raises(UserError, match="x.pem:1: expected `CALL SIDE SPEAKER START END`"):
        read_pem(write(tmp_path / "x.pem", "en_4156 A unknown_speaker 301.85 302.48 ;; OR SO"))


def test_a_stray_byte_does_not_divide_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.stm").write_bytes(STM.encode() + b"\x85YES\x1cWELL\r\n")
    found = read_stm(tmp_path / "x.stm")
    assert [s.words for s in found.values()] == ["HE IS A POLICE OFFICER\x85YES\x1cWELL"]
    assert repaired_stm(tmp_path / "x.stm").encode("latin-1") == STM.encode() + b"\x85YES\x1cWELL\n"


def test_an_stm(tmp_path: Path) -> None:
    ignored = "sw_4390 B inter_segment_gap 0.00 1.16 <O,,,> IGNORE_TIME_SEGMENT_IN_SCORING"
    empty = "sw_4390 B sw_4390_B 1.16 2 <O,sw,M,sw-M>"
    found = read_stm(write(tmp_path / "x.stm", ';; LABEL "O" "Overall" ""', STM, ignored, empty))
    # 1.16 * 100 is 115.99999999999999, and Kaldi cuts off
    assert list(found) == ["en_4156-A_035764-035964", "sw_4390-B_000000-000115", "sw_4390-B_000115-000200"]
    first, second, third = found.values()
    assert first.words == "HE IS A POLICE OFFICER" and not first.is_ignored
    assert second.is_ignored and third.words == "" and third.where == f"{tmp_path}/x.stm:4"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("en_4156 A 301.85 302.48", r"x:1: expected `CALL SIDE SPEAKER START END`, not 'en_4156 A 301"),
        ("en_4156 A someone 301.85 302.48 more", "x:1: expected `CALL SIDE"),
        ("en_4156 1 someone 301.85 302.48", "x:1: the side is 1, not A or B"),
        ("en_4156 A someone now 302.48", "x:1: now and 302.48 are not times in seconds"),
        ("en_4156 A someone 302.48 301.85", "x:1: runs from 302.48 to 301.85 s"),
        ("en_4156 A someone -1 301.85", "x:1: runs from -1 to 301.85 s"),
        ("en_4156 A someone 1 nan", "x:1: runs from 1 to nan s"),
        ("en_4156 A someone 1 1e307", "x:1: runs from 1 to 1e307 s"),
    ],
)
def test_a_malformed_pem(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pem(write(tmp_path / "x", line))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((STM.replace("<O,en,F,en-F>", ""),), "x:1: expected `CALL SIDE SPEAKER START END <LABELS> WORDS`"),
        ((STM.replace("357.64", "soon"),), "x:1: soon and 359.64 are not times"),
        ((";; comment", STM, STM), "x:3: en_4156-A_035764-035964 occurs a second time, first at .*x:2"),
    ],
)
def test_a_malformed_stm(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_stm(write(tmp_path / "x", *lines))


@pytest.mark.parametrize(
    ("reference", "plain"),
    [
        ("HE IS A POLICE OFFICER", "he is a police officer"),
        ("(%HESITATION) I KNOW (%HESITATION) YES", "i know yes"),
        ("%HESITATION I KNOW", "i know"),
        ("<B_ASIDE> HOLD ON <E_ASIDE> YES", "hold on yes"),
        ("HOLD <B_ASIDE> ON", "hold on"),
        ("IN (TH-) THE (WAY)", "in th- the way"),
        ("((SO) IT IS", "so it is"),
        ("(TH- THE) END", "th- the end"),
        ("(%HESITATION)", ""),
        ("UH-HUH I'M AT I B M", "uh-huh i'm at i b m"),
        ("", ""),
    ],
)
def test_words_of_a_reference(reference: str, plain: str) -> None:
    assert " ".join(plain_reference(reference)) == plain


@pytest.mark.parametrize(
    ("times", "widened"),
    [
        ([(1, 2)], [(0.9, 2.1)]),
        ([(0.05, 2)], [(0.0, 2.1)]),
        ([(1, 2), (5, 6)], [(0.9, 2.1), (4.9, 6.1)]),
        ([(1, 2), (2.1, 3)], [(0.9, 2.05), (2.05, 3.1)]),  # the gap is 0.1: half of it each
        ([(1, 2), (2, 3)], [(0.9, 2.0), (2.0, 3.1)]),
        ([(1, 2), (1.5, 3)], [(0.9, 2.0), (1.5, 3.1)]),  # they overlap and stay as they are
        ([(5, 6), (1, 2)], [(4.9, 6.1), (0.9, 2.1)]),
    ],
)
def test_margins(times: list[tuple[float, float]], widened: list[tuple[float, float]]) -> None:
    pem = segments(*times)
    assert [add_margins(pem, 0.1)[s.id] for s in pem] == widened


def test_the_sides_of_a_call_have_margins_of_their_own() -> None:
    a, b = segments((1, 2)), segments((1.5, 3), side="B")
    assert list(add_margins(a + b, 0.1).values()) == [(0.9, 2.1), (1.4, 3.1)]


def test_an_stm_for_the_scorer(tmp_path: Path) -> None:
    other = "sw_4390 B sw_4390_B 1.16 2 <O,sw,M,sw-M> ((SO) <B_ASIDE> WHAT"
    path = write(tmp_path / "x.stm", ";; en_4156 is a call", STM, other)
    mended = other.replace("((", "(").replace("<B_ASIDE>", "")
    assert repaired_stm(path) == f";; en_4156 is a call\n{STM}\n{mended}\n"
    assert repaired_stm(path, without=["en_4156"]) == f";; en_4156 is a call\n{mended}\n"
