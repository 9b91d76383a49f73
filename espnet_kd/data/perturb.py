"""``espnet-kd perturb``: add copies of a data directory at other speeds.

As with Kaldi's perturb_data_dir_speed.sh, ids and speakers of a copy get a prefix such as ``sp0.9-``. Kaldi
replaces the audio by a sox pipe and rescales segments; here audio and segments are unchanged, and
``utt2speed`` has the factor that ``format`` applies when it writes the audio.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data.datadir import (
    SPEEDS,
    DataDir,
    Row,
    format_segment,
    merge_sorted,
    new_data_dir,
    parse_segment,
    read_data_dir,
)
from espnet_kd.data.tables import spk2utt_rows
from espnet_kd.errors import UserError
from espnet_kd.files import write_rows

# A segment that parsing and formatting would not change, as are most.
ROUNDED = re.compile(r"\S+( (0|[1-9]\d{0,8})\.(\d{0,5}[1-9]|0)){2}", re.ASCII)
MakeValue = Callable[[str, Any, str], object]  # from key, value and the prefix of the copy


def main(argv: list[str] | None = None) -> None:
    """Run ``perturb [--factors "0.9 1.0 1.1"] [--unlabelled] SRC DST``."""
    parser = command_parser("perturb")
    parser.add_argument("src", type=Path, help="data directory")
    parser.add_argument("dst", type=Path, help="data directory to write")
    parser.add_argument("--unlabelled", action="store_true", help="the speech has no transcripts")
    parser.add_argument(
        "--factors", default="0.9 1.0 1.1", help="speed factors, 1.1 is faster (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.src.resolve() == args.dst.resolve():
        raise UserError(f"{args.src} cannot be perturbed into itself: give another directory")
    factors = parse_factors(args.factors)
    source = read_data_dir(args.src, labelled=not args.unlabelled)
    with new_data_dir(args.dst) as tmp:
        for name, rows in perturb_tables(source, factors).items():
            write_rows(tmp / name, rows)
    print(f"{args.dst}: {len(factors) * len(source.speaker)} utterances at {len(factors)} speeds")


def parse_factors(text: str) -> list[str]:
    """Return the speed factors as texts, because the prefixes repeat them as they are written.

    Raises:
        UserError: a factor is not a number within ``SPEEDS``, or occurs twice.
    """
    seen: set[float] = set()
    for word in text.split():
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not SPEEDS[0] <= value <= SPEEDS[1] or value in seen:
            limits = f"from {SPEEDS[0]} to {SPEEDS[1]}"
            raise UserError(f"--factors {text!r}: {word!r} is not a number {limits}, or occurs twice")
        seen.add(value)
    if not seen:
        raise UserError("--factors is empty: give speeds such as '0.9 1.0 1.1'")
    return text.split()


def perturb_tables(source: DataDir, factors: list[str]) -> dict[str, Iterator[Row]]:
    """Return the sorted rows of each table of the perturbed directory, as iterators to save memory.

    Raises:
        UserError: the directory is perturbed already; or, from an iterator, a copy has the id of another
            utterance.
    """
    if source.speed:
        raise UserError(
            f"{source.path} has utt2speed, so it is perturbed already: give the original directory"
        )
    prefixes = ["" if float(factor) == 1 else f"sp{factor}-" for factor in factors]

    def rows(table: Callable[[], Iterable[Row]], value: MakeValue = _unchanged) -> Iterator[Row]:
        return merge_sorted(source.path, [_copies(table(), prefix, value) for prefix in prefixes])

    pieces, wav = source.segments, source.wav
    tables = {
        "wav.scp": rows(lambda: wav),
        "utt2spk": rows(lambda: source.speaker, lambda _, name, prefix: prefix + name),
        "spk2utt": rows(lambda: spk2utt_rows(source.speaker), _prefixed_all),
    }
    if source.text is not None:
        tables["text"] = rows(source.text.__iter__)
    if pieces is not None:
        used = {value.split()[0] for value in pieces.values()}
        tables["wav.scp"] = rows(lambda: (row for row in wav if row[0] in used))
        tables["segments"] = rows(
            pieces.__iter__,
            lambda utt, piece, prefix: prefix + _rounded(pieces.path, utt, piece),
        )
    if any(prefixes):
        speed = [_copies(source.speaker, prefix, _speed) for prefix in prefixes if prefix]
        tables["utt2speed"] = merge_sorted(source.path, speed)
    if source.channel:
        tables["utt2ref_channels"] = rows(source.channel.__iter__)
    return tables


def _rounded(path: Path, utt: str, piece: str) -> str:
    """Return a segment with its times as they are written by ``format_segment``."""
    return piece if ROUNDED.fullmatch(piece) else format_segment(*parse_segment(path, utt, piece))


def _copies(table: Iterable[Row], prefix: str, value: MakeValue) -> Iterator[Row]:
    """Return the rows of a table at one speed."""
    return ((prefix + key, value(key, content, prefix)) for key, content in table)


def _unchanged(_: str, value: str, __: str) -> str:
    return value


def _prefixed_all(_: str, utterances: str, prefix: str) -> str:
    return " ".join(prefix + utt for utt in utterances.split())


def _speed(_: str, __: str, prefix: str) -> str:
    return f"{float(prefix.removeprefix('sp').removesuffix('-')):g}"
