"""Read the SDB files of CSJ and make plain text from their surface forms.

``standard_texts`` deletes all ASCII from the surface, so that fillers and fragments remain, and both sides of
``(? a,b)`` and ``(K a;b)``. Of ``(A spoken;written)`` it keeps the written form, or for numerals column 9 of
each word. It also deletes names of tags in Japanese: in genuine files these tags, and W and B, occur only in
the columns of the pronunciation, which are not used.

``espnet_texts`` reproduces ESPnet's recipe, which differs: text before an A tag in the same word is lost
(``小(A エヌ;Ｎ)`` gives Ｎ); ゼ, ロ or a comma make the tag a numeral; after a numeral of one word all A
tags take column 9, until an A tag over several words ends; Japanese names of tags remain as text.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from espnet_kd.data.datadir import Seconds
from espnet_kd.errors import UserError

COLUMNS = 17
TIME, SURFACE, PLAIN, CLASS = 3, 5, 9, 11  # counted from 0
UNIT = re.compile(r"(\d{1,9}) (\d{1,7}(?:\.\d{1,9})?)-(\d{1,7}(?:\.\d{1,9})?) ([LR])")
OTHER_ENCODINGS = ("utf-8", "euc_jp")

# (F filler) (D fragment) (D2 particle) (? uncertain) (M the word itself) (O foreign) (R masked) (X not read)
# (A spoken;written) (K kana;kanji) (W said;meant) (B read;right) and how it was spoken.
SPANS = frozenset("F D D2 ? M O R X A K W B L 笑 泣 咳 あくび".split())
EVENTS = frozenset(
    "H FV VN Q P C 笑 咳 息 泣 あくび 雑音 拍手 ベル デモ フロア発話 フロア笑 朗読間違い".split()
)
TOKEN = re.compile(
    r"\((?P<span>[A-Za-z0-9?]+|[^\x00-\x7f]+)?|<(?P<event>[^<>:]*)[^<>]*>|(?P<mark>[);<>])|(?P<text>[^\x00-\x7f]+)"
)
ASCII = re.compile(r"[\x00-\x7f]+")
NUMERAL = re.compile("ゼロ|[０零一二三四五六七八九十百千．]")
LONG_N = re.compile("([んン])ー{1,2}")

NUMERAL_CHARACTER = re.compile("[ゼロ,０零一二三四五六七八九十百千．]")
TIME_DIGITS = 6  # significant digits that awk prints: from 1000 s on these are hundredths
# ESPnet decodes with nkf, which maps these characters differently from cp932.
NKF = str.maketrans("￣―～∥－￥￠￡￢￤", "‾—〜‖−¥¢£¬¦")


class Unit(NamedTuple):
    """Speech between two pauses, such as ``0099 00280.998-00284.221 L:-001-001`` in column 4."""

    number: str
    start: Seconds
    end: Seconds
    channel: str


class Word(NamedTuple):
    """One line of an SDB file.

    Attributes:
        line: number in the file, from 1.
        unit: the transcription unit that it belongs to.
        surface: as transcribed, with tags.
        plain: without tags; the text of a numeral.
        word_class: part of speech; empty where a line holds only a tag; "unknown" in a file that has no
            parts of speech.
    """

    line: int
    unit: Unit
    surface: str
    plain: str
    word_class: str


@dataclass
class OpenTag:
    """A tag that has been opened but not closed.

    Attributes:
        tag: its name.
        line: of the word that opens it.
        written: True after the semicolon of an A tag.
        numeral: True if an A tag holds a numeral.
    """

    tag: str
    line: int
    written: bool = False
    numeral: bool = False


def read_sdb(path: Path) -> list[Word]:
    """Read the words of a talk, in the order of the file.

    Raises:
        UserError: the file is not Shift_JIS, or a line lacks columns or times; names the line.
    """
    words: list[Word] = []
    current, unit = "", Unit("", 0.0, 0.0, "")
    for number, line in enumerate(_decode(path).split("\n"), 1):
        if not (line := line.rstrip("\r")):
            continue
        if (tabs := line.count("\t")) < COLUMNS - 1:
            raise UserError(f"{path}:{number}: {tabs + 1} columns instead of {COLUMNS}, divided by tabs")
        columns = line.split("\t", CLASS + 1)
        named, colon, _ = columns[TIME].partition(":")
        if named != current or not colon:  # the words of a unit are consecutive
            current, unit = named, _unit(columns[TIME], f"{path}:{number}")
        words.append(Word(number, unit, columns[SURFACE], columns[PLAIN], columns[CLASS].strip()))
    if not any(word.word_class for word in words):  # the talk has no morphological analysis
        words = [word._replace(word_class="unknown") for word in words]
    return words


def _unit(column: str, where: str) -> Unit:
    named, colon, _ = column.partition(":")
    match = UNIT.fullmatch(named)
    if match is None or not colon:
        raise UserError(
            f"{where}: expected `0099 00280.998-00284.221 L:-001-001` in column {TIME + 1}, not {column!r}"
        )
    number, start, end, channel = match.groups()
    return Unit(number, float(start), float(end), channel)


def _decode(path: Path) -> str:
    data = path.read_bytes()
    # Text in EUC-JP decodes as Shift_JIS, but to nonsense; so try the other encodings first. They fail on
    # Shift_JIS, where hiragana begin with a byte that neither EUC-JP nor UTF-8 allows.
    for other in OTHER_ENCODINGS if not data.isascii() else ():
        try:
            data.decode(other)
        except UnicodeDecodeError:
            continue
        line = next(n for n, text in enumerate(data.split(b"\n"), 1) if not text.isascii())
        raise UserError(f"{path}:{line}: {other}, not Shift_JIS: `iconv -f {other} -t cp932` converts it")
    try:
        return data.decode("cp932")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise UserError(f"{path}:{line}: byte {data[e.start]:#x} is not Shift_JIS: copy it again") from None


def standard_texts(words: Sequence[Word], path: Path, extra_tags: Collection[str] = ()) -> list[str]:
    """Return the text of each word of a talk, "" where a word has none.

    Args:
        words: of one talk, in order: a tag may open in one word and close in a later one.
        path: their file, for messages.
        extra_tags: names of tags to delete besides the known ones.

    Raises:
        UserError: a tag is unknown, or an A tag has no written form; names file and line.
    """
    texts: list[str] = []
    spans: list[OpenTag] = []
    known = SPANS | EVENTS | frozenset(extra_tags)
    for word in words:
        if spans or ASCII.search(word.surface):
            texts.append(tidy(_untagged(word, spans, known, path)))
        else:
            texts.append(tidy(word.surface))
    for span in spans:
        if span.tag == "A":
            raise UserError(
                f"{path}:{span.line}: the tag (A is not closed in the rest of the talk: correct the file"
            )
    return texts


def _untagged(word: Word, spans: list[OpenTag], known: Collection[str], path: Path) -> str:
    """Return the text of a word; ``spans`` are the open tags, innermost last, and are updated."""
    where = f"{path}:{word.line}"
    kept: list[str] = []
    numeral = any(span.numeral for span in spans)
    for token in TOKEN.finditer(word.surface):
        name, mark, text = token["span"] or token["event"], token["mark"], token["text"]
        if text:
            spoken = [span for span in spans if span.tag == "A" and not span.written]
            for span in spoken:  # a numeral is recognised in the word that opens the tag
                span.numeral |= span.line == word.line and NUMERAL.search(text) is not None
                numeral |= span.numeral
            kept += [] if spoken else [text]
        elif mark == ")":
            _close(spans, where)
        elif mark == ";":
            for span in spans[-1:]:
                span.written = True
        elif name not in known:
            raise UserError(
                f"{where}: unknown tag {token[0]!r} in {word.surface!r}: "
                "`--extra_tags NAME` deletes it"
            )
        elif token["span"]:
            spans.append(OpenTag(name, word.line))
    return word.plain if numeral else "".join(kept)


def _close(spans: list[OpenTag], where: str) -> None:
    """Close the innermost tag; a superfluous bracket is ignored."""
    span = spans.pop() if spans else None
    if span is not None and span.tag == "A" and not span.written:
        raise UserError(f"{where}: the tag (A has no `;` with the written form: correct the file")


@lru_cache(maxsize=100_000)  # the same words occur many times
def tidy(text: str) -> str:
    """Remove spaces and a dot at the end, and shorten んー to ん, as Kaldi's csj2kaldi4m.pl does."""
    return LONG_N.sub(r"\1", "".join(text.split()).removesuffix("・"))


def espnet_texts(words: Iterable[Word]) -> list[str]:
    """Return the text of each word of a talk as in ESPnet's recipe, "" where a word has none.

    Source:
        csj2kaldi4m.pl, csj_rm_tag.py and csj_rm_tag_sp_space.sh in egs/csj/asr1/local of ESPnet.
    """
    texts = []
    inside = numeral = False
    for word in words:
        surface, written = word.surface, ";" in word.surface
        if "A" not in surface and not inside:
            text = ASCII.sub("", surface)
        elif numeral or ("A" in surface and NUMERAL_CHARACTER.search(surface)):
            text = word.plain
            numeral = not (written and inside)  # ESPnet keeps it set after a numeral of one word
            inside = not written
        else:
            text = ASCII.sub("", surface.split(";")[1]) if written else ""
            inside = not written
        texts.append(tidy(text.translate(NKF)))
    return texts
