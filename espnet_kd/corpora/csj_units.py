"""CSJ utterances: transcription units joined as far as the pauses between them are short."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from espnet_kd.corpora.csj_layout import Talk
from espnet_kd.corpora.csj_sdb import Word
from espnet_kd.corpora.datadir import Seconds, Utterance

GAP: Seconds = 0.5
LONGEST: Seconds = 10.0
MASKED = "×"


@dataclass
class Joined:
    """Units in a row of one side."""

    channel: str
    start: Seconds
    end: Seconds
    texts: list[str] = field(default_factory=list)


def join_units(
    words: Sequence[Word],
    texts: Sequence[str],
    dialogue: bool,
    gap: Seconds = GAP,
    longest: Seconds = LONGEST,
) -> Iterator[Joined]:
    """Join units that are at most ``gap`` apart until more than ``longest`` has come together.

    So the unit that takes an utterance beyond ``longest`` belongs to it. Only words that count take part.

    Source:
        Kaldi's csjconnect.pl, which ESPnet uses; the differences of times are rounded as there.
    """
    current: Joined | None = None
    last = None
    for word, text in zip(words, texts, strict=True):
        if not counts(word, text):
            continue
        _, start, end, channel = word.unit
        channel = channel if dialogue else ""
        if current is not None and (word.unit.number, channel) != last:
            apart = start - current.end > gap or current.end - current.start > longest
            if apart or channel != current.channel:
                yield current
                current = None
        if current is None:
            current = Joined(channel, start, end)
        current.end = end
        current.texts.append(text)
        last = (word.unit.number, channel)
    if current is not None:
        yield current


def counts(word: Word, text: str) -> bool:
    """False if a word has no text, or no part of speech: a noise on a line of its own (csj2kaldi4m.pl)."""
    return bool(text and word.word_class)


def make_utterances(
    talk: Talk, joined: Iterable[Joined], dropped: Counter[str], digits: int | None = None
) -> list[Utterance]:
    """The utterances of a talk; what is left out is counted in ``dropped`` by reason.

    Args:
        talk: it gives its name to the utterances, and its side in a dialogue.
        joined: its units.
        dropped: what -> how many.
        digits: significant digits of times; None keeps milliseconds.
    """
    utterances = []
    for j in joined:
        text = "".join(j.texts)
        # Truncated, not rounded, as in ESPnet's ids: 1.001 s is 1000 ms, as 1000 * 1.001 falls short of 1001.
        start, end = int(1000 * j.start), int(1000 * j.end)
        speaker = f"{talk.id}-{j.channel}" if j.channel else talk.id
        if MASKED in text:
            dropped[f"utterances with a masked name ({MASKED})"] += 1
        elif end <= start:
            dropped["utterances that end before they begin"] += 1
        else:
            times = [t / 1000 if digits is None else float(f"{t / 1000:.{digits}g}") for t in (start, end)]
            utterances.append(
                Utterance(
                    f"{speaker}_{start:07d}_{end:07d}", speaker, talk.audio[j.channel], text, speaker, *times
                )
            )
    return utterances
