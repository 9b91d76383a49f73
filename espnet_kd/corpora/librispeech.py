"""LibriSpeech (https://www.openslr.org/12): 1000 hours of read English in seven parts, 16 kHz.

Sets are called as in ESPnet's recipe: dev_clean for dev-clean, and so on; ``dev`` and ``train_960`` combine
several. A speaker is a reader in one chapter. Transcripts are used as they are.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.corpora.archive import extract
from espnet_kd.corpora.download import download, file_md5
from espnet_kd.corpora.prepare import warn
from espnet_kd.data.datadir import Utterance, claimed, write_data_dir
from espnet_kd.data.heads import read_flac_head
from espnet_kd.errors import UserError
from espnet_kd.files import read_lines, read_table

OPENSLR = "https://www.openslr.org/resources/12"
TOP = "LibriSpeech"
ARCHIVE_SUFFIX = ".tar.gz"
# MD5 of <part>.tar.gz, from the publisher's md5sum.txt in the same place
MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}


def locate(
    source: str, wanted: Collection[str], downloads: Path, md5: Mapping[str, str] = MD5
) -> dict[str, Path]:
    """The directory of every part that is wanted, or without a wish of every part that there is.

    Args:
        source: the directory LibriSpeech, the one above it, one that has ``<part>.tar.gz``,
            such an archive, or the address of a directory on a server that has them.
        wanted: names of parts.
        downloads: where archives are kept and unpacked, by their checksum, so once and never stale.
        md5: checksum of each part's archive; one that is downloaded must have it.

    Raises:
        UserError: nothing of LibriSpeech is there, or a part that is wanted is not.
    """
    if "://" in source:
        return {part: _fetch(source, part, downloads, md5) for part in MD5 if not wanted or part in wanted}
    path = Path(source)
    if path.is_dir():
        found = parts_in(path)
        for part in MD5:
            archive = path / f"{part}{ARCHIVE_SUFFIX}"
            if part not in found and (not wanted or part in wanted) and archive.is_file():
                found |= parts_in(_unpack(archive, downloads, md5))
    elif path.is_file():
        found = parts_in(_unpack(path, downloads, md5))
    else:
        raise UserError(f"{source} is neither a directory nor a file nor a URL")
    if not found:
        raise UserError(
            f"{source} is not LibriSpeech: there is no dev-clean or other part in it, nor in {source}/{TOP}"
        )
    if missing := [part for part in MD5 if part in wanted and part not in found]:
        raise UserError(
            f"{source} has {' '.join(found)}, but not {' '.join(missing)}: get them from {OPENSLR}"
        )
    return {part: found[part] for part in MD5 if part in found and (not wanted or part in wanted)}


def parts_in(directory: Path) -> dict[str, Path]:
    """Parts in the directory LibriSpeech or in one above it."""
    return {
        part: root / part for root in (directory / TOP, directory) for part in MD5 if (root / part).is_dir()
    }


def read_md5sums(path: Path) -> dict[str, str]:
    """Checksums by part from lines ``<MD5>  <part>.tar.gz``, as ``md5sum`` writes them.

    Raises:
        UserError: the file cannot be read or has another line.
    """
    md5: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        digits, _, name = line.partition(" ")
        if len(digits) != 32 or not set(digits.lower()) <= set("0123456789abcdef") or not name.strip():
            raise UserError(f"{path}:{number}: expected `<MD5>  <file>`, not {line!r}")
        md5[name.strip().removeprefix("*").removesuffix(ARCHIVE_SUFFIX)] = digits.lower()
    return md5


def _fetch(url: str, part: str, downloads: Path, md5: Mapping[str, str]) -> Path:
    if part not in md5:
        raise UserError(f"the checksums that were given have none for {part}{ARCHIVE_SUFFIX}: add it")
    directory = _unpacked(downloads, part, md5[part])
    if not directory.is_dir():
        extract(download(f"{url.rstrip('/')}/{part}{ARCHIVE_SUFFIX}", downloads, md5[part]), directory)
    found = parts_in(directory)
    if part not in found:
        raise UserError(
            f"{url.rstrip('/')}/{part}{ARCHIVE_SUFFIX} has no {TOP}/{part} in it: give another address"
        )
    return found[part]


def _unpack(archive: Path, downloads: Path, md5: Mapping[str, str]) -> Path:
    part = archive.name.removesuffix(ARCHIVE_SUFFIX)
    found = file_md5(archive)
    if found != md5.get(part):
        warn(f"{archive} has MD5 {found}, which is not the published one")
    directory = _unpacked(downloads, part, found)
    if not directory.is_dir():
        print(f"unpacking {archive} as {directory}", flush=True)
        extract(archive, directory)
    return directory


def _unpacked(downloads: Path, name: str, md5: str) -> Path:
    return downloads / f"{name}-{md5[:12]}"


SAMPLE_RATE = 16000
AUDIO_SUFFIX = ".flac"
AGAIN = "copy or unpack the part again"


@dataclass
class Part:
    """What a part holds; ``ignored`` are files that do not belong to the corpus."""

    utterances: list[Utterance] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_part(directory: str | Path) -> Part:
    """All utterances, checked: every transcript has audio, and every file of audio has a transcript.

    Of each file of audio only the head is read, so that 1000 hours take seconds; what is damaged
    behind it comes to light in stage 3, which decodes it.

    Raises:
        UserError: the directory is another kind of tree or a damaged copy; names file and line.
    """
    part = Part()
    readers = _directories(str(directory), part.ignored)
    if not readers:
        raise UserError(f"{directory} is no part of LibriSpeech: it has no directories <reader>/<chapter>")
    for reader in readers:
        chapters = _directories(reader.path, part.ignored)
        if not chapters:
            raise UserError(f"{reader.path} has no chapters: {AGAIN}")
        for chapter in chapters:
            _read_chapter(chapter.path, f"{reader.name}-{chapter.name}", part)
    return part


def _read_chapter(directory: str, speaker: str, part: Part) -> None:
    transcripts = f"{directory}/{speaker}.trans.txt"
    names = [entry.name for entry in _entries(directory)]
    files = {name for name in names if name.endswith(AUDIO_SUFFIX) and not name.startswith(".")}
    others = (name for name in names if name not in files)
    part.ignored += [f"{directory}/{name}" for name in others if name != f"{speaker}.trans.txt"]
    for line, (utt, words) in enumerate(read_table(transcripts).items(), 1):
        where = f"{transcripts}:{line}"
        if not utt.startswith(f"{speaker}-"):
            raise UserError(f"{where}: {utt} is not of reader and chapter {speaker}")
        if not words:
            raise UserError(f"{where}: {utt} has an empty transcript: correct or remove it")
        if utt + AUDIO_SUFFIX not in files:
            raise UserError(f"{where}: there is no {utt}{AUDIO_SUFFIX} beside it: {AGAIN}")
        files.remove(utt + AUDIO_SUFFIX)
        path = f"{directory}/{utt}{AUDIO_SUFFIX}"
        _check_audio(path)
        part.utterances.append(Utterance(utt, speaker, Path(path), words))
    if files:
        raise UserError(f"{directory}/{min(files)} has no line in {speaker}.trans.txt: {AGAIN}")


def _check_audio(path: str) -> None:
    head = read_flac_head(path)
    if (head.rate, head.channels) != (SAMPLE_RATE, 1):
        raise UserError(
            f"{path} is {head.channels}-channel audio at {head.rate} Hz,"
            f" not LibriSpeech's 1-channel audio at {SAMPLE_RATE} Hz"
        )


def _directories(path: str, ignored: list[str]) -> list[os.DirEntry]:
    """Directories in ``path``, sorted; whatever else is there goes on the list."""
    directories: list[os.DirEntry] = []
    for entry in _entries(path):
        if entry.is_dir() and not entry.name.startswith("."):
            directories.append(entry)
        else:
            ignored.append(entry.path)
    return directories


def _entries(path: str) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None


COUNTS = {
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
}
COMBINED = {
    "dev": ("dev-clean", "dev-other"),
    "train_960": ("train-clean-100", "train-clean-360", "train-other-500"),
}


def main(argv: list[str] | None = None) -> None:
    """``prepare librispeech [SOURCE] DST [--parts NAME ...]``: DST/{dev_clean,...,dev,train_960}."""
    parser = command_parser("prepare librispeech", __doc__.splitlines()[0])
    parser.add_argument(
        "source",
        nargs="?",
        default=OPENSLR,
        help="directory LibriSpeech or one above it, directory of <part>.tar.gz, one such archive, or the"
        " address of a mirror that has them (default: %(default)s)",
    )
    parser.add_argument("dst", type=Path, help="where the data directories go")
    parser.add_argument(
        "--parts",
        nargs="*",
        default=[],
        metavar="NAME",
        help=f"parts or sets (default: all that there are): {' '.join([*COUNTS, *COMBINED])}",
    )
    parser.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads"),
        help="where archives are kept and unpacked (default: %(default)s)",
    )
    parser.add_argument(
        "--md5sums", type=Path, help="checksums of a mirror whose archives are not the published ones"
    )
    args = parser.parse_args(argv)
    md5 = read_md5sums(args.md5sums) if args.md5sums else MD5
    with claimed(args.dst):
        prepare(locate(args.source, choose_parts(args.parts), args.downloads, md5), args.dst)


def choose_parts(names: Iterable[str]) -> list[str]:
    """The parts that parts or sets consist of, in the order of ``COUNTS``.

    Raises:
        UserError: an unknown name.
    """
    wanted: set[str] = set()
    for name in names:
        parts = COMBINED.get(name, (name.replace("_", "-"),))
        if parts[0] not in COUNTS:
            raise UserError(f"LibriSpeech has no part {name!r}: there are {', '.join([*COUNTS, *COMBINED])}")
        wanted.update(parts)
    return [part for part in COUNTS if part in wanted]


def prepare(directories: dict[str, Path], dst: Path) -> None:
    """Write a set for every part, and the combined ones whose parts are all there.

    Nothing is written unless all parts are in order.
    """
    utterances = {part: _read(part, directory) for part, directory in directories.items()}
    for part, found in utterances.items():
        _write(dst / part.replace("-", "_"), found)
    for name, parts in COMBINED.items():
        if all(part in utterances for part in parts):
            _write(dst / name, [u for part in parts for u in utterances[part]])


def _read(part: str, directory: Path) -> list[Utterance]:
    found = read_part(directory)
    if found.ignored:
        warn(f"{directory}: {len(found.ignored)} other files are ignored, such as {found.ignored[0]}")
    if len(found.utterances) != COUNTS[part]:
        warn(f"{directory}: {len(found.utterances)} utterances, the corpus has {COUNTS[part]}")
    return found.utterances


def _write(dst: Path, utterances: Sequence[Utterance]) -> None:
    write_data_dir(dst, utterances)
    print(f"{dst}: {len(utterances)} utterances, {len({u.speaker for u in utterances})} speakers", flush=True)
