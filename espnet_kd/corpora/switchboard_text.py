"""The words of a Mississippi State transcript of Switchboard, as ESPnet's recipe trains on them."""

import re
from collections.abc import Iterable, Mapping

SILENCE = "[silence]"
NOISES = frozenset({"[noise]", "[vocalized-noise]", "[laughter]"})  # kept as words
ASIDE = re.compile(r"<[be]_aside>", re.IGNORECASE)
MARK = re.compile(r"[][{}<>()/\\]|[^ -~]")

# Applied to a word one after the other, each once. Order and patterns are those of Kaldi's
# swbd1_map_words.pl, on whose text published results rest.
RULES = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, replacement, flags in (
        (r"^\[laughter-(.+)\](-?)$", r"\1\2", re.IGNORECASE),  # [laughter-story] -> story
        (r"^\[(.+)/.+\](-?)$", r"\1\2", 0),  # [it'n/isn't] -> it'n, as it was said
        (r"^-?\[[^][]+\](.+)$", r"-\1", 0),  # -[an]y -> -y
        (r"^(.+)\[[^][]+\]-?$", r"\1-", 0),  # ab[solute]- -> ab-
        (r"([^][]+)\[.+\]$", r"\1", 0),  # a slip of the transcribers: ex[specially]-/especially]
        (r"^\{(.+)\}$", r"\1", 0),  # {yuppiedom} -> yuppiedom
        (r"[a-z]\[([^][])+\][a-z]", r"\1-", re.IGNORECASE),  # ammu[n]it- -> ammn-t-: odd, but there it is
        (r"_\d$", "", 0),  # them_1 -> them
    )
)


def plain_word(word: str) -> str:
    """A word without its marks."""
    for pattern, replacement in RULES:
        word = pattern.sub(replacement, word, count=1)
    return word


def normalise(words: Iterable[str], acronyms: Mapping[str, str]) -> list[str]:
    """The words to train on, lower case; none is left of silence.

    Args:
        words: of a transcript.
        acronyms: word as in the transcript -> as in Fisher's transcripts, ``IBM`` -> ``i._b._m.``;
            the text has it as ``i b m``.
    """
    spoken = (ASIDE.sub("", word) for word in words if word.lower() != SILENCE)
    plain = [plain_word(word) for word in spoken]
    text = " ".join(acronyms.get(word, word) for word in plain).lower()
    return text.replace("._", " ").replace(".", "").split()


def unknown_marks(words: Iterable[str]) -> list[str]:
    """Those words that still have a bracket, brace or slash, or a byte that is not ASCII."""
    return [word for word in words if MARK.search(word) and word not in NOISES]
