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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.contents import inherit_fingerprints
from espnet_kd.data.datadir import check_id
from espnet_kd.data.tables import SortedTable, check_same_keys, join, spk2utt_rows, write_columns
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, write_rows

SAMPLES = "utt2num_samples"
TABLES = ("utt2spk", "text", "wav.scp", SAMPLES)  # with one line per utterance
MANIFEST = "manifest.json"
PREFIX = "pseudo-"  # of ids of utterances and speakers with pseudo-labels
# Copies and other speeds that are made afterwards put their prefix in front.
PSEUDO_ID = re.compile(rf"(sp[\d.]+-|copy\d+-)*{PREFIX}")


def main(argv: list[str] | None = None) -> None:
    """Run ``lengths [--min S] [--max S] [--fs 16k] [--unlabelled | --keep_empty] SRC DST``."""
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
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--unlabelled", action="store_true", help="the speech has no transcripts")
    keep = "keep utterances with an empty transcript: nothing learns from transcripts"
    text.add_argument("--keep_empty", action="store_true", help=keep)
    args = parser.parse_args(argv)
    if not math.isfinite(args.min) or math.isnan(args.max):
        raise UserError(f"--min {args.min:g} --max {args.max:g}: give seconds, such as 0.1 and 20")
    fs = parse_rate(args.fs)
    tables = read_dump_tables(args.src, labelled=not args.unlabelled)
    counts: Counter[str | None] = Counter()

    def kept() -> Iterator[tuple[str, tuple[str, ...]]]:
        place = {name: number for number, name in enumerate(tables)}
        for utt, values in join(args.src, tables):
            words = values[place["text"]] if "text" in place and not args.keep_empty else None
            why = _reason_to_drop(int(values[place[SAMPLES]]), words, args.min, args.max, fs)
            counts[why] += 1
            if why is None:
                yield utt, values

    with new_subset(args.src, args.dst) as tmp:
        left = write_columns(tmp, list(tables), kept())
        dropped = ", ".join(f"{counts[why]} {why}" for why in sorted(filter(None, counts))) or "none"
        if not left:
            raise UserError(f"{args.src}: no utterance is left ({dropped}): check --min, --max and --fs")
        write_rows(tmp / "spk2utt", spk2utt_rows(SortedTable(tmp / "utt2spk")))
    print(f"{args.dst}: {left} utterances; dropped: {dropped}")


def spread_over(total: int, number: int) -> list[int]:
    """Return at most so many numbers from 0 to below the total, at equal distances."""
    number = min(number, total)
    return [i * total // number for i in range(number)]


def _reason_to_drop(samples: int, text: str | None, low: float, high: float, fs: int) -> str | None:
    if text == "":
        return "without text"
    if samples <= int(low * fs):
        return f"of {low:g} s or less"
    if math.isfinite(high) and samples >= int(high * fs):
        return f"of {high:g} s or more"
    return None


def read_dump_tables(path: Path, labelled: bool = True) -> dict[str, SortedTable]:
    """Open the tables with one line per utterance of a directory that ``format`` wrote.

    Args:
        path: the directory.
        labelled: False for a directory without transcripts, or to ignore them.

    Raises:
        UserError: a table is missing, the tables have different utterances, or a number of samples is
            malformed.
    """
    if not (path / "wav.scp").is_file():
        raise UserError(f"{path}/wav.scp does not exist: run the format stage (3) first")
    tables = {name: SortedTable(path / name) for name in TABLES if labelled or name != "text"}
    for _ in join(path, tables):
        pass
    for utt, value in tables[SAMPLES]:
        if not value.isdecimal() or len(value) > 18:  # so many samples fit on no disk
            raise UserError(f"{path}/{SAMPLES}: {utt}: {value!r} is not a number of samples")
    return tables


@contextmanager
def new_subset(src: Path, dst: Path) -> Iterator[Path]:
    """Yield a temporary copy of a dump directory without its tables, which becomes ``dst``.

    Raises:
        UserError: ``dst`` is a directory of another kind, or holds the audio.
    """
    if dst.is_dir() and any(dst.iterdir()) and not (dst / "wav.scp").exists():
        raise UserError(f"{dst} has files but is not a dump directory: choose another name")
    if src.resolve() == dst.resolve() or (dst / "data").exists():
        raise UserError(f"{dst} holds audio that `format` wrote: choose another name")
    with atomic_dir(dst) as tmp:
        for path in sorted(src.iterdir()):
            if path.is_file() and path.name not in (*TABLES, "spk2utt") and not path.name.startswith("."):
                shutil.copyfile(path, tmp / path.name)
        inherit_fingerprints(tmp, [dst])  # so that the audio is not read again
        yield tmp


@dataclass(frozen=True)
class Dump:
    """A formatted data directory, without its transcripts.

    Attributes:
        wav: utterance -> entry of wav.scp.
        speaker: utterance -> speaker; None if there is no utt2spk: then each utterance has its own.
        kind: content of feats_type and audio_format, if these files exist.
    """

    path: Path
    wav: SortedTable
    speaker: SortedTable | None
    kind: dict[str, str]

    def absolute(self) -> Iterator[tuple[str, str]]:
        """Yield the rows of ``wav`` with absolute paths."""
        return ((utt, os.path.abspath(value)) for utt, value in self.wav)

    def speakers(self) -> Iterator[tuple[str, str]]:
        """Yield each utterance with its speaker."""
        return ((utt, utt) for utt in self.wav.ids()) if self.speaker is None else iter(self.speaker)


def read_dump(path: Path) -> Dump:
    """Open the speech of a directory that ``format`` or stage 3 of asr.sh wrote.

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
    wav = SortedTable(path / "wav.scp")
    if not wav:
        raise UserError(f"{path} has no utterances: wav.scp is empty")
    for utt, value in wav:
        check_id(path / "wav.scp", utt)
        if not value or value.endswith("|"):
            raise UserError(
                f"{path}/wav.scp: {utt} has no path of a file: format the data first (stage 3)"
            )
    speaker = None
    if (path / "utt2spk").exists():
        speaker = SortedTable(path / "utt2spk")
        check_same_keys(path, {"wav.scp": wav.ids(), "utt2spk": speaker.ids()})
    names = [name for name in ("feats_type", "audio_format") if (path / name).is_file()]
    return Dump(path, wav, speaker, {name: (path / name).read_text(encoding="utf-8") for name in names})


def are_hypotheses(utt_ids: Sequence[str]) -> list[bool]:
    """Return for each utterance whether its text is a hypothesis (a pseudo-label)."""
    return [PSEUDO_ID.match(utt) is not None for utt in utt_ids]
