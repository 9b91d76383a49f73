"""``espnet-kd prepare CORPUS [ROOT ...] DST``, and functions that several corpora share."""

import importlib
import sys
from collections import Counter
from collections.abc import Iterable

from espnet_kd.command_line import example
from espnet_kd.data.datadir import Utterance
from espnet_kd.errors import UserError, printable

CORPORA = {
    "an4": ("espnet_kd.corpora.an4", "CMU AN4 (census), English, 16 kHz, about an hour; public"),
    "librispeech": ("espnet_kd.corpora.librispeech", "LibriSpeech, English, 16 kHz, 1000 hours; public"),
    "librispeech-lm": ("espnet_kd.corpora.librispeech_lm", "LibriSpeech's text for language models; public"),
    "librilight": ("espnet_kd.corpora.librilight", "Libri-Light or any tree of flac files, no transcripts"),
    "switchboard": ("espnet_kd.corpora.switchboard", "Switchboard-1 (LDC97S62), English calls; licensed"),
    "eval2000": ("espnet_kd.corpora.eval2000", "Hub5'00 English (LDC2002S09, LDC2002T43); licensed"),
    "rt03": ("espnet_kd.corpora.rt03", "RT-03 English telephone speech (LDC2007S10), a test set; licensed"),
    "fisher": ("espnet_kd.corpora.fisher", "Fisher English (LDC2004T19, LDC2005T19), text alone; licensed"),
    "csj": ("espnet_kd.corpora.csj", "Corpus of Spontaneous Japanese, 16 kHz, 660 hours; licensed"),
    "digits": ("espnet_kd.corpora.digits", "connected English digits, synthesised by espeak-ng"),
}


def main(argv: list[str] | None = None) -> None:
    """Pass the arguments on to ``main(argv)`` of the module of the corpus.

    Raises:
        UserError: there is no such corpus.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<14} {text}" for name, (_, text) in CORPORA.items()]
        print("\n".join(["usage: espnet-kd prepare CORPUS [ROOT ...] DST [OPTION ...]", *lines]))
        print(f"\nexample:\n  {example('prepare')}")
    elif argv[0] not in CORPORA:
        raise UserError(f"unknown corpus {argv[0]!r}: known are {', '.join(CORPORA)}")
    else:
        importlib.import_module(CORPORA[argv[0]][0]).main(argv[1:])


DEV_UTTERANCES = 4000
REPETITIONS = 300
STEP, PERIOD = 103349, 71147  # of the number sequence with which Kaldi's remove_dup_utts.sh chooses


def first_utterances(
    utterances: Iterable[Utterance], count: int = DEV_UTTERANCES
) -> tuple[list[Utterance], list[Utterance]]:
    """Split off the first ``count`` utterances in the order of their ids (train_dev, train_nodev).

    Raises:
        UserError: one of the two would be empty.
    """
    ordered = _sorted(utterances)
    if not 0 < count < len(ordered):
        raise UserError(
            f"the dev set would have {count} of {len(ordered)} utterances: "
            "dev set and training set need at least one each"
        )
    return ordered[:count], ordered[count:]


def split_evenly(utterances: Iterable[Utterance], percent: int) -> tuple[list[Utterance], list[Utterance]]:
    """Split off a share of the utterances, evenly spread over the order of their ids.

    Returns:
        The share, and the rest.

    Raises:
        UserError: one of the two would be empty.
    """
    chosen: list[Utterance] = []
    rest: list[Utterance] = []
    for index, u in enumerate(_sorted(utterances)):
        taken = (index + 1) * percent // 100 > index * percent // 100
        (chosen if taken else rest).append(u)
    if not chosen or not rest:
        raise UserError(
            f"{percent} per cent of {len(chosen + rest)} utterances is none or all of them: give "
            "another share"
        )
    return chosen, rest


def limit_repetitions(utterances: Iterable[Utterance], at_most: int = REPETITIONS) -> list[Utterance]:
    """Keep about ``at_most`` utterances of each transcript (train_nodup), sorted by id.

    Keeps the same utterances as Kaldi's ``remove_dup_utts.sh``: of a transcript that occurs n times, an
    utterance is kept if the next number of a fixed, evenly spread sequence is below ``at_most / n``. All
    frequent transcripts share the sequence, so that each keeps a few more or fewer than ``at_most``.

    Raises:
        UserError: ``at_most`` is below 2, the least that remove_dup_utts.sh takes.
    """
    if at_most < 2:
        raise UserError(f"--repetitions {at_most}: at least 2 are needed")
    ordered = _sorted(utterances)
    words = [tuple((u.text or "").split()) for u in ordered]
    occurrences = Counter(words)
    kept, drawn = [], 0
    for u, key in zip(ordered, words, strict=True):
        if occurrences[key] >= at_most:
            drawn = (drawn + STEP) % PERIOD
            if not drawn / PERIOD < at_most / occurrences[key]:
                continue
        kept.append(u)
    return kept


def _sorted(utterances: Iterable[Utterance]) -> list[Utterance]:
    return sorted(utterances, key=lambda u: u.id)


class Tally:
    """Counts by reason, with the place where each reason occurred first."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """Add 1 to the count of a reason; ``where`` is a file and line."""
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
    """Print a warning to standard error."""
    print(f"warning: {printable(message)}", file=sys.stderr)
