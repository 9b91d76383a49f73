"""``espnet-kd score``: WER and CER of one decoded set, joined by utterance id."""

import argparse
import gc
import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.data.tokens import read_symbols
from espnet_kd.errors import UserError, printable
from espnet_kd.files import atomic_path, read_table
from espnet_kd.scoring import alignment, sclite
from espnet_kd.scoring.alignment import Counts, align, clean, join


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = command_parser("score")
    p.add_argument("--ref", required=True, help="reference: Kaldi text; utt2spk is read beside it")
    p.add_argument("--hyp", required=True, help="hypothesis: text written by ESPnet's inference")
    p.add_argument("--out", required=True, help="directory of score.json, score_wer/ and score_cer/")
    p.add_argument("--against", help="directory of another run's score.json: paired bootstrap of the WERs")
    p.add_argument("--worst", type=int, default=0, help="print this many utterances with the most errors")
    p.add_argument("--nlsyms", help="file of non-linguistic symbols, one a line, that are not scored")
    return p


def main(argv: list[str] | None = None) -> None:
    """Score, write, print."""
    args = parser().parse_args(argv)
    score = score_tables(args)
    if args.against:
        print(comparison(score, alignment.read(args.against), args.against))


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python from searching millions of live objects for cycles, again and again, within the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@without_collection()
def score_tables(args: argparse.Namespace) -> alignment.Score:
    """Align, an utterance after the other, write ``score_*/result.txt`` and ``score.json``, and print.

    Raises:
        UserError: the tables do not fit each other, or no word is left to score.
    """
    reference, hypothesis = read_table(args.ref), read_table(args.hyp)
    utterances = join(reference, hypothesis, args.ref, args.hyp)
    symbols = frozenset(read_symbols(args.nlsyms))
    if not any(clean(reference[utt], "word", symbols) for utt in utterances):
        raise UserError(f"{args.ref} has no word left without the symbols of {args.nlsyms}")
    utt2spk = speakers_beside(args.ref, utterances)
    counts: dict[str, dict[str, Counts]] = {}
    for kind, unit in alignment.KINDS.items():
        texts = (map(table.__getitem__, utterances) for table in (reference, hypothesis))
        rows = zip(utterances, align(*texts, unit, symbols), strict=True)
        directory = Path(args.out) / f"score_{kind}"
        if (directory / "ref.trn").exists():
            print(f"{directory} is that of ESPnet's asr.sh and stays as it is")
            counts[kind] = {utt: a.counts for utt, a in rows}
        else:
            with atomic_path(directory / "result.txt") as temporary:
                counts[kind] = sclite.write(temporary, rows, utt2spk)
    score = alignment.write(args.out, counts)  # last: its presence says that the set is scored
    print(summary(Path(args.out).name, score))
    worst = worst_of(counts["wer"], args.worst)
    left, right = ([table[utt] for utt in worst] for table in (reference, hypothesis))
    for utt, a in zip(worst, align(left, right, "word", symbols), strict=True):
        print(f"  {printable(utt)}  {a.counts.errors}/{a.counts.reference}")
        for name, words in (("REF", a.reference), ("HYP", a.hypothesis)):
            print(f"    {name}: {printable(' '.join(words))}")
    return score


def speakers_beside(ref: str, utterances: list[str]) -> dict[str, str] | None:
    """utt2spk of the reference's directory, None if there is none.

    Raises:
        UserError: it lacks an utterance.
    """
    path = Path(ref).parent / "utt2spk"
    if not path.exists():
        return None
    table = read_table(path)
    for utt in utterances:
        if not table.get(utt):
            raise UserError(f"{path} names no speaker for {utt}")
    return table


def summary(name: str, score: alignment.Score) -> str:
    """One line: `test  WER 12.3 % (95/773: 60 S 20 D 15 I)  CER ...`."""
    parts = [f"{kind.upper()} {_counts(score.total[kind])}" for kind in alignment.KINDS]
    wrong = sum(errors > 0 for errors, _ in score.utterances["wer"].values())
    return "  ".join([name, *parts, f"{wrong} of {len(score.utterances['wer'])} utterances with errors"])


def _counts(c: Counts) -> str:
    return f"{c.rate:.1f} % ({c.errors}/{c.reference}: {c.substitutions} S {c.deletions} D {c.insertions} I)"


def worst_of(counts: Mapping[str, Counts], number: int) -> list[str]:
    """The utterances with the most word errors, the shorter reference first; none without errors."""
    wrong = (utt for utt, c in counts.items() if c.errors)
    return heapq.nsmallest(number, wrong, key=lambda u: (-counts[u].errors, counts[u].reference, u))


def comparison(score: alignment.Score, other: alignment.Score, name: str) -> str:
    """One line: how the WER differs from another run's on the same set."""
    from espnet_kd.scoring.bootstrap import RESAMPLES, paired_difference, pool

    alignment.check_comparable(score, other)
    order = sorted(score.utterances["wer"])
    sides = [pool([[s.utterances["wer"][u] for u in order]]) for s in (score, other)]
    d = paired_difference(sides[0], sides[1])
    return (
        f"against {name} (WER {other.rate('wer'):.1f} %): {d.value:+.2f} points ({d.relative:+.1f} %), "
        f"95 % interval {d.low:+.2f} to {d.high:+.2f}, p = {d.p:.2g}; {RESAMPLES} resamples of utterances"
    )


if __name__ == "__main__":
    main()
