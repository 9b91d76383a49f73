"""Text files as LDC and NIST distribute them, line by line."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile

from espnet_kd.data.datadir import Seconds
from espnet_kd.data.heads import find_damage, is_shortened
from espnet_kd.errors import UserError
from espnet_kd.files import read_text

SIDES = "AB"
SUFFIXES = (".sph", ".wav", ".flac")
OVERSHOOT: Seconds = 0.1  # by which a segment may exceed its recording: `format` reads what there is


@dataclass(frozen=True)
class Recording:
    """Both sides of a call."""

    path: Path
    seconds: Seconds

    def fit(self, start: Seconds, end: Seconds) -> tuple[Seconds, Seconds] | None:
        """The part of a segment that there is, None if there is nothing of it."""
        if start >= self.seconds:
            return None
        return (start, end) if end <= self.seconds + OVERSHOOT else (start, self.seconds)


def find_files(roots: Iterable[Path]) -> list[Path]:
    """All files below the directories, through symbolic links too, each directory once; sorted.

    Raises:
        UserError: a root is no directory.
    """
    found, seen = [], set()
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root} is not a directory")
        for directory, subdirectories, names in root.walk(follow_symlinks=True):
            subdirectories.sort()
            if (real := directory.resolve()) in seen:
                subdirectories.clear()
                continue
            seen.add(real)
            found += [directory / name for name in names]
    return sorted(found)


def find_one(files: Iterable[Path], name: str, what: str) -> Path:
    """The one file of that name, in upper or lower case.

    Raises:
        UserError: there is none, or there are several.
    """
    found = [path for path in files if path.name.lower() == name.lower()]
    if len(found) != 1:
        have = f"{len(found)} files are called {name}, as {found[0]}" if found else f"there is no {name}"
        raise UserError(f"{have}: give the directories so that there is one ({what}) below them")
    return found[0]


def find_recordings(files: Iterable[Path], name: re.Pattern[str], prefix: str = "") -> dict[str, Recording]:
    """The calls among some files.

    Args:
        files: of any kind.
        name: of a call's file without its suffix; its first group, lower case, is the call's name.
        prefix: of the name.

    Raises:
        UserError: a call is there twice, is compressed by shorten, is cut off, or is not two-channel audio.
    """
    paths: dict[str, Path] = {}
    for path in files:
        match = name.fullmatch(path.stem.lower()) if path.suffix.lower() in SUFFIXES else None
        if match and paths.setdefault(prefix + match[1], path) != path:
            call = prefix + match[1]
            raise UserError(f"{call} is there twice, {paths[call]} and {path}: hide one")
    shortened = [path for path in paths.values() if is_shortened(path)]
    if shortened:
        raise UserError(
            f"{len(shortened)} of {len(paths)} recordings are compressed by shorten, the first is "
            f"{shortened[0]}: unpack them into another directory, each with `sph2pipe -u -f sph IN OUT`, "
            "and give that"
        )
    return {call: _open(path) for call, path in paths.items()}


def _open(path: Path) -> Recording:
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as e:
        raise UserError(f"{path} cannot be read as audio: {e}") from None
    if info.channels != len(SIDES):
        raise UserError(f"{path} has {info.channels} channel(s): a call has two, A and B")
    if damage := find_damage(path, info.samplerate):
        raise UserError(f"{path} {damage}")
    return Recording(path, info.frames / info.samplerate)


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``FILE:LINE``, the line) of every line that is not empty.

    The files are ASCII; read as Latin-1, a stray byte beyond it can be written again as it was.

    Raises:
        UserError: the file cannot be read.
    """
    # Not splitlines: it divides at the bytes 0x1c to 0x1e and 0x85, too.
    for number, line in enumerate(read_text(path, "latin-1").split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line
