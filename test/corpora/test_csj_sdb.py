"""Reading SDB files: encodings, line ends, columns."""

from pathlib import Path

import pytest
from miniature_csj import Part, said, sdb

from espnet_kd.corpora.csj_text import read_sdb
from espnet_kd.errors import UserError

TALK = "A01F0055"
PARTS = [said(280.998, 284.221, "一・|一", "です"), said(285.0, 286.5, "(F えー)")]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_words_with_their_units(tmp_path: Path, newline: str) -> None:
    path = tmp_path / "a.sdb"
    path.write_bytes(sdb(TALK, PARTS, newline) + newline.encode())
    words = read_sdb(path)
    assert [(w.line, w.surface, w.plain, w.word_class) for w in words] == [
        (1, "一・", "一", "名詞"),
        (2, "です", "です", "名詞"),
        (3, "(F えー)", "(F えー)", "名詞"),
    ]
    assert words[0].unit == words[1].unit == ("0001", 280.998, 284.221, "L")
    assert words[2].unit == ("0002", 285.0, 286.5, "L")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "euc_jp"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.sdb"
    path.write_bytes(b"plain\n" + sdb(TALK, PARTS).decode("cp932").encode(encoding))
    name = encoding.removesuffix("-sig")
    with pytest.raises(UserError, match=f"a.sdb:2: {name}, not Shift_JIS: `iconv -f {name} -t cp932`"):
        read_sdb(path)


def test_a_byte_that_is_not_shift_jis_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.sdb"
    good = sdb(TALK, PARTS)
    path.write_bytes(good + b"\x82\n")
    with pytest.raises(UserError, match="a.sdb:4: byte 0x82 is not Shift_JIS"):
        read_sdb(path)
    path.write_bytes(good[: good.index("です".encode("cp932")) + 1])  # cut off in the middle of a character
    with pytest.raises(UserError, match="a.sdb:2: byte 0x82 is not Shift_JIS"):
        read_sdb(path)


def test_a_line_without_all_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.sdb"
    path.write_bytes(sdb(TALK, PARTS) + b"1\t1\tA01F0055\t0003")
    with pytest.raises(UserError, match="a.sdb:4: 4 columns instead of 17"):
        read_sdb(path)


@pytest.mark.parametrize(
    "time", ["", "0001 1.0 L:-001-001", "0001 a-b L:-001-001", "0001 1.0-2.0 M:-001-001"]
)
def test_a_line_without_times_is_named(tmp_path: Path, time: str) -> None:
    path = tmp_path / "a.sdb"
    path.write_bytes(sdb(TALK, PARTS).replace(b"0002 00285.000-00286.500 L:-001-001", time.encode()))
    with pytest.raises(UserError, match="a.sdb:3: expected `0099 00280.998-00284.221 L:-001-001` in column"):
        read_sdb(path)


def test_a_file_without_any_part_of_speech_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.sdb"
    path.write_bytes(sdb(TALK, [Part(1, 2, [("あ", "あ", "ア", ""), ("い", "い", "イ", "名詞")])]))
    assert [w.word_class for w in read_sdb(path)] == ["", "名詞"]
    path.write_bytes(sdb(TALK, [Part(1, 2, [("あ", "あ", "ア", ""), ("い", "い", "イ", "")])]))
    assert [w.word_class for w in read_sdb(path)] == ["unknown", "unknown"]
