"""Align hypotheses with references, count errors, and keep the counts in ``score.json``."""

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import batched
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path

SCORE_FILE = "score.json"
UNITS = {"wer": "word", "cer": "character"}  # error rate -> what it counts
BLOCK = 1000  # utterances that are aligned, and in memory, at a time


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one alignment; ``+`` adds those of several utterances."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def reference(self) -> int:
        """Length of the reference, in words or characters."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors in per cent of the reference; above 100 where there are many insertions."""
        return 100 * self.errors / self.reference if self.reference else float("nan")


@dataclass(frozen=True)
class Aligned:
    """Alignment of one utterance.

    Attributes:
        reference: tokens.
        hypothesis: tokens.
        chunks: jiwer's ``AlignmentChunk``, each a type and a half-open range of tokens on both sides.
    """

    reference: list[str]
    hypothesis: list[str]
    chunks: list[Any]

    @property
    def counts(self) -> Counts:
        """Count the hits and errors of the utterance."""
        n = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
        for c in self.chunks:
            n[c.type] += max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx)
        return Counts(n["equal"], n["substitute"], n["delete"], n["insert"])

    def pairs(self) -> list[tuple[str, str, str]]:
        """Return (reference token or "", hypothesis token or "", one of " SDI") of each column."""
        return [column for chunk in self.chunks for column in self.columns(chunk)]

    def respelled(self) -> Iterator[tuple[str, str]]:
        """Yield the substituted tokens that differ in case, or in the form of Unicode, alone."""
        for chunk in self.chunks:
            for left, right, _ in self.columns(chunk) if chunk.type == "substitute" else ():
                if _folded(left) == _folded(right):
                    yield left, right

    def columns(self, chunk: Any) -> Iterator[tuple[str, str, str]]:
        """Yield the columns of one chunk, each as in ``pairs``."""
        mark = {"equal": " ", "substitute": "S", "delete": "D", "insert": "I"}[chunk.type]
        left = self.reference[chunk.ref_start_idx : chunk.ref_end_idx]
        right = self.hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        width = max(len(left), len(right))
        return zip(left or [""] * width, right or [""] * width, [mark] * width, strict=True)


def _folded(token: str) -> str:
    return unicodedata.normalize("NFKC", token.casefold())


def clean(text: str, unit: str, symbols: Collection[str] = ()) -> str:
    """Remove non-linguistic symbols and surplus spaces, as ESPnet does before it scores.

    With the unit "word" a symbol is removed where it is a whole word; with "character" wherever it occurs,
    as ESPnet's ``tokenize_text --remove_non_linguistic_symbols true`` does.
    """
    if unit == "character" and symbols:
        longest_first = sorted(symbols, key=lambda s: (-len(s), s))
        text = re.sub("|".join(map(re.escape, longest_first)), "", text)
    return " ".join(word for word in text.split() if word not in symbols)


def join(reference: Mapping[str, str], hypothesis: Mapping[str, str], ref: object, hyp: object) -> list[str]:
    """Check that both sides have the same utterances and return their ids in the order of the reference.

    Args:
        reference: utterance id -> text.
        hypothesis: utterance id -> text; a text may be empty.
        ref: file of the reference, for messages.
        hyp: file of the hypotheses, for messages.

    Raises:
        UserError: an id is on one side only, or a reference is empty.
    """
    if not reference:
        raise UserError(f"{ref} has no utterances")
    missing = [utt for utt in reference if utt not in hypothesis]
    if missing:
        raise UserError(
            f"{hyp} lacks {_some(missing)} of {ref}: decode the set again (perhaps the decoding was "
            "interrupted)"
        )
    extra = [utt for utt in hypothesis if utt not in reference]
    if extra:
        raise UserError(
            f"{hyp} has {_some(extra)} that {ref} does not have: give the reference of the same set"
        )
    for utt, text in reference.items():
        if not text.split():
            raise UserError(f"{ref}: the reference of {utt} is empty: drop the utterance or transcribe it")
    return list(reference)


def _some(utterances: list[str]) -> str:
    more = f" and {len(utterances) - 1} more" if len(utterances) > 1 else ""
    return f"utterance {utterances[0]}{more}"


def align(
    references: Iterable[str], hypotheses: Iterable[str], unit: str, symbols: Collection[str] = ()
) -> Iterator[Aligned]:
    """Align each reference with its hypothesis so that the number of errors is least.

    With the unit "character" a space is a character. sclite gives a substitution 4/3 of the cost of an
    insertion, so its number of errors is higher than this minimum in rare utterances; where it compares
    without regard to case, as ESPnet's asr.sh calls it, lower: here `Yes` for `yes` is an error.

    Args:
        references: texts.
        hypotheses: texts, in the same order.
        unit: "word" or "character".
        symbols: non-linguistic symbols to remove, see ``clean``.
    """
    import jiwer
    import jiwer.transforms as tr

    # Keep jiwer from stripping the characters again: `clean` has done it.
    split = tr.Compose([tr.ReduceToListOfListOfChars()])
    for block in batched(zip(references, hypotheses, strict=True), BLOCK):
        left, right = ([clean(text, unit, symbols) for text in side] for side in zip(*block, strict=True))
        if unit == "word":
            out: Any = jiwer.process_words(left, right)
        else:
            out = jiwer.process_characters(left, right, reference_transform=split, hypothesis_transform=split)
        aligned = [Aligned(*row) for row in zip(out.references, out.hypotheses, out.alignments, strict=True)]
        total = sum((a.counts for a in aligned), Counts())
        assert total == Counts(out.hits, out.substitutions, out.deletions, out.insertions)
        yield from aligned


@dataclass(frozen=True)
class Score:
    """Error counts of one decoded set.

    Attributes:
        path: its file, for messages.
        total: "wer" or "cer" -> counts over the set.
        utterances: "wer" or "cer" -> utterance id -> (errors, length of the reference, substitutions,
            deletions, insertions); the last three are missing if an older espnet_kd scored the set.
    """

    path: str
    total: dict[str, Counts]
    utterances: dict[str, dict[str, tuple[int, ...]]]

    def rate(self, kind: str) -> float:
        """Return the error rate of the set in per cent."""
        return self.total[kind].rate


def write_score(directory: str | Path, counts: Mapping[str, Mapping[str, Counts]]) -> Score:
    """Write ``directory/score.json``.

    Args:
        directory: of the decoded set.
        counts: "wer" and "cer" -> utterance id -> counts.
    """
    path = Path(directory) / SCORE_FILE
    total = {kind: sum(rows.values(), Counts()) for kind, rows in counts.items()}
    utterances = {kind: {utt: _row(c) for utt, c in rows.items()} for kind, rows in counts.items()}
    head: dict[str, object] = {"sentences": len(counts["wer"])}
    for kind, c in total.items():
        wrong = sum(row[0] > 0 for row in utterances[kind].values())
        head[kind] = {**asdict(c), "reference": c.reference, "errors": c.errors, "wrong_sentences": wrong}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as f:
        f.write("{" + ",\n".join(lines) + ',\n"utterances": {\n')
        for number, utt in enumerate(sorted(utterances["wer"])):
            row = json.dumps({kind: utterances[kind][utt] for kind in UNITS})
            f.write(f"{',\n' if number else ''}  {json.dumps(utt)}: {row}")
        f.write("\n}}\n")
    return Score(str(path), total, utterances)


def _row(c: Counts) -> tuple[int, ...]:
    return c.errors, c.reference, c.substitutions, c.deletions, c.insertions


def read_score(directory: str | Path) -> Score:
    """Read ``directory/score.json``.

    Raises:
        UserError: the file is missing, or ``write_score`` did not write it.
    """
    path = Path(directory) / SCORE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=_compact)
        fields = Counts.__dataclass_fields__
        total = {kind: Counts(*(int(content[kind][f]) for f in fields)) for kind in UNITS}
        rows = content["utterances"].items()
        utterances = {kind: {utt: row[i] for utt, row in rows} for i, kind in enumerate(UNITS)}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run `espnet-kd score` first") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}: give the directory of a scored set") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path} is damaged: write it again with `espnet-kd score`") from None
    return Score(str(path), total, utterances)


def _compact(content: dict[str, Any]) -> Any:
    """Turn the mapping of an utterance into a tuple in the order of ``UNITS``: there may be a million."""
    if content.keys() != UNITS.keys():
        return content
    rows = tuple(tuple(int(number) for number in content[kind]) for kind in UNITS)
    if any(len(row) not in (2, 5) for row in rows):
        raise ValueError("neither (errors, length) nor these and the three kinds of errors")
    return rows


def check_comparable(first: Score, second: Score, kind: str = "wer") -> None:
    """Check that two scores have the same utterances, with references of the same lengths.

    Args:
        first: one side.
        second: the other side.
        kind: "wer" or "cer", the error rate to compare.

    Raises:
        UserError: they differ; names the first utterance that differs.
    """
    a, b = first.utterances[kind], second.utterances[kind]
    for utt in sorted(a.keys() | b.keys()):
        if utt not in a or utt not in b:
            lacks, has = (second, first) if utt in a else (first, second)
            raise UserError(f"{lacks.path} lacks utterance {utt} of {has.path}: score the same set for both")
        one, two = a[utt][1], b[utt][1]
        if one != two:
            raise UserError(
                f"{utt} has {one} reference {UNITS[kind]}s in {first.path} and {two} in {second.path}: "
                "score both against the same reference"
            )
