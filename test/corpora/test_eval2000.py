"""Hub5 eval2000: reference, segments, data directories."""

from pathlib import Path

import pytest
from miniature import contents
from miniature_switchboard import write_eval2000

from espnet_kd.corpora import eval2000
from espnet_kd.corpora.eval2000 import Segment, add_margins, plain_reference, read_pem, read_stm, repaired_stm
from espnet_kd.data.datadir import read_data_dir
from espnet_kd.errors import UserError

PEM = "LDC2002S09/hub5e_00/english/hub5e_00.pem"
STM = "LDC2002T43/2000_hub5_eng_eval_tr/reference/hub5e00.english.000405.stm"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_eval2000(tmp_path / "hub5", utterances=8)


def prepare(root: Path, *roots: Path) -> Path:
    eval2000.main([*map(str, roots or [root]), str(root.parent / "data")])
    return root.parent / "data/eval2000"


def edit(path: Path, old: str, new: str) -> int:
    """Replace it in the first line that has it; returns the number of that line."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


def test_tables(root: Path) -> None:
    data = prepare(root)
    audio = root / "LDC2002S09/hub5e_00/english"
    assert (data / "wav.scp").read_text().splitlines() == [
        f"{call}-{side} {audio}/{call}.sph" for call in ("en_4156", "sw_4156") for side in "AB"
    ]
    first = next(iter(read_data_dir(data)))
    assert (first.id, first.speaker, first.channel) == ("en_4156-A_000025-000085", "en_4156-A", 0)
    assert (first.start, first.end) == (0.15, 0.95)  # 0.25 to 0.85 s, widened by 0.1
    line = next(line for line in (root / STM).read_text().splitlines() if line.startswith("en_4156 A"))
    assert line.endswith(" <O,en,F,en-F>  DO THINK ((SO) (TH-)") and first.text == "do think so th-"
    assert {u.channel for u in read_data_dir(data) if u.speaker.endswith("-B")} == {1}


def test_stm_and_glm_are_written_into_the_data_directory(root: Path) -> None:
    data = prepare(root)
    assert (data / "glm").read_bytes() == (root / STM).with_name("en20000405_hub5.glm").read_bytes()
    reference = (data / "stm").read_text()
    assert "((" not in reference and "_ASIDE" not in reference
    assert reference.count("\n") == (root / STM).read_text().count("\n")


def test_segments_that_are_not_scored_are_counted(root: Path, capsys: pytest.CaptureFixture) -> None:
    edit(root / STM, "DO THINK ((SO) (TH-)", "(%HESITATION) <B_ASIDE>")
    data = prepare(root)
    out, err = capsys.readouterr()
    assert "1 that are not scored (first: " in out
    assert "1 without a word that must be recognised (first: " in out
    assert f"{data}: 7 utterances, 4 conversation sides\n" in out
    assert err == "warning: 2 calls with 4 sides, the corpus has 40\n"


def test_two_roots_and_a_second_run_give_the_same_bytes(root: Path) -> None:
    first = contents(prepare(root))
    assert contents(prepare(root, root / "LDC2002S09", root / "LDC2002T43")) == first


def test_a_reference_without_a_segment_is_an_error(root: Path) -> None:
    line = edit(root / STM, "en_4156_A 0.25 0.85", "en_4156_A 0.25 0.86")
    with pytest.raises(
        UserError, match=rf"{STM}:{line}: .*{PEM} has no segment .* of en_4156-A_000025-000086"
    ):
        prepare(root)
    assert not (root.parent / "data").exists()


def test_an_ignored_reference_needs_no_segment(root: Path) -> None:
    edit(root / PEM, (root / PEM).read_text().splitlines()[-1] + "\n", "")
    assert len(list(read_data_dir(prepare(root)))) == 8


def test_a_segment_without_a_reference_is_left_out(root: Path, capsys: pytest.CaptureFixture) -> None:
    line = edit(
        root / PEM, "en_4156 A unknown_speaker 0.25 0.85", "en_4156 A x 0.25 0.85\nen_4156 A x 9.00 9.50"
    )
    assert len(list(read_data_dir(prepare(root)))) == 8
    err = capsys.readouterr().err
    assert f"1 segments are not in {root / STM} and are left out, the first is {root / PEM}:{line + 1}" in err


def test_a_call_without_audio_is_left_out_of_the_reference_too(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    (root / "LDC2002S09/hub5e_00/english/sw_4156.sph").unlink()
    data = prepare(root)
    assert "4 without audio, left out of stm, too, (first: " in capsys.readouterr().out
    assert "sw_4156" not in (data / "stm").read_text() + (data / "text").read_text()


def test_an_unknown_mark_is_kept_and_named(root: Path, capsys: pytest.CaptureFixture) -> None:
    line = edit(root / STM, "DO THINK", "DO [THINK]")
    assert "do [think]" in (prepare(root) / "text").read_text()
    assert f"1 words with an unknown mark, [think] (first: {root / STM}:{line})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("hub5e_00.pem", r"there is no hub5e_00.pem: .* \(the segments, of LDC2002S09\)"),
        ("hub5e00.english.000405.stm", r"there is no hub5e00.english.000405.stm: .* of LDC2002T43"),
        ("en20000405_hub5.glm", "there is no en20000405_hub5.glm"),
        ("*.sph", "there is no en_NNNN.sph or sw_NNNN.sph below"),
    ],
)
def test_a_missing_file(root: Path, gone: str, message: str) -> None:
    for path in root.rglob(gone):
        path.unlink()
    with pytest.raises(UserError, match=message):
        prepare(root)


LINE = "en_4156 A en_4156_A 357.64 359.64 <O,en,F,en-F>  HE IS A POLICE OFFICER"


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
    words = LINE + " ;; OR SO"
    _, segment = read_stm(write(tmp_path / "x.stm", " ;; comment", words)).popitem()
    assert segment.words.endswith("OFFICER ;; OR SO")
    kept = repaired_stm(write(tmp_path / "x.stm", ";; en_4156", words), without=["en_4156"])
    assert kept == ";; en_4156\n"
    with pytest.raises(UserError, match="x.pem:1: expected `CALL SIDE SPEAKER START END`"):
        read_pem(write(tmp_path / "x.pem", "en_4156 A unknown_speaker 301.85 302.48 ;; OR SO"))


def test_a_stray_byte_does_not_divide_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.stm").write_bytes(LINE.encode() + b"\x85YES\x1cWELL\r\n")
    found = read_stm(tmp_path / "x.stm")
    assert [s.words for s in found.values()] == ["HE IS A POLICE OFFICER\x85YES\x1cWELL"]
    assert repaired_stm(tmp_path / "x.stm").encode("latin-1") == LINE.encode() + b"\x85YES\x1cWELL\n"


def test_an_stm(tmp_path: Path) -> None:
    ignored = "sw_4390 B inter_segment_gap 0.00 1.16 <O,,,> IGNORE_TIME_SEGMENT_IN_SCORING"
    empty = "sw_4390 B sw_4390_B 1.16 2 <O,sw,M,sw-M>"
    found = read_stm(write(tmp_path / "x.stm", ';; LABEL "O" "Overall" ""', LINE, ignored, empty))
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
        ((LINE.replace("<O,en,F,en-F>", ""),), "x:1: expected `CALL SIDE SPEAKER START END <LABELS> WORDS`"),
        ((LINE.replace("357.64", "soon"),), "x:1: soon and 359.64 are not times"),
        ((";; comment", LINE, LINE), "x:3: en_4156-A_035764-035964 occurs a second time, first at .*x:2"),
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
    path = write(tmp_path / "x.stm", ";; en_4156 is a call", LINE, other)
    repaired = other.replace("((", "(").replace("<B_ASIDE>", "")
    assert repaired_stm(path) == f";; en_4156 is a call\n{LINE}\n{repaired}\n"
    assert repaired_stm(path, without=["en_4156"]) == f";; en_4156 is a call\n{repaired}\n"
