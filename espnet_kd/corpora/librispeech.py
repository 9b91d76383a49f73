"""LibriSpeech (https://www.openslr.org/12): 1000 hours of read English in seven parts, 16 kHz.

Sets are named as in ESPnet's recipe: dev_clean for dev-clean, and so on; ``dev`` and ``train_960`` combine
several parts. A speaker is a reader in one chapter. Transcripts are used as they are.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.corpora.download import download, file_md5
from espnet_kd.corpora.prepare import warn
from espnet_kd.data.datadir import Utterance, lock_data_dirs, write_data_dir
from espnet_kd.data.headers import flac_info
from espnet_kd.data.unpack import extract
from espnet_kd.errors import UserError
from espnet_kd.files import read_lines, read_table

OPENSLR = "https://www.openslr.org/resources/12"
TOP_FOLDER = "LibriSpeech"
ARCHIVE_SUFFIX = ".tar.gz"
AUDIO_SUFFIX = ".flac"
SAMPLE_RATE = 16000
COPY_AGAIN = "copy or unpack the part again"
# MD5 of <part>.tar.gz, from md5sum.txt on OpenSLR
MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
UTTERANCES = {
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
}
COMBINED_SETS = {
    "dev": ("dev-clean", "dev-other"),
    "train_960": ("train-clean-100", "train-clean-360", "train-other-500"),
}


@dataclass
class Part:
    """Utterances of a part, and the paths of files that do not belong to the corpus."""

    utterances: list[Utterance] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare librispeech [SOURCE] DST [--parts NAME ...]``.

    Writes DST/{dev_clean,...,dev,train_960}.
    """
    parser = command_parser("prepare librispeech", __doc__.splitlines()[0])
    parser.add_argument(
        "source",
        nargs="?",
        default=OPENSLR,
        help="directory LibriSpeech or the one above it, directory with <part>.tar.gz, one such archive, or "
        "URL"
        " of a directory with them (default: %(default)s)",
    )
    parser.add_argument("dst", type=Path, help="directory to write the data directories into")
    parser.add_argument(
        "--parts",
        nargs="*",
        default=[],
        metavar="NAME",
        help=f"parts or sets (default: all that are there): {' '.join([*UTTERANCES, *COMBINED_SETS])}",
    )
    parser.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads"),
        help="directory where archives are kept and unpacked (default: %(default)s)",
    )
    parser.add_argument(
        "--md5sums",
        type=Path,
        help="file of checksums, for a mirror whose archives are not the published ones",
    )
    args = parser.parse_args(argv)
    md5 = read_md5sums(args.md5sums) if args.md5sums else MD5
    with lock_data_dirs(args.dst):
        prepare(find_parts(args.source, choose_parts(args.parts), args.downloads, md5), args.dst)


def choose_parts(names: Iterable[str]) -> list[str]:
    """Return the parts of which sets consist, in the order of ``UTTERANCES``.

    Args:
        names: of parts or sets.

    Raises:
        UserError: a name is unknown.
    """
    chosen: set[str] = set()
    for name in names:
        parts = COMBINED_SETS.get(name, (name.replace("_", "-"),))
        if parts[0] not in UTTERANCES:
            raise UserError(
                f"LibriSpeech has no part {name!r}: known are {', '.join([*UTTERANCES, *COMBINED_SETS])}"
            )
        chosen.update(parts)
    return [part for part in UTTERANCES if part in chosen]


def read_md5sums(path: Path) -> dict[str, str]:
    """Read part -> checksum from lines ``<MD5>  <part>.tar.gz``, as ``md5sum`` writes them.

    Raises:
        UserError: the file cannot be read, or a line has another form.
    """
    md5: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        digits, _, name = line.partition(" ")
        if len(digits) != 32 or not set(digits.lower()) <= set("0123456789abcdef") or not name.strip():
            raise UserError(f"{path}:{number}: expected `<MD5>  <file>`, not {line!r}")
        md5[name.strip().removeprefix("*").removesuffix(ARCHIVE_SUFFIX)] = digits.lower()
    return md5


def find_parts(
    source: str, parts: Collection[str], downloads: Path, md5: Mapping[str, str] = MD5
) -> dict[str, Path]:
    """Return the directory of each part; download and unpack archives where necessary.

    Args:
        source: the directory LibriSpeech, the one above it, a directory with ``<part>.tar.gz``, one such
            archive, or the URL of a directory with them.
        parts: names of parts; empty for all that ``source`` has.
        downloads: directory of downloaded archives; each is unpacked once, into a directory that is named by
            its checksum.
        md5: part -> checksum of its archive; a downloaded archive must have it.

    Raises:
        UserError: ``source`` is not LibriSpeech or lacks one of the parts.
    """
    if "://" in source:
        return {
            part: _download_part(source, part, downloads, md5) for part in MD5 if not parts or part in parts
        }
    path = Path(source)
    if path.is_dir():
        found = parts_in(path)
        for part in MD5:
            archive = path / f"{part}{ARCHIVE_SUFFIX}"
            if part not in found and (not parts or part in parts) and archive.is_file():
                found |= parts_in(_unpack(archive, downloads, md5))
    elif path.is_file():
        found = parts_in(_unpack(path, downloads, md5))
    else:
        raise UserError(f"{source} is not a directory, a file or a URL")
    if not found:
        raise UserError(
            f"{source} is not LibriSpeech: there is no dev-clean or other part in it, nor in "
            f"{source}/{TOP_FOLDER}"
        )
    if missing := [part for part in MD5 if part in parts and part not in found]:
        raise UserError(
            f"{source} has {' '.join(found)}, but not {' '.join(missing)}: get them from {OPENSLR}"
        )
    return {part: found[part] for part in MD5 if part in found and (not parts or part in parts)}


def parts_in(directory: Path) -> dict[str, Path]:
    """Return the parts in the directory LibriSpeech or in the one above it."""
    return {
        part: root / part
        for root in (directory / TOP_FOLDER, directory)
        for part in MD5
        if (root / part).is_dir()
    }


def _download_part(url: str, part: str, downloads: Path, md5: Mapping[str, str]) -> Path:
    if part not in md5:
        raise UserError(f"--md5sums has no checksum of {part}{ARCHIVE_SUFFIX}: add it")
    directory = _unpacked_directory(downloads, part, md5[part])
    if not directory.is_dir():
        extract(download(f"{url.rstrip('/')}/{part}{ARCHIVE_SUFFIX}", downloads, md5[part]), directory)
    found = parts_in(directory)
    if part not in found:
        raise UserError(
            f"{url.rstrip('/')}/{part}{ARCHIVE_SUFFIX} contains no {TOP_FOLDER}/{part}: use another address"
        )
    return found[part]


def _unpack(archive: Path, downloads: Path, md5: Mapping[str, str]) -> Path:
    part = archive.name.removesuffix(ARCHIVE_SUFFIX)
    found = file_md5(archive)
    if found != md5.get(part):
        warn(f"{archive} has MD5 {found}, which is not the published one")
    directory = _unpacked_directory(downloads, part, found)
    if not directory.is_dir():
        print(f"unpacking {archive} as {directory}", flush=True)
        extract(archive, directory)
    return directory


def _unpacked_directory(downloads: Path, name: str, md5: str) -> Path:
    return downloads / f"{name}-{md5[:12]}"


def prepare(directories: dict[str, Path], dst: Path) -> None:
    """Write a set for every part, and the combined sets whose parts are all there.

    Nothing is written if one of the parts has an error.
    """
    utterances = {part: _read_utterances(part, directory) for part, directory in directories.items()}
    for part, found in utterances.items():
        _write_set(dst / part.replace("-", "_"), found)
    for name, parts in COMBINED_SETS.items():
        if all(part in utterances for part in parts):
            _write_set(dst / name, [u for part in parts for u in utterances[part]])


def _read_utterances(part: str, directory: Path) -> list[Utterance]:
    found = read_part(directory)
    if found.ignored:
        warn(f"{directory}: {len(found.ignored)} other files are ignored, such as {found.ignored[0]}")
    if len(found.utterances) != UTTERANCES[part]:
        warn(f"{directory}: {len(found.utterances)} utterances, the corpus has {UTTERANCES[part]}")
    return found.utterances


def _write_set(dst: Path, utterances: Sequence[Utterance]) -> None:
    write_data_dir(dst, utterances)
    print(f"{dst}: {len(utterances)} utterances, {len({u.speaker for u in utterances})} speakers", flush=True)


def read_part(directory: str | Path) -> Part:
    """Read all utterances of a part, and check that transcripts and audio files correspond.

    Only the header of each audio file is read, so that 1000 hours take seconds; stage 3, which decodes the
    audio, finds damage behind the header.

    Raises:
        UserError: the directory is not a part of LibriSpeech, or is incomplete; names file and line.
    """
    part = Part()
    readers = _list_directories(str(directory), part.ignored)
    if not readers:
        raise UserError(f"{directory} is not a part of LibriSpeech: it has no directories <reader>/<chapter>")
    for reader in readers:
        chapters = _list_directories(reader.path, part.ignored)
        if not chapters:
            raise UserError(f"{reader.path} has no chapters: {COPY_AGAIN}")
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
            raise UserError(f"{where}: {utt} does not begin with reader and chapter, {speaker}-")
        if not words:
            raise UserError(f"{where}: {utt} has an empty transcript: correct or remove it")
        if utt + AUDIO_SUFFIX not in files:
            raise UserError(f"{where}: there is no {utt}{AUDIO_SUFFIX} beside it: {COPY_AGAIN}")
        files.remove(utt + AUDIO_SUFFIX)
        path = f"{directory}/{utt}{AUDIO_SUFFIX}"
        _check_audio(path)
        part.utterances.append(Utterance(utt, speaker, Path(path), words))
    if files:
        raise UserError(f"{directory}/{min(files)} has no line in {speaker}.trans.txt: {COPY_AGAIN}")


def _check_audio(path: str) -> None:
    info = flac_info(path)
    if (info.samplerate, info.channels) != (SAMPLE_RATE, 1):
        raise UserError(
            f"{path} is {info.channels}-channel audio at {info.samplerate} Hz,"
            f" not LibriSpeech's 1-channel audio at {SAMPLE_RATE} Hz"
        )


def _list_directories(path: str, ignored: list[str]) -> list[os.DirEntry[str]]:
    """Return the directories in ``path``, sorted; other entries are added to ``ignored``."""
    directories: list[os.DirEntry[str]] = []
    for entry in _entries(path):
        if entry.is_dir() and not entry.name.startswith("."):
            directories.append(entry)
        else:
            ignored.append(entry.path)
    return directories


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
