"""Filter pseudo-labels: apply filters in turn, and count what each of them drops.

Source:
    Kahn et al. 2020, arXiv:1909.09116: filters for looping hypotheses and by length-normalised score;
    Hwang et al. 2022, arXiv:2210.05793, use them. Radford et al. 2022, arXiv:2212.04356, section 4.5:
    compression ratio. Waheed et al. 2024, arXiv:2407.01257: entropy, and agreement with a proxy model.
"""

import argparse
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espnet_kd.decoding.records import PseudoLabel
from espnet_kd.errors import UserError
from espnet_kd.scoring.alignment import UNITS, align

Labels = Mapping[str, PseudoLabel]
Filter = tuple[str, dict[str, Any], Callable[[Labels], set[str]]]


@dataclass(frozen=True)
class Step:
    """Result of one filter: its limits, and how much it drops of what the filters before it kept."""

    name: str
    limits: dict[str, Any]
    dropped: int
    dropped_hours: float


def add_options(p: argparse.ArgumentParser) -> None:
    """Add the options of the filters.

    The defaults allow natural speech in any language and with any tokens: transcripts of AN4 have 1.3 to 19
    characters per second, and no phrase more than three times in a row.
    """
    g = p.add_argument_group("filters", "empty hypotheses and those with <unk> are always dropped")
    g.add_argument(
        "--min_rate", type=float, default=0.3, help="fewest tokens per second (default: %(default)s)"
    )
    g.add_argument("--max_rate", type=float, default=30, help="most tokens per second (default: %(default)s)")
    g.add_argument(
        "--max_repeats",
        type=int,
        default=4,
        help="how often a phrase may occur in a row (default: %(default)s)",
    )
    g.add_argument(
        "--longest_ngram", type=int, default=4,
        help="longest phrase that is searched, in words and in characters (default: %(default)s)",
    )  # fmt: skip
    g.add_argument(
        "--max_compression", type=float,
        help="highest ratio at which zlib compresses the text, such as Whisper's 2.4 (default: no limit)",
    )  # fmt: skip
    g.add_argument(
        "--max_entropy", type=float,
        help="highest entropy of the token distributions in nats: mean over the tokens, of CTC over "
        "the frames (default: no limit)",
    )  # fmt: skip
    g.add_argument(
        "--languages", nargs="+", metavar="CODE",
        help="languages that are kept, as the labeller has found them, such as en (default: all)",
    )  # fmt: skip
    g.add_argument(
        "--agree_with",
        help="second decode to compare with, as of a proxy model: another --dst or decode_dir, or a "
        "directory with a text file",
    )
    g.add_argument(
        "--agree_by",
        choices=UNITS,
        default="wer",
        help="error rate for --max_disagreement (default: %(default)s)",
    )
    g.add_argument(
        "--max_disagreement", type=float, default=10,
        help="highest error rate of the second decode against this one, in per cent (default: %(default)s)",
    )  # fmt: skip
    either = g.add_mutually_exclusive_group()
    either.add_argument(
        "--min_score", type=float, help="lowest log-probability per token (default: no limit)"
    )
    either.add_argument(
        "--keep_top",
        type=float,
        help="percentage that is kept of what passes the other filters, by score (default: all)",
    )


def check_options(args: argparse.Namespace) -> None:
    """Check the limits.

    Raises:
        UserError: a limit is impossible; names the option.
    """
    if not 0 <= args.min_rate < args.max_rate:
        raise UserError(
            f"--min_rate {args.min_rate:g} and --max_rate {args.max_rate:g} leave nothing between: give "
            "a smaller --min_rate"
        )
    for name in ("max_repeats", "longest_ngram"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} must be at least 1")
    for name in ("max_compression", "max_entropy"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            raise UserError(f"--{name} {getattr(args, name):g} must be above 0")
    if args.max_disagreement < 0:
        raise UserError(f"--max_disagreement {args.max_disagreement:g} must be at least 0")
    if args.keep_top is not None and not 0 < args.keep_top <= 100:
        raise UserError(f"--keep_top {args.keep_top:g} is not a percentage above 0 and up to 100")


class Selection:
    """Applies the filters to pseudo-labels that come in parts, since all of a large set do not fit in memory.

    Args:
        options: see ``add_options``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._tallies: dict[int, _Tally] = {}
        self._kept = bytearray()  # 1 for each utterance that passes, else 0
        self._scores = array("d")  # of those that pass
        self._seconds = array("d")

    def add(self, labels: Labels, other: Mapping[str, str] | None = None) -> None:
        """Apply all filters but ``--keep_top`` to the next part.

        Args:
            labels: utterance -> pseudo-label, in the order of the ids.
            other: utterance -> text of a second decode; None to leave out the filter by agreement.

        Raises:
            UserError: the second decode lacks an utterance.
        """
        kept = dict(labels)
        for number, (name, limits, passes) in enumerate(_filters(self._options, other)):
            good = passes(kept)
            lost = [item.seconds for utt, item in kept.items() if utt not in good]
            self._tallies.setdefault(number, _Tally(name, limits)).add(lost)
            kept = {utt: item for utt, item in kept.items() if utt in good}
        self._kept.extend(utt in kept for utt in labels)
        self._scores.extend(item.score for item in kept.values())
        self._seconds.extend(item.seconds for item in kept.values())

    def finish(self) -> tuple[bytearray, list[Step]]:
        """Apply ``--keep_top``; return 1 or 0 for each utterance, and the result of each filter."""
        tallies, percent = list(self._tallies.values()), self._options.keep_top
        if percent is not None:
            if any(map(math.isnan, self._scores)):
                raise UserError("--keep_top needs scores, but the labels have none: leave it out")
            top = top_places(self._scores, percent)
            tallies.append(_Tally("score", _limits(self._options, "keep_top")))
            places = [place for place, flag in enumerate(self._kept) if flag]
            lost = [i for i in range(len(places)) if i not in top]
            tallies[-1].add([self._seconds[i] for i in lost])
            for i in lost:
                self._kept[places[i]] = 0
        return self._kept, [tally.step() for tally in tallies]


@dataclass
class _Tally:
    """How much a filter has dropped so far."""

    name: str
    limits: dict[str, Any]
    dropped: int = 0
    seconds: float = 0

    def add(self, lost: Sequence[float]) -> None:
        self.dropped += len(lost)
        self.seconds = sum(lost, self.seconds)

    def step(self) -> Step:
        return Step(self.name, self.limits, self.dropped, round(self.seconds / 3600, 4))


def _filters(o: argparse.Namespace, other: Mapping[str, str] | None) -> list[Filter]:
    """Return name, limits and function of each filter; those that depend on the others come last."""

    def each(good: Callable[[PseudoLabel], bool]) -> Callable[[Labels], set[str]]:
        return lambda labels: {utt for utt, item in labels.items() if good(item)}

    rates, loops = _limits(o, "min_rate", "max_rate"), _limits(o, "max_repeats", "longest_ngram")
    table: list[Filter] = [
        ("empty", {}, each(lambda x: bool(x.text))),
        ("unknown token", {}, each(lambda x: not x.unknown)),
        (
            "speaking rate", rates,
            each(lambda x: o.min_rate <= speaking_rate(x.tokens, x.seconds) <= o.max_rate),
        ),
        ("repetition", loops, each(lambda x: not is_looping(x.text, o.longest_ngram, o.max_repeats))),
    ]  # fmt: skip
    if o.max_compression is not None:
        limits = _limits(o, "max_compression")
        table.append(("compression", limits, each(lambda x: x.compression <= o.max_compression)))
    if o.languages:
        limits = _limits(o, "languages")
        table.append(("language", limits, each(lambda x: _known(x, "language", "languages") in o.languages)))
    if o.max_entropy is not None:
        limits = _limits(o, "max_entropy")
        low = each(lambda x: _known(x, "entropy", "max_entropy") <= o.max_entropy)
        table.append(("entropy", limits, low))
    if other is not None:
        limits = _limits(o, "agree_with", "agree_by", "max_disagreement")
        table.append(("agreement", limits, lambda labels: _agreeing(labels, other, o)))
    if o.min_score is not None:
        limits = _limits(o, "min_score")
        table.append(("score", limits, each(lambda x: _known(x, "score", "min_score") >= o.min_score)))
    return table


def _known(label: PseudoLabel, name: str, option: str) -> Any:
    """Return a value that a filter needs.

    Raises:
        UserError: the labeller does not give it.
    """
    value = getattr(label, name)
    if value is None or value != value:
        raise UserError(f"--{option}: {label.utt} has no {name}, the labeller gives none: leave it out")
    return value


def _limits(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _agreeing(labels: Labels, other: Mapping[str, str], o: argparse.Namespace) -> set[str]:
    for utt in labels:
        if utt not in other:
            raise UserError(f"--agree_with {o.agree_with} lacks utterance {utt}: decode the same data for it")
    order = list(labels)
    rates = disagreement(
        [labels[u].text for u in order], [other[u] for u in order], UNITS[o.agree_by]
    )
    return {utt for utt, rate in zip(order, rates, strict=True) if rate <= o.max_disagreement}


def speaking_rate(tokens: int, seconds: float) -> float:
    """Return tokens per second; infinite if there are tokens but no duration."""
    return tokens / seconds if seconds else math.inf


def is_looping(text: str, longest: int, most: int) -> bool:
    """Return True if a phrase or a string of characters occurs more than ``most`` times in a row.

    Args:
        text: of a hypothesis.
        longest: length of the longest phrase in words, and of the longest string in characters.
        most: allowed number of times in a row.
    """
    words = text.split()
    return has_repeats(words, longest, most) or has_repeats(" ".join(words), longest, most)


def has_repeats(units: Sequence[str], longest: int, most: int) -> bool:
    """Return True if an n-gram of 1 to ``longest`` units occurs more than ``most`` times in a row."""
    for n in range(1, longest + 1):
        run = 0  # units that equal the one n before
        for i in range(n, len(units)):
            run = run + 1 if units[i] == units[i - n] else 0
            if run >= n * most:
                return True
    return False


def disagreement(texts: Sequence[str], others: Sequence[str], unit: str) -> list[float]:
    """Return the error rate in per cent of a second hypothesis against each text.

    Args:
        texts: none of them empty.
        others: hypotheses of the other decode in the same order; may be empty.
        unit: "word" or "character".
    """
    return [aligned.counts.rate for aligned in align(texts, others, unit)]


def top_places(scores: Sequence[float], percent: float) -> set[int]:
    """Return the places of the given percentage of scores, the highest ones.

    Args:
        scores: of equal scores the one that comes first is higher.
        percent: above 0, up to 100; the number of scores is rounded up.
    """
    import numpy as np

    count = math.ceil(round(percent * len(scores) / 100, 9))
    return set(np.argsort(-np.asarray(scores, float), kind="stable")[:count].tolist())
