"""SDB files, the short-unit words of a CSJ talk: Shift_JIS, a word a line, columns divided by tabs."""

import re
from pathlib import Path
from typing import NamedTuple

from espnet_kd.corpora.datadir import Seconds
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
