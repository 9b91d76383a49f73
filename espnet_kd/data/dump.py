"""Read dump directories, which hold formatted speech, and select utterances by length.

``espnet-kd lengths`` does what stage 4 of ESPnet's asr.sh does: utterances of int(seconds * rate) samples at
either limit are dropped, too.
"""

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.contents import inherit_fingerprints
from espnet_kd.data.datadir import check_id, check_same_keys, spk2utt
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, read_table, write_table

TABLES = ("utt2spk", "text", "wav.scp", "utt2num_samples")  # with one line per utterance
MANIFEST = "manifest.json"
PREFIX = "pseudo-"  # of ids of utterances and speakers with pseudo-labels
# Copies and other speeds that are made afterwards put their prefix in front.
PSEUDO_ID = re.compile(rf"(sp[\d.]+-|copy\d+-)*{PREFIX}")


def main(argv: list[str] | None = None) -> None:
    """Run ``lengths [--min S] [--max S] [--fs 16k] [--unlabelled] SRC DST``."""
    parser = command_parser("lengths")
    parser.add_argument("src", type=Path, help="dump directory")
    parser.add_argument("dst", type=Path, help="dump directory to write")
    parser.add_argument(
        "--min",
        type=float,
        default=0.1,
        help="utterances of so many seconds or less are dropped (default: %(default)s)",
    )
    parser.add_argument(
        "--max",
        type=float,
        default=20.0,
        help="utterances of so many seconds or more are dropped (default: %(default)s)",
    )
    parser.add_argument("--fs", default="16k", help="sampling rate (default: %(default)s)")
    parser.add_argument("--unlabelled", action="store_true", help="the speech has no transcripts")
    args = parser.parse_args(argv)
    if not math.isfinite(args.min) or math.isnan(args.max):
        raise UserError(f"--min {args.min:g} --max {args.max:g}: give seconds, such as 0.1 and 20")
    fs = parse_rate(args.fs)
    tables = read_dump_tables(args.src, labelled=not args.unlabelled)
    reasons = {
        utt: why for utt in tables["utt2spk"] if (why := _reason_to_drop(tables, utt, args.min, args.max, fs))
    }
    counts = Counter(reasons.values())
    dropped = ", ".join(f"{counts[why]} {why}" for why in sorted(counts)) or "none"
    if len(reasons) == len(tables["utt2spk"]):
        raise UserError(f"{args.src}: no utterance is left ({dropped}): check --min, --max and --fs")
    write_subset(args.src, args.dst, tables, set(reasons))
    print(f"{args.dst}: {len(tables['utt2spk']) - len(reasons)} utterances; dropped: {dropped}")


def _reason_to_drop(
    tables: dict[str, dict[str, str]], utt: str, low: float, high: float, fs: int
) -> str | None:
    samples = int(tables["utt2num_samples"][utt])
    if "text" in tables and not tables["text"][utt]:
        return "without text"
    if samples <= int(low * fs):
        return f"of {low:g} s or less"
    if math.isfinite(high) and samples >= int(high * fs):
        return f"of {high:g} s or more"
    return None


def read_dump_tables(path: Path, labelled: bool = True) -> dict[str, dict[str, str]]:
    """Read the tables with one line per utterance of a directory that ``format`` wrote.

    Args:
        path: the directory.
        labelled: False for a directory without transcripts, or to ignore them.

    Raises:
        UserError: a table is missing, the tables have different utterances, or a number of samples is
            malformed.
    """
    return dict(iterate_dump_tables(path, labelled))


def iterate_dump_tables(path: Path, labelled: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the tables of ``read_dump_tables`` one at a time, as they are large."""
    if not (path / "wav.scp").is_file():
        raise UserError(f"{path}/wav.scp does not exist: run the format stage (3) first")
    first: dict[str, None] = {}
    for name in TABLES if labelled else (name for name in TABLES if name != "text"):
        yield name, _read_checked(path, name, first)


def _read_checked(path: Path, name: str, first: dict[str, None]) -> dict[str, str]:
    """Read a table; keep the ids of the first in ``first``, and check that the others have the same."""
    table = read_table(path / name)
    if name == TABLES[0]:
        first.update(dict.fromkeys(table))
    check_same_keys(path, {TABLES[0]: first, name: table})
    for utt, value in table.items() if name == "utt2num_samples" else ():
        if not value.isdecimal() or len(value) > 18:  # so many samples fit on no disk
            raise UserError(f"{path}/{name}: {utt}: {value!r} is not a number of samples")
    return table


def write_subset(src: Path, dst: Path, tables: dict[str, dict[str, str]], without: set[str]) -> None:
    """Write a copy of a dump directory without some utterances."""
    if dst.is_dir() and any(dst.iterdir()) and not (dst / "wav.scp").exists():
        raise UserError(f"{dst} has files but is not a dump directory: choose another name")
    if src.resolve() == dst.resolve() or (dst / "data").exists():
        raise UserError(f"{dst} holds audio that `format` wrote: choose another name")
    with atomic_dir(dst) as tmp:
        for path in sorted(src.iterdir()):
            if path.is_file() and path.name not in (*TABLES, "spk2utt") and not path.name.startswith("."):
                shutil.copyfile(path, tmp / path.name)
        inherit_fingerprints(tmp, [dst])  # so that the audio is not read again
        for name, table in tables.items():
            write_table(tmp / name, {utt: value for utt, value in table.items() if utt not in without})
        write_table(tmp / "spk2utt", spk2utt(read_table(tmp / "utt2spk")))


@dataclass(frozen=True)
class Dump:
    """A formatted data directory, without its transcripts.

    Attributes:
        wav: utterance -> entry of wav.scp.
        speaker: utterance -> speaker; the utterance itself if there is no utt2spk.
        kind: content of feats_type and audio_format, if these files exist.
    """

    path: Path
    wav: dict[str, str]
    speaker: dict[str, str]
    kind: dict[str, str]

    def absolute(self) -> dict[str, str]:
        """Return ``wav`` with absolute paths."""
        return {utt: os.path.abspath(value) for utt, value in self.wav.items()}


def read_dump(path: Path) -> Dump:
    """Read the speech of a directory that ``format`` or stage 3 of asr.sh wrote.

    Raises:
        UserError: the directory is not formatted, has no utterances, or its tables have different utterances.
    """
    if not path.is_dir():
        raise UserError(
            f"{path} is not a directory: give a formatted data directory, such as dump/raw/unlabelled"
        )
    if not (path / "wav.scp").is_file():
        raise UserError(f"{path}/wav.scp does not exist: format the data first (stage 3)")
    if (path / "segments").exists():
        raise UserError(
            f"{path} has segments of recordings: format it first (stage 3), to one file per utterance"
        )
    wav = read_table(path / "wav.scp")
    if not wav:
        raise UserError(f"{path} has no utterances: wav.scp is empty")
    for utt, value in wav.items():
        check_id(path / "wav.scp", utt)
        if not value or value.endswith("|"):
            raise UserError(
                f"{path}/wav.scp: {utt} has no path of a file: format the data first (stage 3)"
            )
    speaker = {utt: utt for utt in wav}
    if (path / "utt2spk").exists():
        speaker = read_table(path / "utt2spk")
        check_same_keys(path, {"wav.scp": wav, "utt2spk": speaker})
    names = [name for name in ("feats_type", "audio_format") if (path / name).is_file()]
    return Dump(path, wav, speaker, {name: (path / name).read_text(encoding="utf-8") for name in names})


def are_hypotheses(utt_ids: Sequence[str]) -> list[bool]:
    """Return for each utterance whether its text is a hypothesis (a pseudo-label)."""
    return [PSEUDO_ID.match(utt) is not None for utt in utt_ids]
