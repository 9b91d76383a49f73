"""``espnet-kd prepare CORPUS [ROOT ...] DST``, and what the preparation of every corpus shares."""

import importlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from espnet_kd.data.datadir import Utterance
from espnet_kd.errors import UserError, printable

CORPORA = {
    "an4": ("espnet_kd.corpora.an4", "CMU AN4 (census), English, 16 kHz, about an hour; public"),
    "librispeech": ("espnet_kd.corpora.librispeech", "LibriSpeech, English, 16 kHz, 1000 hours; public"),
    "librilight": ("espnet_kd.corpora.librilight", "Libri-Light or any tree of flac files, no transcripts"),
    "switchboard": ("espnet_kd.corpora.switchboard", "Switchboard-1 (LDC97S62), English calls; licensed"),
    "eval2000": ("espnet_kd.corpora.eval2000", "Hub5'00 English (LDC2002S09, LDC2002T43); licensed"),
    "csj": ("espnet_kd.corpora.csj", "Corpus of Spontaneous Japanese, 16 kHz, 660 hours; licensed"),
    "digits": ("espnet_kd.corpora.digits", "connected English digits, synthesised on the spot"),
}


def main(argv: list[str] | None = None) -> None:
    """Hand the arguments to the corpus' own ``main(argv)``.

    Raises:
        UserError: no corpus of that name.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<12} {text}" for name, (_, text) in CORPORA.items()]
        print("\n".join(["usage: espnet-kd prepare CORPUS [ROOT ...] DST [OPTION ...]", *lines]))
    elif argv[0] not in CORPORA:
        raise UserError(f"no corpus {argv[0]!r}: there are {', '.join(CORPORA)}")
    else:
        importlib.import_module(CORPORA[argv[0]][0]).main(argv[1:])


class Tally:
    """Counts by reason, and the place where each came first."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """Count one more."""
        self._counts[reason] += 1
        self._first.setdefault(reason, where)

    def __getitem__(self, reason: str) -> int:
        return self._counts[reason]

    def __str__(self) -> str:
        """``2 without words (first: FILE:1), 1 without audio (first: FILE:3)``, or ``none``."""
        parts = [f"{n} {reason} (first: {self._first[reason]})" for reason, n in sorted(self._counts.items())]
        return ", ".join(parts) or "none"

    def __bool__(self) -> bool:
        return bool(self._counts)


def warn(message: str) -> None:
    """Say on standard error what is odd but no error."""
    print(f"warning: {printable(message)}", file=sys.stderr)


DEV_UTTERANCES = 4000
REPETITIONS = 300
STEP, PERIOD = 103349, 71147  # of the sequence by which Kaldi's remove_dup_utts.sh chooses


def first_utterances(
    utterances: Iterable[Utterance], count: int = DEV_UTTERANCES
) -> tuple[list[Utterance], list[Utterance]]:
    """The first ``count`` utterances in the order of their ids, and the rest (train_dev, train_nodev).

    Raises:
        UserError: one of the two would be empty.
    """
    ordered = _sorted(utterances)
    if not 0 < count < len(ordered):
        raise UserError(
            f"{count} of {len(ordered)} utterances are asked for as dev set: "
            "there must be at least one in it and one left for training"
        )
    return ordered[:count], ordered[count:]


def spread(utterances: Iterable[Utterance], percent: int) -> tuple[list[Utterance], list[Utterance]]:
    """A share of the utterances, evenly spread over the order of their ids, and the rest.

    Raises:
        UserError: one of the two would be empty.
    """
    chosen: list[Utterance] = []
    rest: list[Utterance] = []
    for index, u in enumerate(_sorted(utterances)):
        taken = (index + 1) * percent // 100 > index * percent // 100
        (chosen if taken else rest).append(u)
    if not chosen or not rest:
        raise UserError(f"{percent} per cent of {len(chosen + rest)} utterances is none or all of them")
    return chosen, rest


def limit_repetitions(utterances: Iterable[Utterance], at_most: int = REPETITIONS) -> list[Utterance]:
    """Thin out the transcripts that occur more than ``at_most`` times (train_nodup), sorted by id.

    The ones that stay are those that Kaldi's ``remove_dup_utts.sh`` keeps: of a transcript that occurs n
    times each is kept if the next number of a fixed, evenly spread sequence is below ``at_most / n``. So
    about that many stay; frequent transcripts take their numbers by turns, which adds or costs each a few.

    Raises:
        UserError: ``at_most`` is below 2, the least that remove_dup_utts.sh takes.
    """
    if at_most < 2:
        raise UserError(f"{at_most} repetitions of one transcript: at least 2 are needed")
    ordered = _sorted(utterances)
    words = [tuple(u.text.split()) for u in ordered]
    occurrences = Counter(words)
    kept, drawn = [], 0
    for u, key in zip(ordered, words, strict=True):
        if occurrences[key] >= at_most:
            drawn = (drawn + STEP) % PERIOD
            if not drawn / PERIOD < at_most / occurrences[key]:
                continue
        kept.append(u)
    return kept


def _sorted(utterances: Iterable[Utterance]) -> Sequence[Utterance]:
    return sorted(utterances, key=lambda u: u.id)
