"""The standard text of CSJ words: which of the characters between the tags are transcript.

All ASCII is deleted from the surface, so that fillers and fragments stay, and both sides of ``(? a,b)`` and
``(K a;b)``. Only ``(A spoken;written)`` chooses: the written form, but for numerals each word's column 9.

Names of tags in Japanese are deleted, too. The standard recipe leaves them, but in genuine files they, W and
B are tags of the pronunciation, of which nothing is used.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from espnet_kd.corpora.csj_sdb import Word
from espnet_kd.errors import UserError

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
