"""LibriSpeech (https://www.openslr.org/12): 1000 hours of read English in seven parts, 16 kHz.

Sets are called as in ESPnet's recipe: dev_clean for dev-clean, and so on; ``dev`` and ``train_960`` combine
several. A speaker is a reader in one chapter. Transcripts are used as they are.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from espnet_kd.corpora.datadir import Utterance, claimed, write_data_dir
from espnet_kd.corpora.librispeech_source import MD5, OPENSLR, locate, read_md5sums
from espnet_kd.corpora.librispeech_tree import read_part
from espnet_kd.corpora.tally import warn
from espnet_kd.errors import UserError

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
    parser = argparse.ArgumentParser(
        prog="espnet-kd prepare librispeech", description=__doc__.splitlines()[0]
    )
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
