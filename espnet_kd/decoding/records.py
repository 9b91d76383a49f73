"""Decoded utterances, each a line of JSON in a shard.

``cat DIR/*.jsonl`` prints the whole set, sorted by utterance id; a set of more than a million utterances has
its shards in folders, ``DIR/*/*.jsonl``.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.parallel import Shard, read_settings


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One entry of an n-best list.

    Attributes:
        tokens: number of tokens, without start and end of sentence and blanks.
        unknown: how many of them are ``<unk>``.
        score: total log-probability, weighted by the search; None if whoever made the text gives none.
        scores: scorer -> unweighted log-probability; empty for a transducer.
        entropy: of the token distributions, in nats, mean over the tokens, of a CTC model over the frames;
            None if it is not known.
        segments: begin and end in seconds, and words, of each part of the text; empty without timestamps.
    """

    text: str
    tokens: int
    unknown: int
    score: float | None
    scores: dict[str, float] = field(default_factory=dict)
    entropy: float | None = None
    segments: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DecodedUtterance:
    """One decoded utterance.

    Attributes:
        samples: number of samples at ``rate`` Hz.
        nbest: hypotheses, the best first; empty if the utterance is too short for the model or no hypothesis
            ended.
        language: code of the language that the model has found, such as ``en``; None if it finds none.
    """

    utt: str
    samples: int
    rate: int
    nbest: tuple[Hypothesis, ...]
    language: str | None = None


def to_json(record: DecodedUtterance) -> str:
    """Return a decoded utterance as a line of JSON, without the optional values that it lacks."""
    content = _without_empty(asdict(record), ("language",))
    content["nbest"] = [_without_empty(entry, ("entropy", "segments")) for entry in content["nbest"]]
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _without_empty(content: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in content.items() if k not in names or v not in (None, ())}


def from_json(line: str) -> DecodedUtterance:
    """Return the decoded utterance of a line of JSON.

    Raises:
        ValueError, KeyError, TypeError: the line was not written by ``to_json``.
    """
    content: dict[str, Any] = json.loads(line)
    nbest = tuple(
        Hypothesis(**{**entry, "segments": _segments(entry)}) for entry in content["nbest"]
    )
    language = content.get("language")
    record = DecodedUtterance(content["utt"], content["samples"], content["rate"], nbest, language)
    kinds = [(record.utt, str), (record.samples, int), (record.rate, int)]
    kinds += [pair for h in nbest for pair in ((h.text, str), (h.tokens, int), (h.unknown, int))]
    if not all(isinstance(value, kind) for value, kind in kinds) or record.rate < 1 or record.samples < 0:
        raise TypeError("a value has a wrong type")
    if not all(isinstance(h.score, float | int | None) and h.tokens >= 0 for h in nbest):
        raise TypeError("a score is not a number")
    if not all(isinstance(h.entropy, float | int | None) for h in nbest):
        raise TypeError("an entropy is not a number")
    if not isinstance(language, str | None):
        raise TypeError("a language is not text")
    return record


def _segments(entry: dict[str, Any]) -> tuple[tuple[float, float, str], ...]:
    return tuple((float(begin), float(end), str(text)) for begin, end, text in entry.get("segments", ()))


def normalised_score(score: float, tokens: int) -> float:
    """Return the log-probability per prediction in nats, counting the end of the sentence as a prediction.

    ESPnet normalises in the same way in its beam searches for attention models and transducers.
    """
    return score / (tokens + 1)


@dataclass(frozen=True, slots=True)
class PseudoLabel:
    """The best hypothesis of an utterance.

    Attributes:
        unknown: how many tokens are ``<unk>``, or cannot be written in the student's tokens.
        score: normalised by its length; NaN if there is none, minus infinity if there is no hypothesis.
        entropy: see ``Hypothesis``.
        compression: how many times shorter zlib makes the text; a text that repeats itself has a high value.
        language: see ``DecodedUtterance``.
    """

    utt: str
    seconds: float
    samples: int
    text: str
    tokens: int
    unknown: int
    score: float
    entropy: float | None = None
    compression: float = 0.0
    language: str | None = None


def pseudo_label(record: DecodedUtterance) -> PseudoLabel:
    """Return the pseudo-label of a decoded utterance; an empty one if there is no hypothesis."""
    seconds = record.samples / record.rate
    if not record.nbest:
        return PseudoLabel(record.utt, seconds, record.samples, "", 0, 0, float("-inf"))
    top = record.nbest[0]
    text = " ".join(top.text.split())
    score = math.nan if top.score is None else normalised_score(top.score, top.tokens)
    return PseudoLabel(
        record.utt, seconds, record.samples, text, top.tokens, top.unknown, score,
        top.entropy, compression_ratio(text), record.language,
    )  # fmt: skip


def compression_ratio(text: str) -> float:
    """Return the length of a text in bytes over its length after compression by zlib, as Whisper does."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


Decode = Callable[[str, str], DecodedUtterance]  # utterance id, audio as wav.scp names it


def write_shard(shard: Shard, decode: Decode) -> Shard:
    """Decode a shard whose file does not exist yet; the file appears when it is complete.

    Raises:
        UserError: an utterance cannot be decoded.
    """
    return write_records(shard, lambda: (decode(utt, wav) for utt, wav in shard.utterances))


def write_records(shard: Shard, decode_all: Callable[[], Iterable[DecodedUtterance]]) -> Shard:
    """Do the same with a function that decodes the whole shard, in its order."""
    if not shard.path.exists():
        with (
            atomic_path(shard.path) as temporary,
            temporary.open("w", encoding="utf-8") as f,
        ):
            for record in decode_all():
                f.write(to_json(record) + "\n")
    return shard


def read_decoded(directory: Path, utterances: Iterable[str] | None = None) -> Iterator[DecodedUtterance]:
    """Read all decoded utterances of a directory, sorted by id.

    Args:
        directory: of the shards.
        utterances: the sorted utterances that the shards must have; None accepts any.

    Raises:
        UserError: shards are missing or incomplete, a line is malformed, or an utterance occurs twice, is
            missing, or is not in ``utterances``.
    """
    planned = None if utterances is None else iter(utterances)
    last = ""
    expected = read_settings(directory).get("shards")
    paths = sorted(directory.glob("[0-9]*.jsonl")) or sorted(directory.glob("[0-9]*/[0-9]*.jsonl"))
    if len(paths) != expected:
        raise UserError(
            f"{directory} has {len(paths)} of {expected} shards: repeat the command that makes them"
        )
    for path in paths:
        with path.open("rb") as f:
            for number, line in enumerate(f, 1):
                again = "remove the file and decode again"
                try:
                    record = from_json(line.decode())
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise UserError(f"{path}:{number} is not a decoded utterance: {again}") from None
                if record.utt <= last:
                    twice = "occurs twice" if record.utt == last else "is not in the order of ids"
                    raise UserError(f"{path}:{number}: {record.utt} {twice}: {again}")
                if planned is not None and record.utt != (expected := next(planned, None)):
                    raise UserError(
                        f"{path}:{number} has {record.utt}, where {expected or 'nothing'} is planned: the "
                        f"file belongs to other data or is incomplete; {again}"
                    )
                last = record.utt
                yield record
    if planned is not None and (expected := next(planned, None)) is not None:
        raise UserError(f"{paths[-1]} lacks {expected}: remove the file and decode again")
