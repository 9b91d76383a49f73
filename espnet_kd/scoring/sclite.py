"""Scores in the layout of NIST sclite's ``result.txt``, which ESPnet's ``show_asr_result.sh`` reads."""

import shutil
import statistics
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from espnet_kd.errors import printable
from espnet_kd.scoring.alignment import Aligned, Counts

HEAD = ("SPKR", "# Snt", "# Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")
STATISTICS = {"Mean": statistics.mean, "S.D.": statistics.stdev, "Median": statistics.median}


def write_result(
    path: Path, aligned: Iterable[tuple[str, Aligned]], utt2spk: Mapping[str, str] | None = None
) -> dict[str, Counts]:
    """Write ``result.txt``: percentages, raw counts, then one alignment per utterance.

    Memory holds one alignment at a time, and the counts of all.

    Args:
        path: file to write.
        aligned: utterance id and alignment.
        utt2spk: utterance id -> speaker, for a row per speaker; None for the sums only.

    Returns:
        Counts by utterance.
    """
    counts: dict[str, Counts] = {}
    with tempfile.TemporaryFile(dir=path.parent) as alignments, path.open("wb") as f:
        for utt, a in aligned:
            counts[utt] = a.counts
            name = f"{utt2spk[utt]}-{utt}" if utt2spk else utt
            alignments.write(f"\n{_alignment(name, a, counts[utt])}".encode())
        f.write(_head(counts, utt2spk).encode())
        alignments.seek(0)
        shutil.copyfileobj(alignments, f)
    return counts


def _head(counts: Mapping[str, Counts], utt2spk: Mapping[str, str] | None) -> str:
    speakers: dict[str, list[Counts]] = {}
    for utt, c in counts.items():
        speakers.setdefault(utt2spk[utt] if utt2spk else "", []).append(c)
    rows = {name: _numbers(speakers[name]) for name in sorted(speakers)}
    parts = [
        "SYSTEM SUMMARY PERCENTAGES by SPEAKER\n",
        _table(rows, percentages=True),
        "\nSYSTEM SUMMARY RAW COUNTS by SPEAKER\n",
        _table(rows, percentages=False),
        "\nDUMP OF SYSTEM ALIGNMENT STRUCTURE\n",
    ]
    return "\n".join(parts)


def _numbers(utterances: list[Counts]) -> list[float]:
    """Return the counts of one row, in the order of the columns ``HEAD[1:]``."""
    c = sum(utterances, Counts())
    wrong = sum(u.errors > 0 for u in utterances)
    row = [len(utterances), c.reference, c.hits, c.substitutions, c.deletions, c.insertions]
    return [*row, c.errors, wrong]


def _percent(row: list[float]) -> list[float]:
    sentences, words, *counts, wrong = row
    return [sentences, words, *(100 * n / max(words, 1) for n in counts), 100 * wrong / sentences]


def _table(rows: dict[str, list[float]], percentages: bool) -> str:
    total: list[float] = [sum(column) for column in zip(*rows.values(), strict=True)]
    if percentages:
        rows = {name: _percent(row) for name, row in rows.items()}
        total = _percent(total)
    decimals = 1 if percentages else 0
    body = [_cells(printable(name), row, decimals) for name, row in rows.items() if name]
    # ESPnet's show_asr_result.sh greps "Avg": no other line of the file may contain it.
    foot = [_cells("Sum/Avg" if percentages else "Sum", total, decimals)]
    if len(rows) > 1:
        columns = list(zip(*rows.values(), strict=True))
        for name, statistic in STATISTICS.items():
            foot.append(_cells(name, [statistic(c) for c in columns], 1))
    return _boxed(body, foot)


def _cells(name: str, row: list[float], decimals: int) -> list[str]:
    """Format a row; numbers of sentences and words are whole except in the rows of statistics."""
    whole = {0, 1} if name not in STATISTICS else set()
    return [name, *(f"{n:.{0 if i in whole else decimals}f}" for i, n in enumerate(row))]


def _boxed(body: list[list[str]], foot: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(HEAD, *body, *foot, strict=True)]

    def line(row: list[str] | tuple[str, ...]) -> str:
        name, sentences, words, *rest = (
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {name}| {sentences} {words} | {'  '.join(rest)} |"

    inner = len(line(HEAD)) - 2
    parts = [f",{'-' * inner}.", line(HEAD), f"|{'-' * inner}|", *map(line, body)]
    if body:
        parts.append(f"|{'=' * inner}|")
    parts.append(line(foot[0]))
    if foot[1:]:
        parts += [f"|{'=' * inner}|", *map(line, foot[1:])]
    return "\n".join([*parts, f"`{'-' * inner}'"])


def _alignment(name: str, a: Aligned, c: Counts) -> str:
    """Format one utterance, a column per token: stars for a missing token, ``<space>`` for a space."""
    rows: tuple[list[str], list[str], list[str]] = ([], [], [])
    for chunk in a.chunks:
        if chunk.type == "equal":  # all in one column, for speed: most tokens are right
            tokens = a.reference[chunk.ref_start_idx : chunk.ref_end_idx]
            text = printable(" ".join("<space>" if token == " " else token for token in tokens))
            columns = [(text, text, " " * _width(text))]
        else:
            columns = [_column(*column) for column in a.columns(chunk)]
        for row, cells in zip(rows, zip(*columns, strict=True), strict=True):
            row.extend(cells)
    scores = f"Scores: (#C #S #D #I) {c.hits} {c.substitutions} {c.deletions} {c.insertions}"
    labels = ("REF: ", "HYP: ", "Eval:")
    text_rows = [f"{label} {' '.join(row)}".rstrip() for label, row in zip(labels, rows, strict=True)]
    return "\n".join([f"id: ({printable(name)})", scores, *text_rows, ""])


@lru_cache(1 << 16)  # the same errors occur many times
def _column(left: str, right: str, mark: str) -> tuple[str, str, str]:
    """Return the three cells of a column, padded to the same width."""
    left, right = _visible(left), _visible(right)
    width = max(_width(left), _width(right))
    cells = left or "*" * width, right or "*" * width, mark
    one, two, three = (cell + " " * (width - _width(cell)) for cell in cells)
    return one, two, three


def _visible(token: str) -> str:
    return "<space>" if token == " " else printable(token)


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal; East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
