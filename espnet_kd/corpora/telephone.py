"""Find the files of a corpus of telephone calls and read its recordings and text files."""

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
LONGEST_CALL: Seconds = 1e6  # later times are refused
OVERSHOOT: Seconds = 0.1  # a segment may end this much after its recording; `format` reads up to the end


@dataclass(frozen=True)
class Recording:
    """A file with both sides of a call, and its duration."""

    path: Path
    seconds: Seconds

    def clip(self, start: Seconds, end: Seconds) -> tuple[Seconds, Seconds] | None:
        """Clip a segment to the recording; None if it begins after the end."""
        if start >= self.seconds:
            return None
        return (start, end) if end <= self.seconds + OVERSHOOT else (start, self.seconds)


def find_files(roots: Iterable[Path]) -> list[Path]:
    """Return all files below some directories, sorted; follow symbolic links, visit each directory once.

    Raises:
        UserError: a root is not a directory.
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
    """Return the only file with a name, in upper or lower case.

    Args:
        files: to search.
        name: of the file.
        what: description for the error message.

    Raises:
        UserError: there is no such file, or there are several.
    """
    found = [path for path in files if path.name.lower() == name.lower()]
    if len(found) != 1:
        have = f"{len(found)} files are called {name}, such as {found[0]}" if found else f"there is no {name}"
        raise UserError(f"{have}: give directories with exactly one below them ({what})")
    return found[0]


def find_recordings(files: Iterable[Path], name: re.Pattern[str], prefix: str = "") -> dict[str, Recording]:
    """Return the calls among some files, by name.

    Args:
        files: files of any kind.
        name: pattern of the name of a file without its suffix, in lower case; group 1 is the call.
        prefix: put in front of group 1.

    Raises:
        UserError: a call is there twice, is compressed by shorten, is cut off, or is not two-channel audio.
    """
    paths: dict[str, Path] = {}
    for path in files:
        match = name.fullmatch(path.stem.lower()) if path.suffix.lower() in SUFFIXES else None
        if match and paths.setdefault(prefix + match[1], path) != path:
            call = prefix + match[1]
            raise UserError(f"{call} is there twice, {paths[call]} and {path}: remove one of them")
    shortened = [path for path in paths.values() if is_shortened(path)]
    if shortened:
        raise UserError(
            f"{len(shortened)} of {len(paths)} recordings are compressed by shorten, the first is "
            f"{shortened[0]}: unpack them into another directory, each with `sph2pipe -u -f sph IN OUT`, "
            "and give that directory"
        )
    return {call: _read_head(path) for call, path in paths.items()}


def _read_head(path: Path) -> Recording:
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
    """Yield (``FILE:LINE``, line) of every line that is not empty.

    The files are ASCII; decoded as Latin-1, a stray byte beyond ASCII can be written unchanged.

    Raises:
        UserError: the file cannot be read.
    """
    # str.splitlines would also divide at the bytes 0x1c to 0x1e and 0x85.
    for number, line in enumerate(read_text(path, "latin-1").split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line
