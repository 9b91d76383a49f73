"""Acronyms by the dictionary of Switchboard: a word whose pronunciation is that of its letters."""

from pathlib import Path
from string import ascii_lowercase

from espnet_kd.corpora.lines import numbered_lines
from espnet_kd.corpora.switchboard_text import plain_word
from espnet_kd.errors import UserError

SOUNDS = (
    "ey|b iy|s iy|d iy|iy|eh f|jh iy|ey ch|ay|jh ey|k ey|eh l|eh m|eh n|ow|p iy|k y uw|aa r|eh s|t iy|y uw|"
    "v iy|d ah b ax l y uw|eh k s|w ay|z iy"
)
LETTERS = dict(zip(ascii_lowercase, (sound.split() for sound in SOUNDS.split("|")), strict=True))
# Acronyms whose N the dictionary leaves out.
CORRECTED = {"NAACP": "eh n ey ey s iy p iy", "NIT": "eh n ay t iy", "NTSC": "eh n t iy eh s s iy"}


def read_acronyms(dictionary: Path) -> dict[str, str]:
    """The acronyms of ``sw-ms98-dict.text`` (``IBM ay b iy eh m``) and of the single letters.

    Returns:
        word -> the way Fisher's transcripts spell it, such as ``i._b._m.``, ``t._v.s``, ``t._v.'s``.

    Raises:
        UserError: there is no acronym in it, so it is another file.
    """
    acronyms = {}
    for _, line in numbered_lines(dictionary):
        if line.startswith("#"):
            continue
        word, *sounds = line.split()
        word = plain_word(word)
        if word in CORRECTED:
            sounds = CORRECTED[word].split()
        if spelled := spell(word, sounds):
            acronyms[word] = spelled
    if not acronyms:
        raise UserError(f"{dictionary} has no word pronounced by its letters: is it sw-ms98-dict.text?")
    return acronyms | {letter.upper(): f"{letter}." for letter in ascii_lowercase}


def spell(word: str, sounds: list[str]) -> str | None:
    """An acronym as Fisher's transcripts have it, None of another word; a final s or 's is its ending."""
    stem, ending = word, ""
    if word.endswith("s"):
        stem = word[:-2] if word.endswith("'s") else word[:-1]
        ending = word[len(stem) :]
        if not sounds or sounds.pop() not in ("s", "z"):
            return None
    if not stem or any(letter not in LETTERS for letter in stem.lower()):
        return None
    if sounds != [sound for letter in stem.lower() for sound in LETTERS[letter]]:
        return None
    return "._".join(stem.lower()) + "." + ending
