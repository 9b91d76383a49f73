"""The transcripts of CSJ: SDB files, their tags, and what ESPnet's recipe makes of the surface.

All ASCII is deleted from the surface, so that fillers and fragments stay, and both sides of ``(? a,b)`` and
``(K a;b)``. Only ``(A spoken;written)`` chooses: the written form, but for numerals each word's column 9.

Names of tags in Japanese are deleted, too. The standard recipe leaves them, but in genuine files they, W and
B are tags of the pronunciation, of which nothing is used.

It differs from ``csj_tags``: what stands before an A tag in its word is lost (``小(A エヌ;Ｎ)`` gives Ｎ);
ゼ, ロ or a comma make the tag a numeral; after a numeral of one word every A tag comes from column 9, up to
the end of one of several words; Japanese names of tags stay as text.
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


class Unit(NamedTuple):
    """A transcription unit, speech between two pauses; ``0099 00280.998-00284.221 L:-001-001``."""

    number: str
    start: Seconds
    end: Seconds
    channel: str


class Word(NamedTuple):
    """A word.

    Attributes:
        line: number in its file, from 1.
        surface: as transcribed, with tags.
        plain: without tags; of a numeral, the form that the standard text takes.
        word_class: part of speech; empty where a line is no word but a tag of its own. "unknown" in a file
            that has none at all.
    """

    line: int
    unit: Unit
    surface: str
    plain: str
    word_class: str


def read_sdb(path: Path) -> list[Word]:
    """The words of a talk, in the order of the file.

    Raises:
        UserError: the file is not Shift_JIS, or a line lacks columns or has no times; with its number.
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
        if named != current or not colon:  # the words of a unit follow each other
            current, unit = named, _unit(columns[TIME], f"{path}:{number}")
        words.append(Word(number, unit, columns[SURFACE], columns[PLAIN], columns[CLASS].strip()))
    if not any(word.word_class for word in words):  # not analysed
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
    # Japanese in EUC-JP would pass as Shift_JIS, as nonsense. The other way round it does not: in Shift_JIS
    # hiragana begin with a byte that neither EUC-JP nor UTF-8 allows there.
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
        raise UserError(f"{path}:{line}: byte {data[e.start]:#x} is not Shift_JIS: damaged?") from None


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


@dataclass
class Span:
    """A tag that has been opened; ``written`` once the semicolon of an A is past."""

    tag: str
    line: int
    written: bool = False
    numeral: bool = False


def standard_texts(words: Sequence[Word], path: Path, extra_tags: Collection[str] = ()) -> list[str]:
    """The text of each word of a talk, "" where a word has none.

    Args:
        words: of one talk, in order: a tag may open in one word and close in a later one.
        path: their file, for messages.
        extra_tags: names of tags to be deleted beside those that are known.

    Raises:
        UserError: a tag is unknown, or an A tag has no written form; with file and line.
    """
    texts, spans, known = [], [], SPANS | EVENTS | frozenset(extra_tags)
    for word in words:
        if spans or ASCII.search(word.surface):
            texts.append(tidy(_untagged(word, spans, known, path)))
        else:
            texts.append(tidy(word.surface))
    for span in spans:
        if span.tag == "A":
            raise UserError(f"{path}:{span.line}: the tag (A is not closed in the rest of the talk")
    return texts


@lru_cache(maxsize=100_000)  # the words of a language come again and again
def tidy(text: str) -> str:
    """A word as the standard recipe tidies it up: no space, no dot at the end, んー is ん."""
    # Where the words come from: Kaldi's csj2kaldi4m.pl, which ESPnet uses.
    return LONG_N.sub(r"\1", "".join(text.split()).removesuffix("・"))


def _untagged(word: Word, spans: list[Span], known: Collection[str], path: Path) -> str:
    """Text of a word; ``spans`` are the tags that are open, innermost last, and are brought up to date."""
    where = f"{path}:{word.line}"
    kept: list[str] = []
    numeral = any(span.numeral for span in spans)
    for token in TOKEN.finditer(word.surface):
        name, mark, text = token["span"] or token["event"], token["mark"], token["text"]
        if text:
            spoken = [span for span in spans if span.tag == "A" and not span.written]
            for span in spoken:  # the word that opens the tag decides
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
                "`--extra_tags NAME` makes it one that is deleted"
            )
        elif token["span"]:
            spans.append(Span(name, word.line))
    return word.plain if numeral else "".join(kept)


def _close(spans: list[Span], where: str) -> None:
    """Close the innermost tag; a bracket too many is deleted like all ASCII."""
    span = spans.pop() if spans else None
    if span is not None and span.tag == "A" and not span.written:
        raise UserError(f"{where}: the tag (A has no `;` with the written form after it")


NUMERAL_CHARACTER = re.compile("[ゼロ,０零一二三四五六七八九十百千．]")
TIME_DIGITS = 6  # awk prints six significant digits: from 1000 s on hundredths
# What nkf, which decodes there, makes of characters that cp932 maps otherwise.
NKF = str.maketrans("￣―～∥－￥￠￡￢￤", "‾—〜‖−¥¢£¬¦")


def espnet_texts(words: Iterable[Word]) -> list[str]:
    """The text of each word of a talk as ESPnet's recipe has it, "" where a word has none.

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
            numeral = not (written and inside)  # so a numeral of one word leaves it on
            inside = not written
        else:
            text = ASCII.sub("", surface.split(";")[1]) if written else ""
            inside = not written
        texts.append(tidy(text.translate(NKF)))
    return texts
