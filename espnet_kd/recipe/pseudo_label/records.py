"""What the teacher heard in one utterance, and its form as a line of JSON."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One entry of an n-best list.

    Attributes:
        tokens: their number, without start and end of sentence and blanks.
        unknown: how many of them are ``<unk>``.
        score: total log-probability as the search weighs it.
        scores: its parts by scorer, unweighted; empty for a transducer.
    """

    text: str
    tokens: int
    unknown: int
    score: float
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """One decoded utterance.

    Attributes:
        samples: its length at ``rate`` Hz.
        nbest: best first; empty where the utterance is too short for the model or no hypothesis ended.
    """

    utt: str
    samples: int
    rate: int
    nbest: tuple[Hypothesis, ...]


def to_json(record: Record) -> str:
    """One line, the same for the same record."""
    return json.dumps(asdict(record), ensure_ascii=False, allow_nan=False)


def from_json(line: str) -> Record:
    """The record of a line.

    Raises:
        ValueError, KeyError, TypeError: it is not one of ours.
    """
    content: dict[str, Any] = json.loads(line)
    nbest = tuple(Hypothesis(**hypothesis) for hypothesis in content["nbest"])
    record = Record(content["utt"], content["samples"], content["rate"], nbest)
    kinds = [(record.utt, str), (record.samples, int), (record.rate, int)]
    kinds += [pair for h in nbest for pair in ((h.text, str), (h.tokens, int), (h.unknown, int))]
    if not all(isinstance(value, kind) for value, kind in kinds) or record.rate < 1 or record.samples < 0:
        raise TypeError("a value is of another type")
    if not all(isinstance(h.score, float | int) and h.tokens >= 0 for h in nbest):
        raise TypeError("a score is no number")
    return record
