"""Find the files of a corpus of telephone calls and read its recordings and text files."""

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile

from espnet_kd.data.datadir import Seconds
from espnet_kd.data.headers import find_damage, is_shortened
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, read_text

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


def add_unpacked(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where recordings which are compressed by shorten are unpacked."""
    parser.add_argument(
        "--unpacked",
        type=Path,
        default=Path("downloads/unpacked"),
        help="where sph2pipe unpacks recordings that are compressed by shorten (default: %(default)s)",
    )


def find_recordings(
    files: Iterable[Path], name: re.Pattern[str], prefix: str = "", unpacked: Path | None = None
) -> dict[str, Recording]:
    """Return the calls among some files, by name.

    Args:
        files: files of any kind.
        name: pattern of the name of a file without its suffix, in lower case; group 1 is the call.
        prefix: put in front of group 1.
        unpacked: directory for what sph2pipe unpacks.

    Raises:
        UserError: a call is there twice, is cut off, is not two-channel audio, or is compressed by shorten
            and sph2pipe is not installed.
    """
    paths: dict[str, Path] = {}
    for path in files:
        match = name.fullmatch(path.stem.lower()) if path.suffix.lower() in SUFFIXES else None
        if match and paths.setdefault(prefix + match[1], path) != path:
            call = prefix + match[1]
            raise UserError(f"{call} is there twice, {paths[call]} and {path}: remove one of them")
    shortened = {call: path for call, path in paths.items() if is_shortened(path)}
    if shortened:
        paths |= unpack(shortened, unpacked, len(paths))
    return {call: _read_head(path) for call, path in paths.items()}


def unpack(shortened: dict[str, Path], directory: Path | None, total: int) -> dict[str, Path]:
    """Unpack recordings that are compressed by shorten, by LDC's sph2pipe, unless they are unpacked already.

    Args:
        shortened: call -> SPHERE file.
        directory: for the unpacked files.
        total: number of all recordings, for the message of an error.

    Returns:
        Call -> unpacked file.

    Raises:
        UserError: sph2pipe is not installed, or fails.
    """
    program, first = shutil.which("sph2pipe"), next(iter(shortened.values()))
    if program is None or directory is None:
        raise UserError(
            f"{len(shortened)} of {total} recordings are compressed by shorten, the first is {first}: "
            "install sph2pipe and repeat this, or unpack them into another directory, each with "
            "`sph2pipe -u -f sph IN OUT`, and give that directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    targets = {call: directory / f"{call}.sph" for call in shortened}
    missing = [call for call, path in targets.items() if not path.is_file()]
    if missing:
        print(f"unpacking {len(missing)} recordings into {directory} by {program}", flush=True)

    def convert(call: str) -> None:
        with atomic_path(targets[call]) as temporary:
            command = [program, "-u", "-f", "sph", str(shortened[call]), str(temporary)]
            result = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if result.returncode or not temporary.is_file() or is_shortened(temporary):
                said = (result.stderr.strip().splitlines() or ["it wrote no audio"])[-1]
                raise UserError(f"{program} cannot unpack {shortened[call]}: {said}: copy the file again")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(convert, missing))
    return targets


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
