"""``espnet-kd score``: compute WER and CER of one decoded set.

References and hypotheses are matched by utterance id.
"""

import argparse
import gc
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from espnet_kd.command_line import command_parser, path_text
from espnet_kd.data.tokens import clean_table, read_symbols
from espnet_kd.errors import UserError, printable
from espnet_kd.files import atomic_path, read_table
from espnet_kd.scoring import alignment, sclite
from espnet_kd.scoring.alignment import Aligned, Counts, align, clean, join


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("score")
    p.add_argument(
        "--ref", type=path_text, required=True, help="reference, a Kaldi text; utt2spk beside it is read, too"
    )
    p.add_argument(
        "--hyp", type=path_text, required=True, help="hypotheses, the text that ESPnet's inference writes"
    )
    p.add_argument(
        "--out", type=path_text, required=True,
        help="directory to write score.json, score_wer/ and score_cer/ into",
    )
    p.add_argument(
        "--against", type=path_text,
        help="directory of another run's score.json: compare the WERs by a paired bootstrap",
    )
    p.add_argument("--worst", type=int, default=0, help="print this many utterances with the most errors")
    p.add_argument(
        "--nlsyms", type=path_text, help="file of non-linguistic symbols, one a line, that are not scored"
    )
    p.add_argument(
        "--cleaner", default="none",
        help="ESPnet's cleaning of the reference, as of the training's transcripts (default: %(default)s)",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(argv)
    score = score_set(args)
    if args.against:
        print(comparison(score, alignment.read_score(args.against), args.against))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off in the block: it would search millions of live objects many times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@no_garbage_collection()
def score_set(args: argparse.Namespace) -> alignment.Score:
    """Score a decoded set, write ``score_*/result.txt`` and ``score.json``, and print a summary.

    Raises:
        UserError: references and hypotheses have different utterances, or no word is left to score.
    """
    reference, hypothesis = read_table(args.ref), read_table(args.hyp)
    if args.cleaner != "none":
        reference = clean_table(reference, args.cleaner)
    utterances = join(reference, hypothesis, args.ref, args.hyp)
    symbols = frozenset(read_symbols(args.nlsyms))
    if not any(clean(reference[utt], "word", symbols) for utt in utterances):
        raise UserError(
            f"{args.ref} has no words but the non-linguistic symbols of {args.nlsyms}: nothing can be scored"
        )
    utt2spk = speakers_beside(args.ref, utterances)
    counts: dict[str, dict[str, Counts]] = {}
    respelled: dict[str, Counter[tuple[str, str]]] = {}
    for metric, unit in alignment.UNITS.items():
        references, hypotheses = (map(table.__getitem__, utterances) for table in (reference, hypothesis))
        respelled[metric] = Counter()
        aligned = noting(align(references, hypotheses, unit, symbols), respelled[metric])
        rows = zip(utterances, aligned, strict=True)
        directory = Path(args.out) / f"score_{metric}"
        if (directory / "ref.trn").exists():
            print(f"{directory} was written by ESPnet's asr.sh and is kept")
            counts[metric] = {utt: a.counts for utt, a in rows}
        else:
            with atomic_path(directory / "result.txt") as temporary:
                counts[metric] = sclite.write_result(temporary, rows, utt2spk)
    score = alignment.write_score(args.out, counts)  # last: the file marks the set as scored
    print(summary(Path(args.out).name, score))
    for metric, pairs in respelled.items():
        if pairs:
            print(f"  {remark(metric, pairs)}")
    worst = worst_of(counts["wer"], args.worst)
    left, right = ([table[utt] for utt in worst] for table in (reference, hypothesis))
    for utt, a in zip(worst, align(left, right, "word", symbols), strict=True):
        print(f"  {printable(utt)}  {a.counts.errors}/{a.counts.reference}")
        for name, words in (("REF", a.reference), ("HYP", a.hypothesis)):
            print(f"    {name}: {printable(' '.join(words))}")
    return score


def noting(rows: Iterable[Aligned], respelled: Counter[tuple[str, str]]) -> Iterator[Aligned]:
    """Yield alignments, and count their substitutions of tokens that are equal but for case and form."""
    for aligned in rows:
        respelled.update(aligned.respelled())
        yield aligned


def remark(metric: str, respelled: Counter[tuple[str, str]]) -> str:
    """Say how many errors are of case or of the form of Unicode alone, with the most frequent."""
    pair = respelled.most_common(1)[0][0]
    seen = repr if pair[0].casefold() == pair[1].casefold() else ascii  # two forms may look alike
    left, right = map(seen, pair)
    return (
        f"{respelled.total()} of these errors ({metric.upper()}) are of case or of Unicode's form alone, "
        f"such as {right} for {left}; sclite, by which ESPnet scores, does not count case"
    )


def speakers_beside(ref: str, utterances: list[str]) -> dict[str, str] | None:
    """Read utt2spk beside the reference; None if there is none.

    Raises:
        UserError: it lacks an utterance.
    """
    path = Path(ref).parent / "utt2spk"
    if not path.exists():
        return None
    table = read_table(path)
    for utt in utterances:
        if not table.get(utt):
            raise UserError(f"{path} names no speaker for {utt}: add a line for it")
    return table


def summary(name: str, score: alignment.Score) -> str:
    """Describe a score in one line, ``test  WER 12.3 % (95/773: 60 S 20 D 15 I)  CER ...``."""
    parts = [f"{metric.upper()} {_counts(score.total[metric])}" for metric in alignment.UNITS]
    wrong = sum(row[0] > 0 for row in score.utterances["wer"].values())
    return "  ".join([name, *parts, f"{wrong} of {len(score.utterances['wer'])} utterances with errors"])


def _counts(c: Counts) -> str:
    return f"{c.rate:.1f} % ({c.errors}/{c.reference}: {c.substitutions} S {c.deletions} D {c.insertions} I)"


def worst_of(counts: Mapping[str, Counts], number: int) -> list[str]:
    """Return the utterances with the most errors, of equal ones the shorter reference first."""
    wrong = (utt for utt, c in counts.items() if c.errors)
    return heapq.nsmallest(number, wrong, key=lambda u: (-counts[u].errors, counts[u].reference, u))


def comparison(score: alignment.Score, other: alignment.Score, name: str) -> str:
    """Describe in one line how the WER differs from that of another run on the same set."""
    from espnet_kd.scoring.bootstrap import RESAMPLES, difference

    alignment.check_comparable(score, other)
    d = difference({0: score.utterances["wer"]}, {0: other.utterances["wer"]})
    return (
        f"against {name} (WER {other.rate('wer'):.1f} %): {d.value:+.2f} points ({d.relative:+.1f} %), "
        f"95 % interval {d.low:+.2f} to {d.high:+.2f}, p = {d.p:.2g}; {RESAMPLES} resamples of utterances"
    )


if __name__ == "__main__":
    main()
