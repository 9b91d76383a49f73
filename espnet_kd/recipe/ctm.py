"""Hypotheses as a CTM, the time-marked words that NIST's scorer aligns with an STM."""

import re
from collections.abc import Iterable, Iterator, Mapping

from espnet_kd.errors import UserError

UTTERANCE = re.compile(r"(?P<call>\S+)-(?P<side>[AB])_(?P<start>\d{1,9})-(?P<end>\d{1,9})")
NOISES = frozenset("[noise] [laughter] [vocalized-noise] <unk>".split())
# All that the GLM of Hub5'00 maps to a hesitation; in the reference hesitations are optional.
HESITATIONS = frozenset("uh um eh mm hm ah huh ha er oof hee ach eee ew".split())


def scored(word: str) -> bool:
    """False for noises, hesitations and fragments (``th-``), which are optional in the reference.

    The filter of ESPnet's recipe, but that one looks for LAUGHTER anywhere and so takes out SLAUGHTER, too.
    """
    word = word.lower()
    return word not in NOISES and word not in HESITATIONS and not word.endswith("-")


def filtered(text: str) -> str:
    """The words that are scored."""
    return " ".join(word for word in text.split() if scored(word))


def render(hypotheses: Mapping[str, str]) -> str:
    """The CTM, a line ``en_4156 A 3.01 0.29 YEAH`` a word that is scored, by call, side and time.

    Args:
        hypotheses: text by utterance id.
    """
    lines = []
    for utt in sorted(hypotheses):
        call, side, start, end = parse(utt)
        for begin, duration, word in spread(hypotheses[utt].split(), start, end):
            if scored(word):
                lines.append(f"{call} {side} {begin / 100:.2f} {duration / 100:.2f} {word.upper()}\n")
    return "".join(lines)


def spread(words: Iterable[str], start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """(begin, duration, word), the words side by side and equally long, the last one longer by what is left.

    Args:
        words: of a segment.
        start: of the segment; all times are whole hundredths of a second.
        end: of the segment.
    """
    words = list(words)
    for i, word in enumerate(words):
        step = (end - start) // len(words)
        begin = start + i * step
        yield begin, (end - begin if i == len(words) - 1 else step), word


def parse(utterance: str) -> tuple[str, str, int, int]:
    """Call, side, start and end in hundredths of a second, of ``en_4156-A_030185-030248``.

    Raises:
        UserError: it is another kind of id.
    """
    match = UTTERANCE.fullmatch(utterance)
    if match is None:
        raise UserError(f"{utterance} is no utterance of Hub5: expected `CALL-SIDE_START-END`")
    return match["call"], match["side"], int(match["start"]), int(match["end"])
