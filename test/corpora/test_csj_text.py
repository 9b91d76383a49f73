"""CSJ's SDB files, and the standard text of every tag."""

from pathlib import Path

import pytest
from miniature_csj import Part, said, sdb

from espnet_kd.corpora.csj_text import Word, espnet_texts, read_sdb, standard_texts
from espnet_kd.errors import UserError


def words(path: Path, *surfaces: str) -> list[Word]:
    path.write_bytes(sdb("A01F0055", [said(0, 1, *surfaces)]))
    return read_sdb(path)


def standard(path: Path, *surfaces: str) -> list[str]:
    return standard_texts(words(path, *surfaces), path)


@pytest.mark.parametrize(
    ("surface", "text"),
    [
        ("音声", "音声"),
        ("(F えー)", "えー"),
        ("比べ(F えー)る", "比べえーる"),
        ("(D こ)", "こ"),
        ("(D2 的)", "的"),
        ("(? 字数)", "字数"),
        ("(? 次数,実数)", "次数実数"),
        ("(?)", ""),
        ("(D (? すー))", "すー"),
        ("(M は)", "は"),
        ("(O ザッツファイン)", "ザッツファイン"),
        ("(R ××)", "××"),
        ("(X 実際)", "実際"),
        ("(A シーディーアール;ＣＤ－Ｒ)", "ＣＤ－Ｒ"),
        ("(A 十;１０)|十", "十"),
        ("(A ゼロ;０)|ゼロ", "ゼロ"),
        ("(A 三．五;３．５)|三．五", "三．五"),
        ("(A シー十;Ｃ１０)|シー十", "シー十"),
        ("第(A 二;２)|第二", "第二"),
        ("スモール(A エヌ;Ｎ)", "スモールＮ"),
        ("(A エヌ;Ｎ)個", "Ｎ個"),
        ("(A ティーエフ;ＴＦ)(A アイディーエフ;ＩＤＦ)", "ＴＦＩＤＦ"),
        ("(? (A エヌ;Ｎ))", "Ｎ"),
        ("(A (? エヌ);Ｎ)", "Ｎ"),
        ("(K たち (F えー) ばな;橘)", "たちえーばな橘"),
        ("(W ンガ;ガ)", "ンガガ"),
        ("(B シブタイ;ジュータイ)", "シブタイジュータイ"),
        ("(笑 そう)", "そう"),
        ("(笑 (F あ))", "あ"),
        ("(泣 そう)", "そう"),
        ("(咳 そう)", "そう"),
        ("(L そう)", "そう"),
        ("笑い", "笑い"),
        ("えー<H>", "えー"),
        ("<FV>ん", "ん"),
        ("<VN>", ""),
        ("す<Q>ごい", "すごい"),
        ("<笑>", ""),
        ("<咳>", ""),
        ("<息>", ""),
        ("<泣>", ""),
        ("<雑音>", ""),
        ("<拍手>", ""),
        ("話<雑音>し", "話し"),
        ("<P:00453.373-00454.013>", ""),
        ("話<P:00453.373-00454.013>し", "話し"),
        ("(F んー)", "ん"),
        ("んーー", "ん"),
        ("ンーー", "ン"),
        ("一・", "一"),
        ("東　京", "東京"),
        ("閉じ)る", "閉じる"),
    ],
)
def test_text_of_a_tag(tmp_path: Path, surface: str, text: str) -> None:
    assert standard(tmp_path / "a.sdb", surface) == [text]


@pytest.mark.parametrize(
    ("surfaces", "texts"),
    [
        (["(A シー|シー", "ディー;ＣＤ)|ディー", "が"], ["", "ＣＤ", "が"]),
        (["(A 二千|二千", "十|十", "一;２０１１)|一", "年"], ["二千", "十", "一", "年"]),
        (["(A シー|シー", "十;Ｃ１０)|十"], ["", "Ｃ１０"]),
        (["(笑 そう", "です", "ね)", "え"], ["そう", "です", "ね", "え"]),
        (["(A 十;１０)|十", "(A シーディー;ＣＤ)|シーディー"], ["十", "ＣＤ"]),
        (["(L (A シー|シー", "ディー;ＣＤ)|ディー", "です)"], ["", "ＣＤ", "です"]),
    ],
)
def test_a_tag_over_several_words(tmp_path: Path, surfaces: list[str], texts: list[str]) -> None:
    assert standard(tmp_path / "a.sdb", *surfaces) == texts


@pytest.mark.parametrize("surface", ["(Z そう)", "<謎>", "(そう)", "a<b", "(F <HH>)", "( そう)"])
def test_an_unknown_tag_is_named_with_its_line(tmp_path: Path, surface: str) -> None:
    with pytest.raises(UserError, match=r"a.sdb:2: unknown tag .*--extra_tags"):
        standard(tmp_path / "a.sdb", "音声", surface)


def test_an_unknown_tag_can_be_declared(tmp_path: Path) -> None:
    path = tmp_path / "a.sdb"
    assert standard_texts(words(path, "(Z そう)", "<謎>"), path, {"Z", "謎"}) == ["そう", ""]


def test_a_tag_without_its_written_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.sdb:2: the tag \(A has no `;`"):
        standard(tmp_path / "a.sdb", "音声", "(A エヌ)")
    with pytest.raises(UserError, match=r"a.sdb:1: the tag \(A is not closed"):
        standard(tmp_path / "a.sdb", "(A エヌ", "音声")


# What nkf, csj2kaldi4m.pl and csj_rm_tag_sp_space.sh make of these words.
@pytest.mark.parametrize(
    ("surfaces", "texts"),
    [
        (["(F えー)", "(? 次数,実数)", "(W ンガ;ガ)"], ["えー", "次数実数", "ンガガ"]),
        (["小(A エヌ;Ｎ)"], ["Ｎ"]),
        (["(A ティーエフ;ＴＦ)(A アイディーエフ;ＩＤＦ)"], ["ＴＦアイディーエフ"]),
        (["(A ロム;ＲＯＭ)|ロム"], ["ロム"]),
        (["(A シー|シー", "ディー;ＣＤ)|ディー", "が"], ["", "ＣＤ", "が"]),
        (["(A 二千|二千", "十;２０１０)|十", "(A エヌ;Ｎ)|エヌ"], ["二千", "十", "Ｎ"]),
        (["(A 十;１０)|十", "が", "(A エヌ;Ｎ)|エヌ", "(A シー|シー", "ディー;ＣＤ)|ディー", "(A エム;Ｍ)"],
         ["十", "が", "エヌ", "シー", "ディー", "Ｍ"]),
        (["(A シーディーアール;ＣＤ－Ｒ)"], ["ＣＤ−Ｒ"]),
        (["<雑音>", "(笑 そう)"], ["雑音", "笑そう"]),
    ],
)  # fmt: skip
def test_texts_as_in_espnet_s_recipe(tmp_path: Path, surfaces: list[str], texts: list[str]) -> None:
    assert espnet_texts(words(tmp_path / "a.sdb", *surfaces)) == texts


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
