"""Scores in the layout of NIST sclite's ``result.txt``, which ESPnet's ``show_asr_result.sh`` reads."""

import statistics
import unicodedata
from collections.abc import Mapping

from espnet_kd.errors import printable
from espnet_kd.recipe.alignment import Aligned, Counts

HEAD = ("SPKR", "# Snt", "# Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")
STATISTICS = {"Mean": statistics.mean, "S.D.": statistics.stdev, "Median": statistics.median}


def render(aligned: Mapping[str, Aligned], utt2spk: Mapping[str, str] | None = None) -> str:
    """The whole file: percentages, raw counts, then one alignment per utterance.

    Args:
        aligned: utterance id -> alignment.
        utt2spk: utterance id -> speaker for a row per speaker; without it only the sums.
    """
    speakers = _by_speaker(aligned, utt2spk)
    parts = [
        "SYSTEM SUMMARY PERCENTAGES by SPEAKER\n",
        _table(speakers, percentages=True),
        "\nSYSTEM SUMMARY RAW COUNTS by SPEAKER\n",
        _table(speakers, percentages=False),
        "\nDUMP OF SYSTEM ALIGNMENT STRUCTURE\n",
    ]
    for utt, a in aligned.items():
        parts.append(_alignment(f"{utt2spk[utt]}-{utt}" if utt2spk else utt, a))
    return "\n".join(parts)


def _by_speaker(aligned: Mapping[str, Aligned], utt2spk: Mapping[str, str] | None) -> dict[str, list[Counts]]:
    speakers: dict[str, list[Counts]] = {}
    for utt, a in aligned.items():
        speakers.setdefault(utt2spk[utt] if utt2spk else "", []).append(a.counts)
    return dict(sorted(speakers.items()))


def _numbers(utterances: list[Counts]) -> list[float]:
    """Sentences, words, correct, substituted, deleted, inserted, errors, sentences with errors."""
    c = sum(utterances, Counts())
    wrong = sum(u.errors > 0 for u in utterances)
    row = [len(utterances), c.reference, c.hits, c.substitutions, c.deletions, c.insertions]
    return [*row, c.errors, wrong]


def _percent(row: list[float]) -> list[float]:
    sentences, words, *counts, wrong = row
    return [sentences, words, *(100 * n / max(words, 1) for n in counts), 100 * wrong / sentences]


def _table(speakers: Mapping[str, list[Counts]], percentages: bool) -> str:
    rows = {name: _numbers(us) for name, us in speakers.items()}
    total = _numbers([u for us in speakers.values() for u in us])
    if percentages:
        rows = {name: _percent(row) for name, row in rows.items()}
        total = _percent(total)
    decimals = 1 if percentages else 0
    body = [_cells(printable(name), row, decimals) for name, row in rows.items() if name]
    # ESPnet's script greps "Avg": no other line of the file may have the word.
    foot = [_cells("Sum/Avg" if percentages else "Sum", total, decimals)]
    if len(rows) > 1:
        columns = list(zip(*rows.values(), strict=True))
        for name, statistic in STATISTICS.items():
            foot.append(_cells(name, [statistic(c) for c in columns], 1))
    return _boxed(body, foot)


def _cells(name: str, row: list[float], decimals: int) -> list[str]:
    """Format a row; sentences and words of a plain row are whole numbers."""
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


def _alignment(name: str, a: Aligned) -> str:
    """One utterance, a column a token; a missing one is shown by stars, a space as ``<space>``."""
    rows: tuple[list[str], list[str], list[str]] = ([], [], [])
    for left, right, mark in a.pairs():
        left, right = _visible(left), _visible(right)
        width = max(_width(left), _width(right))
        for row, cell in zip(rows, (left or "*" * width, right or "*" * width, mark), strict=True):
            row.append(cell + " " * (width - _width(cell)))
    c = a.counts
    scores = f"Scores: (#C #S #D #I) {c.hits} {c.substitutions} {c.deletions} {c.insertions}"
    labels = ("REF: ", "HYP: ", "Eval:")
    text = [f"{label} {' '.join(row)}".rstrip() for label, row in zip(labels, rows, strict=True)]
    return "\n".join([f"id: ({printable(name)})", scores, *text, ""])


def _visible(token: str) -> str:
    return "<space>" if token == " " else printable(token)


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
