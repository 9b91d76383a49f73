"""Decode the check set with an exported model, the model in torch and ESPnet's search, and compare them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from espnet_kd.data.audio import read_speech
from espnet_kd.data.dump import read_dump
from espnet_kd.errors import UserError
from espnet_kd.export.search import Array
from espnet_kd.files import read_table
from espnet_kd.scoring.alignment import UNITS, Counts, align

SHOWN = 5  # differing transcripts that export.json quotes
SAMPLED = 5  # utterances that ESPnet's own search decodes, too
SHORTEST = 1.0  # seconds of those, at least
Transcribe = Callable[[Array], str]


@dataclass(frozen=True)
class CheckSet:
    """Transcribed speech.

    Attributes:
        path: dump directory.
        speech: utterance -> entry of wav.scp.
        texts: utterance -> reference.
        rate: samples per second.
        metric: error rate that is compared, "wer" or "cer".
    """

    path: Path
    speech: Mapping[str, str]
    texts: Mapping[str, str]
    rate: int
    metric: str = "wer"

    def decode(self, transcribe: Transcribe) -> dict[str, str]:
        """Return the hypotheses of a function from samples to text.

        Raises:
            UserError: audio cannot be read, or is of another rate.
        """
        return {utt: transcribe(self.read(utt)) for utt in self.speech}

    def read(self, utt: str) -> Array:
        """Return the samples of an utterance."""
        samples, rate = read_speech(self.speech[utt], utt)
        if rate != self.rate:
            raise UserError(
                f"{self.speech[utt]} of {utt} has {rate} Hz, the model expects {self.rate}: give a check set "
                f"that was formatted with --fs {self.rate}"
            )
        if not len(samples):
            raise UserError(f"{self.speech[utt]} of {utt} has no samples: leave it out of the check set")
        return samples

    def sample(self) -> "CheckSet":
        """Return the shortest utterances of at least ``SHORTEST`` seconds; the longest one without such."""
        lengths = {utt: len(self.read(utt)) for utt in self.speech}
        order = sorted(lengths, key=lambda utt: (lengths[utt], utt))
        chosen = [utt for utt in order if lengths[utt] >= SHORTEST * self.rate][:SAMPLED] or order[-1:]
        speech, texts = ({utt: table[utt] for utt in chosen} for table in (self.speech, self.texts))
        return replace(self, speech=speech, texts=texts)

    def errors(self, hypotheses: Mapping[str, str]) -> Counts:
        """Return the errors of hypotheses: of words, or of characters."""
        pairs = (list(self.texts.values()), [hypotheses[utt] for utt in self.texts])
        return sum((a.counts for a in align(*pairs, UNITS[self.metric])), Counts())


def read_check_set(path: Path, rate: int, metric: str = "wer") -> CheckSet:
    """Open the check set, and read its first utterance.

    Raises:
        UserError: it is not formatted, has no transcripts, or is of another rate.
    """
    speech = dict(read_dump(path).wav)
    if not (path / "text").is_file():
        raise UserError(f"{path}/text does not exist: --check needs transcripts, to compare error rates")
    texts = read_table(path / "text")
    lacking = sorted(utt for utt in speech if not texts.get(utt))
    if lacking:
        raise UserError(f"{path}/text has no transcript of {lacking[0]}: --check needs one of each utterance")
    found = CheckSet(path, speech, {utt: texts[utt] for utt in speech}, rate, metric)
    found.read(next(iter(speech)))
    return found


def comparison(
    check: CheckSet,
    first: Mapping[str, str],
    other: Mapping[str, str],
    names: tuple[str, str] = ("torch", "exported"),
) -> dict[str, Any]:
    """Compare hypotheses, such as of an exported model with those of torch, for export.json.

    Args:
        check: has the references.
        first: hypotheses, from which the error rate moves.
        other: hypotheses that are to be the same.
        names: what quoted transcripts of the two are called.
    """
    counts, before = check.errors(other), check.errors(first)
    differing = [utt for utt in first if first[utt] != other[utt]]
    return {
        check.metric: round(counts.rate, 3),
        "errors": counts.errors,
        f"{check.metric}_moves_by": round(counts.rate - before.rate, 3),
        "texts_differ": len(differing),
        "examples": [
            {"utterance": utt, names[0]: first[utt], names[1]: other[utt]} for utt in differing[:SHOWN]
        ],
    }


def refuse_shift(found: Mapping[str, Any], tolerance: float, what: str) -> None:
    """Refuse an export whose error rate is not that of torch.

    Raises:
        UserError: it moves by more than the tolerance.
    """
    metric = next(name for name in UNITS if name in found)
    shift = found[f"{metric}_moves_by"]
    if abs(shift) > tolerance:
        raise UserError(
            f"{what}: {metric.upper()} {found[metric]:.2f} %, {shift:+.2f} against torch, which is more than "
            f"--tolerance {tolerance:g} ({found['texts_differ']} texts differ): nothing is written"
        )


def compare_searches(
    check: CheckSet, ours: Transcribe, espnets: Transcribe, tolerance: float
) -> dict[str, Any]:
    """Compare our search with ESPnet's own: on a few utterances, and on all of them if a text differs.

    Args:
        check: the check set.
        ours: the search of graphs, on the model in torch.
        espnets: ESPnet's search of that model with the same options.
        tolerance: points by which our error rate on the whole set may be higher.

    Returns:
        What ``comparison`` finds, and the number of ``utterances``.

    Raises:
        UserError: it is higher by more.
    """
    found: dict[str, Any] = {}
    for part in (check.sample(), check):
        found = comparison(part, part.decode(espnets), part.decode(ours), ("espnet", "graphs"))
        found["utterances"] = len(part.speech)
        if not found["texts_differ"]:
            return found
        if part is not check:
            for one in found["examples"]:
                texts = f"ESPnet's gives {one['espnet']!r}, that of the graphs {one['graphs']!r}"
                print(f"warning: {one['utterance']}: the searches differ: {texts}", flush=True)
            print(f"{check.path}: decoding all utterances by ESPnet's search, too", flush=True)
    metric, shift = check.metric.upper(), found[f"{check.metric}_moves_by"]
    if shift > tolerance:
        raise UserError(
            f"the search of the graphs has a fault, please report it: {metric} {found[check.metric]:.2f} % "
            f"on {check.path}, {shift:+.2f} against ESPnet's search with the same options, more than "
            f"--tolerance {tolerance:g} ({found['texts_differ']} texts differ): nothing is written"
        )
    return found
