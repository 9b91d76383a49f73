"""Where the talks of the Corpus of Spontaneous Japanese lie, on the USB stick and on the DVDs.

Layouts::

    MORPH/SDB/{core,noncore}/A01F0055.sdb, WAV/{core,noncore}/A01F0055.wav       (USB)
    dvd3/A01F0055/A01F0055.{sdb,wav}, dvd4/...                                   (DVD)

A dialogue (D...) has a recording of each side: ``D01F0002-L.wav`` and ``D01F0002-R.wav``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.corpora.tally import warn
from espnet_kd.errors import UserError

TALK = re.compile(r"[ASDRM]\d\d[FM]\d{4}")  # academic, simulated, dialogue, reading, other; the speaker's sex
SIDES = ("L", "R")
LAYOUTS = {  # folder that tells the layout: transcripts, recordings
    "MORPH/SDB": (("MORPH/SDB/*/*.sdb",), ("WAV/*.wav", "WAV/*/*.wav")),
    "dvd*": (("dvd*/*/*.sdb",), ("dvd*/*/*.wav",)),
}


@dataclass(frozen=True)
class Talk:
    """A talk. ``audio`` is keyed by side, "L" and "R", in a dialogue and by "" otherwise."""

    id: str
    sdb: Path
    audio: dict[str, Path]

    @property
    def dialogue(self) -> bool:
        """True if two people speak, each on a recording of their own."""
        return self.id.startswith("D")


def find_talks(directory: Path) -> list[Talk]:
    """All talks of the corpus at ``directory`` or one level below it, in the order of their ids.

    Raises:
        UserError: there is no corpus, a recording is missing, or a file is there twice.
    """
    for root in (directory, *sorted(directory.glob("*/"))):
        for folder, (transcripts, recordings) in LAYOUTS.items():
            if any(root.glob(folder, case_sensitive=False)):
                sdb, audio = _by_name(root, transcripts), _by_name(root, recordings)
                if sdb:
                    return [_talk(name, path, audio) for name, path in sorted(sdb.items()) if _is_talk(path)]
    raise UserError(
        f"{directory} is not CSJ: neither MORPH/SDB/{{core,noncore}}/*.sdb nor dvd*/*/*.sdb in it or below it"
    )


def _by_name(root: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """Files by their name without suffix, in capital letters."""
    found: dict[str, Path] = {}
    for path in (p for pattern in patterns for p in sorted(root.glob(pattern, case_sensitive=False))):
        if path.name.startswith("."):  # what a Mac leaves behind
            continue
        if (first := found.setdefault(path.stem.upper(), path)) != path:
            raise UserError(f"{path} is there a second time: {first} is the first")
    return found


def _is_talk(path: Path) -> bool:
    if TALK.fullmatch(path.stem.upper()):
        return True
    warn(f"{path} is left alone: its name is not a talk's, such as A01F0055")
    return False


def _talk(name: str, sdb: Path, audio: dict[str, Path]) -> Talk:
    sides = SIDES if name.startswith("D") else ("",)
    files = {side: f"{name}-{side}" if side else name for side in sides}
    for file in files.values():
        if file not in audio:
            raise UserError(f"{sdb}: the recording {file}.wav is missing")
    return Talk(name, sdb, {side: audio[file] for side, file in files.items()})
