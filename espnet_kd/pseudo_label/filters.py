"""Choose which pseudo-labels to keep: the filters one after the other, with a count of what each drops.

Source:
    Kahn et al. 2020, arXiv:1909.09116: looping hypotheses and the length-normalised score;
    Hwang et al. 2022, arXiv:2210.05793, for where they are used.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espnet_kd.decoding.records import Label
from espnet_kd.errors import UserError
from espnet_kd.scoring.alignment import UNITS, align


def speaking_rate(tokens: int, seconds: float) -> float:
    """Tokens per second; infinite where tokens were found in no time."""
    return tokens / seconds if seconds else math.inf


def is_looping(text: str, longest: int, most: int) -> bool:
    """True if a text repeats itself: a phrase or a string stands more than ``most`` times in a row.

    Args:
        longest: length of the phrases in words, and of the strings in characters, up to which is searched.
        most: how many times in a row are allowed.
    """
    words = text.split()
    return repeats(words, longest, most) or repeats(" ".join(words), longest, most)


def repeats(units: Sequence[str], longest: int, most: int) -> bool:
    """True if an n-gram of 1 to ``longest`` units stands more than ``most`` times in a row."""
    for n in range(1, longest + 1):
        run = 0  # units that equal the one n before
        for i in range(n, len(units)):
            run = run + 1 if units[i] == units[i - n] else 0
            if run >= n * most:
                return True
    return False


def disagreement(texts: Sequence[str], others: Sequence[str], unit: str) -> list[float]:
    """Error rate in per cent of each text's other decode against it.

    Args:
        texts: not empty.
        others: in the same order; may be empty.
        unit: "word" or "character".
    """
    return [aligned.counts.rate for aligned in align(texts, others, unit)]


def best(scores: Mapping[str, float], percent: float) -> set[str]:
    """The utterances with the highest scores, that share of them; ties go by id.

    Args:
        scores: by utterance.
        percent: above 0, up to 100; the number is rounded up.
    """
    ranked = sorted(scores, key=lambda utt: (-scores[utt], utt))
    return set(ranked[: math.ceil(round(percent * len(ranked) / 100, 9))])




@dataclass(frozen=True)
class Step:
    """What one filter did to what the filters before it had left."""

    name: str
    limits: dict[str, Any]
    dropped: int
    dropped_hours: float


def add_options(p: argparse.ArgumentParser) -> None:
    """The filters' options.

    By default they allow what people say in any language and token: in the transcripts of AN4 are 1.3 to 19
    characters per second, and no phrase stands more than three times in a row.
    """
    g = p.add_argument_group("filters", "empty hypotheses and those with <unk> are always dropped")
    g.add_argument("--min_rate", type=float, default=0.3, help="tokens per second (default: %(default)s)")
    g.add_argument("--max_rate", type=float, default=30, help="tokens per second (default: %(default)s)")
    g.add_argument(
        "--max_repeats",
        type=int,
        default=4,
        help="times that a phrase may stand in a row (default: %(default)s)",
    )
    g.add_argument(
        "--longest_ngram", type=int, default=4,
        help="length of the phrases, in words and in characters (default: %(default)s)",
    )  # fmt: skip
    g.add_argument("--agree_with", help="another --dst or decode_dir, or a directory with a text file")
    g.add_argument("--agree_by", choices=UNITS, default="wer", help="default: %(default)s")
    g.add_argument(
        "--max_disagreement", type=float, default=10,
        help="error rate of the other decode against this one, in per cent (default: %(default)s)",
    )  # fmt: skip
    either = g.add_mutually_exclusive_group()
    either.add_argument("--min_score", type=float, help="log-probability per token (default: no limit)")
    either.add_argument(
        "--keep_top", type=float, help="per cent of what the other filters leave, by score (default: all)"
    )


def check_options(args: argparse.Namespace) -> None:
    """Refuse limits that cannot be met.

    Raises:
        UserError: names the option.
    """
    if not 0 <= args.min_rate < args.max_rate:
        raise UserError(
            f"--min_rate {args.min_rate:g} and --max_rate {args.max_rate:g} leave nothing between"
        )
    for name in ("max_repeats", "longest_ngram"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} is not a number from 1 up")
    if args.max_disagreement < 0:
        raise UserError(f"--max_disagreement {args.max_disagreement:g} is below 0 per cent")
    if args.keep_top is not None and not 0 < args.keep_top <= 100:
        raise UserError(f"--keep_top {args.keep_top:g} is not a share in per cent, above 0 and up to 100")


def select(
    labels: Mapping[str, Label], options: argparse.Namespace, other: Mapping[str, str] | None = None
) -> tuple[dict[str, Label], list[Step]]:
    """Apply the filters in turn.

    Args:
        labels: by utterance.
        options: see ``add_options``.
        other: the texts of another decode by utterance, or None to leave agreement out.

    Raises:
        UserError: the other decode lacks an utterance.
    """
    kept, steps = dict(labels), []
    for name, limits, passes in _filters(options, other):
        good = passes(kept)
        lost = [utt for utt in kept if utt not in good]
        hours = sum(kept[utt].seconds for utt in lost) / 3600
        steps.append(Step(name, limits, len(lost), round(hours, 4)))
        kept = {utt: item for utt, item in kept.items() if utt in good}
    return kept, steps


Labels = Mapping[str, Label]
Filter = tuple[str, dict[str, Any], Callable[[Labels], set[str]]]


def _filters(o: argparse.Namespace, other: Mapping[str, str] | None) -> list[Filter]:
    """Name, limits, and which utterances pass; agreement and score come last, as they depend on the rest."""

    def each(good: Callable[[Label], bool]) -> Callable[[Labels], set[str]]:
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
    if other is not None:
        limits = _limits(o, "agree_with", "agree_by", "max_disagreement")
        table.append(("agreement", limits, lambda labels: _agreeing(labels, other, o)))
    if o.min_score is not None:
        table.append(("score", _limits(o, "min_score"), each(lambda x: x.score >= o.min_score)))
    if o.keep_top is not None:
        limits = _limits(o, "keep_top")
        table.append(("score", limits, lambda x: best({u: x[u].score for u in x}, o.keep_top)))
    return table


def _limits(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _agreeing(labels: Labels, other: Mapping[str, str], o: argparse.Namespace) -> set[str]:
    for utt in labels:
        if utt not in other:
            raise UserError(f"--agree_with {o.agree_with} lacks utterance {utt}: decode the same data there")
    order = list(labels)
    rates = disagreement(
        [labels[u].text for u in order], [other[u] for u in order], UNITS[o.agree_by]
    )
    return {utt for utt, rate in zip(order, rates, strict=True) if rate <= o.max_disagreement}
