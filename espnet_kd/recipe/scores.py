"""``score.json``: what one decoded set scored, utterance by utterance, so that nothing is aligned twice."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path
from espnet_kd.recipe.alignment import Counts

NAME = "score.json"
KINDS = {"wer": "word", "cer": "character"}


@dataclass(frozen=True)
class Score:
    """Scores of one set.

    Attributes:
        path: where they lie, for messages.
        total: "wer" or "cer" -> counts over the set.
        utterances: "wer" or "cer" -> utterance id -> (errors, length of the reference).
    """

    path: str
    total: dict[str, Counts]
    utterances: dict[str, dict[str, tuple[int, int]]]

    def rate(self, kind: str) -> float:
        """Error rate in per cent."""
        return self.total[kind].rate


def write(directory: str | Path, counts: Mapping[str, Mapping[str, Counts]]) -> Score:
    """Write ``directory/score.json``.

    Args:
        directory: of the decoded set.
        counts: "wer" and "cer" -> utterance id -> counts.
    """
    path = Path(directory) / NAME
    total = {kind: sum(rows.values(), Counts()) for kind, rows in counts.items()}
    utterances = {
        kind: {utt: (c.errors, c.reference) for utt, c in rows.items()} for kind, rows in counts.items()
    }
    head: dict[str, object] = {"sentences": len(counts["wer"])}
    for kind, c in total.items():
        wrong = sum(errors > 0 for errors, _ in utterances[kind].values())
        head[kind] = {**asdict(c), "reference": c.reference, "errors": c.errors, "wrong_sentences": wrong}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as f:
        f.write("{" + ",\n".join(lines) + ',\n"utterances": {\n')
        for number, utt in enumerate(sorted(utterances["wer"])):
            row = json.dumps({kind: utterances[kind][utt] for kind in KINDS})
            f.write(f"{',\n' if number else ''}  {json.dumps(utt)}: {row}")
        f.write("\n}}\n")
    return Score(str(path), total, utterances)


def read(directory: str | Path) -> Score:
    """Read ``directory/score.json``.

    Raises:
        UserError: it is missing or not one of ours.
    """
    path = Path(directory) / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=_compact)
        fields = Counts.__dataclass_fields__
        total = {kind: Counts(*(int(content[kind][f]) for f in fields)) for kind in KINDS}
        rows = content["utterances"].items()
        utterances = {kind: {utt: row[i] for utt, row in rows} for i, kind in enumerate(KINDS)}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run `python -m espnet_kd score` first") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path} is not a score.json of ours: write it again with `score`") from None
    return Score(str(path), total, utterances)


def _compact(content: dict[str, Any]) -> Any:
    """The row of an utterance as a tuple in the order of ``KINDS``: there may be a million."""
    if content.keys() != KINDS.keys():
        return content
    return tuple((int(content[kind][0]), int(content[kind][1])) for kind in KINDS)


def check_comparable(first: Score, second: Score, kind: str = "wer") -> None:
    """Two scores can be compared if both have the same utterances with references of one length.

    Args:
        first: one side.
        second: the other side.
        kind: "wer" or "cer", by which they are to be compared.

    Raises:
        UserError: they differ; the first utterance that does is named.
    """
    a, b = first.utterances[kind], second.utterances[kind]
    for utt in sorted(a.keys() | b.keys()):
        if utt not in a or utt not in b:
            lacks, has = (second, first) if utt in a else (first, second)
            raise UserError(f"{lacks.path} lacks utterance {utt} of {has.path}: score the same set for both")
        one, two = a[utt][1], b[utt][1]
        if one != two:
            raise UserError(
                f"{utt} has {one} reference {KINDS[kind]}s in {first.path} and {two} in {second.path}: "
                "score both against one reference"
            )
