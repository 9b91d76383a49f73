"""The subsets that ESPnet's recipes for Switchboard and CSJ make: train_dev, train_nodev, train_nodup."""

from collections import Counter
from collections.abc import Iterable, Sequence

from espnet_kd.corpora.datadir import Utterance
from espnet_kd.errors import UserError

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
