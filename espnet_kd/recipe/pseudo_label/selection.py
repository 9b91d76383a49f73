"""Which pseudo-labels are kept: the filters one after the other, with a count of what each drops."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.recipe.pseudo_label import filters
from espnet_kd.recipe.pseudo_label.records import Record

UNITS = {"wer": "word", "cer": "character"}


@dataclass(frozen=True, slots=True)
class Label:
    """The best hypothesis of an utterance; ``score`` is normalised by its length."""

    utt: str
    seconds: float
    samples: int
    text: str
    tokens: int
    unknown: int
    score: float


@dataclass(frozen=True)
class Step:
    """What one filter did to what the filters before it had left."""

    name: str
    limits: dict[str, Any]
    dropped: int
    dropped_hours: float


def label(record: Record) -> Label:
    """The pseudo-label of a decoded utterance; where nothing was found, an empty one."""
    seconds = record.samples / record.rate
    if not record.nbest:
        return Label(record.utt, seconds, record.samples, "", 0, 0, float("-inf"))
    top = record.nbest[0]
    text, score = " ".join(top.text.split()), filters.normalised_score(top.score, top.tokens)
    return Label(record.utt, seconds, record.samples, text, top.tokens, top.unknown, score)


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
            each(lambda x: o.min_rate <= filters.speaking_rate(x.tokens, x.seconds) <= o.max_rate),
        ),
        ("repetition", loops, each(lambda x: not filters.is_looping(x.text, o.longest_ngram, o.max_repeats))),
    ]  # fmt: skip
    if other is not None:
        limits = _limits(o, "agree_with", "agree_by", "max_disagreement")
        table.append(("agreement", limits, lambda labels: _agreeing(labels, other, o)))
    if o.min_score is not None:
        table.append(("score", _limits(o, "min_score"), each(lambda x: x.score >= o.min_score)))
    if o.keep_top is not None:
        limits = _limits(o, "keep_top")
        table.append(("score", limits, lambda x: filters.best({u: x[u].score for u in x}, o.keep_top)))
    return table


def _limits(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _agreeing(labels: Labels, other: Mapping[str, str], o: argparse.Namespace) -> set[str]:
    for utt in labels:
        if utt not in other:
            raise UserError(f"--agree_with {o.agree_with} lacks utterance {utt}: decode the same data there")
    order = list(labels)
    rates = filters.disagreement(
        [labels[u].text for u in order], [other[u] for u in order], UNITS[o.agree_by]
    )
    return {utt for utt, rate in zip(order, rates, strict=True) if rate <= o.max_disagreement}
