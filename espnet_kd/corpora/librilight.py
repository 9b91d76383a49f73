"""Libri-Light (arXiv:1912.07875), or any tree of flac files: recordings without transcripts, in pieces.

Each piece becomes an utterance without text. Recordings are cut

- with --cut length: every --longest seconds;
- with --cut speech: in pauses, which are taken from the .json that Libri-Light has beside each .flac,
  {"voice_activity": [[0.4, 12.32], ...], ...} in seconds; other keys are ignored;
- with --segments FILE: at the times in one JSON object for all recordings, by path below the root,
  {"100/sea_fairies/01_baum.flac": [[0.4, 12.32], ...], ...}; recordings that are not in it are left out.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.data.datadir import Utterance, lock_data_dirs, write_data_dir
from espnet_kd.data.headers import UNKNOWN_LENGTH, flac_info
from espnet_kd.errors import UserError
from espnet_kd.files import read_json

Seconds = float
Region = tuple[Seconds, Seconds]
SUFFIX = ".flac"
ACTIVITY_KEY = "voice_activity"
ROUNDING: Seconds = 1.0  # voice activity may end this much after the recording
LONGEST: Seconds = 7 * 24 * 3600  # a longer duration comes from a damaged header


@dataclass(frozen=True)
class Cutting:
    """Options for cutting recordings.

    Attributes:
        how: "length", "speech", or a JSON file with the pieces.
        longest: length that no piece exceeds.
        shortest: shorter pieces are dropped.
        pause: longest pause within a piece of speech.
    """

    how: str | Path = "length"
    longest: Seconds = 15.0
    shortest: Seconds = 1.0
    pause: Seconds = 1.0


@dataclass(frozen=True)
class BookRecording:
    """An audio file.

    Attributes:
        name: path below the root.
        id: name with "-" for "/", without the suffix.
        speaker: its directory below the root, with "-" for "/".
    """

    name: str
    id: str
    speaker: str
    path: Path
    duration: Seconds


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare librilight ROOT DST [--cut length|speech | --segments FILE]``; writes DST/librilight."""
    parser = command_parser("prepare librilight", __doc__)
    parser.add_argument("root", type=Path, help="tree of .flac files")
    parser.add_argument("dst", type=Path, help="directory to write the data directory into")
    parser.add_argument(
        "--set", default="librilight", help="name of the data directory (default: %(default)s)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--cut", choices=("length", "speech"), default="length", help="where to cut (default: %(default)s)"
    )
    how.add_argument("--segments", type=Path, help="JSON file with the start and end of each piece")
    for name, text in (
        ("longest", "longest piece in seconds"),
        ("shortest", "shortest piece in seconds; shorter ones are dropped"),
        ("pause", "longest pause within a piece of speech in seconds"),
    ):
        value = getattr(Cutting, name)
        parser.add_argument(f"--{name}", type=float, default=value, help=f"{text} (default: %(default)s)")
    args = parser.parse_args(argv)
    if not 0 <= args.shortest <= args.longest or args.longest == 0 or args.pause < 0:
        raise UserError("expected 0 <= --shortest <= --longest, --longest above 0, and --pause 0 or more")
    cutting = Cutting(args.segments or args.cut, args.longest, args.shortest, args.pause)
    with lock_data_dirs(args.dst):
        prepare(args.root, args.dst / args.set, cutting)


def prepare(root: Path, dst: Path, cutting: Cutting) -> None:
    """Write the data directory ``dst`` of the recordings below ``root``, and print what is left out."""
    recordings, ignored = find_recordings(root)
    cut = make_cutter(cutting, recordings)
    shortest = 0 if isinstance(cutting.how, Path) else cutting.shortest
    silent = short = 0
    seconds = 0.0

    def utterances() -> Iterator[Utterance]:
        nonlocal silent, short, seconds
        for recording in recordings:
            pieces = cut(recording)
            kept = [(start, end) for start, end in pieces if end - start >= shortest]
            yield from (_make_utterance(recording, start, end) for start, end in kept)
            seconds = sum((end - start for start, end in kept), seconds)
            silent += not pieces
            short += len(pieces) - len(kept)

    count = write_data_dir(dst, utterances())
    hours, of = seconds / 3600, sum(r.duration for r in recordings) / 3600
    print(f"{dst}: {count} pieces of {len(recordings)} recordings, {hours:.2f} of {of:.2f} hours")
    for number, what in (
        (short, f"pieces shorter than {shortest:g} seconds"),
        (silent, f"recordings without a region ({cutting.how})"),
        (ignored, "files that are neither .flac nor .json"),
    ):
        if number:
            print(f"{dst}: left out: {number} {what}")


def find_recordings(root: Path) -> tuple[list[BookRecording], int]:
    """Find all .flac files below ``root``; follow symbolic links, visit each directory once.

    Returns:
        The recordings, and the number of files that are neither .flac nor .json.

    Raises:
        UserError: there is no recording, one is damaged or has several channels, or two would have one id.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a directory")
    found: dict[str, BookRecording] = {}
    ignored, seen = 0, set()
    for directory, subdirectories, files in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        if (real := os.path.realpath(directory)) in seen:  # a link may point to a directory above it
            subdirectories.clear()
            continue
        seen.add(real)
        subdirectories.sort()
        below = Path(directory).relative_to(root).parts
        for file in sorted(files):
            if not file.endswith(SUFFIX) or file.startswith("."):
                ignored += not file.endswith(".json")
                continue
            recording = _read_header(Path(directory, file), below)
            if recording.id in found:
                raise UserError(
                    f"{found[recording.id].path} and {recording.path} would both have the id "
                    f"{recording.id}: rename one of them"
                )
            found[recording.id] = recording
    if not found:
        raise UserError(f"{root} has no .flac files in it or below it")
    return list(found.values()), ignored


def _read_header(path: Path, below: tuple[str, ...]) -> BookRecording:
    info = flac_info(path)
    seconds = info.frames / info.samplerate
    if info.channels != 1:
        raise UserError(f"{path} has {info.channels} channels instead of one: split the file")
    if not 0 < info.frames < UNKNOWN_LENGTH:
        raise UserError(f"{path} has no duration in its header: encode it again from a file, not from a pipe")
    if seconds > LONGEST:
        raise UserError(
            f"{path} has {info.frames} samples at {info.samplerate} Hz according to its header: copy it again"
        )
    speaker = "-".join(below) or path.stem
    name = "/".join([*below, path.name])
    return BookRecording(name, "-".join([*below, path.stem]), speaker, path, seconds)


def _raise_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}")


def make_cutter(cutting: Cutting, recordings: list[BookRecording]) -> Callable[[BookRecording], list[Region]]:
    """Return the function that cuts a recording into pieces, including those that are too short.

    Raises:
        UserError: a JSON file is missing or malformed, or names a recording that does not exist; the returned
            function raises it, too.
    """
    how = cutting.how
    if isinstance(how, Path):
        given = _read_object(how)
        if unknown := given.keys() - {r.name for r in recordings}:
            raise UserError(
                f"{how}: there is no {min(unknown)} below the root: give paths relative to the root"
            )
        return lambda r: _checked(how, r.name, given.get(r.name, []), r)
    if how == "speech":
        return lambda r: cut_by_speech(_voice_activity(r), cutting.longest, cutting.pause)
    return lambda r: cut_by_length(r.duration, cutting.longest)


def _voice_activity(recording: BookRecording) -> list[Region]:
    path = recording.path.with_suffix(".json")
    return _checked(path, ACTIVITY_KEY, _read_object(path).get(ACTIVITY_KEY), recording)


def _checked(path: Path, key: str, regions: object, recording: BookRecording) -> list[Region]:
    try:
        return check_regions(regions, recording.duration)
    except ValueError as e:
        raise UserError(f"{path}: {key}: {e}") from None


def _read_object(path: Path) -> dict[str, object]:
    if not path.exists():
        raise UserError(f"{path} does not exist: use --cut length instead")
    return read_json(path)


def cut_by_length(duration: Seconds, longest: Seconds) -> list[Region]:
    """Cut into pieces of equal length; the last one is shorter."""
    count = math.ceil(duration / longest)
    return [(i * longest, min((i + 1) * longest, duration)) for i in range(count)]


def cut_by_speech(regions: Sequence[Region], longest: Seconds, pause: Seconds) -> list[Region]:
    """Join neighbouring regions of speech to pieces, with the pauses between them.

    Args:
        regions: sorted by start; they may overlap. A region longer than ``longest`` is first divided into
            equal parts.
        longest: length that no piece exceeds.
        pause: longest pause within a piece.
    """
    pieces: list[Region] = []
    for start, end in (part for region in regions for part in _divide(region, longest)):
        first, last = pieces[-1] if pieces else (-math.inf, -math.inf)
        if start - last <= pause and max(last, end) - first <= longest:
            pieces[-1] = (first, max(last, end))
        else:
            pieces.append((start, end))
    return pieces


def _divide(region: Region, longest: Seconds) -> list[Region]:
    start, end = region
    count = math.ceil((end - start) / longest)
    edges = [*(start + (end - start) * i / count for i in range(count)), end]
    return list(zip(edges, edges[1:], strict=False))


def check_regions(regions: object, duration: Seconds) -> list[Region]:
    """Check regions from a JSON file; return them sorted by start and clipped to the recording.

    Raises:
        ValueError: they are not a list of [start, end], or are not within the recording.
    """
    if not isinstance(regions, list):
        raise ValueError(f"expected a list of [start, end] in seconds, not {regions!r:.60}")
    checked: list[Region] = []
    for region in regions:
        try:
            start, end = map(float, region)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"expected [start, end] in seconds, not {region!r:.60}") from None
        if not 0 <= start < end <= duration + ROUNDING or start >= duration:
            raise ValueError(
                f"[{start:g}, {end:g}] is not within the recording, which has {duration:g} seconds"
            )
        checked.append((start, min(end, duration)))
    return sorted(checked)


def _make_utterance(r: BookRecording, start: Seconds, end: Seconds) -> Utterance:
    name = f"{r.id}_{round(1000 * start):08d}-{round(1000 * end):08d}"
    return Utterance(name, r.speaker, r.path, None, r.id, start, end)
