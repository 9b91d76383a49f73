"""``espnet-kd perturb``: add copies of a data directory at other speeds.

As with Kaldi's perturb_data_dir_speed.sh, ids and speakers of a copy get a prefix such as ``sp0.9-``. Kaldi
replaces the audio by a sox pipe and rescales segments; here audio and segments are unchanged, and
``utt2speed`` has the factor that ``format`` applies when it writes the audio.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data.datadir import (
    SPEEDS,
    DataDir,
    Row,
    format_segment,
    merge_sorted,
    read_data_dir,
    spk2utt,
    write_tables,
)
from espnet_kd.errors import UserError

MakeValue = Callable[[Any, str], object]  # from the value of a row and the prefix of the copy


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
        raise UserError(f"{args.src} cannot be perturbed into itself")
    factors = parse_factors(args.factors)
    source = read_data_dir(args.src, labelled=not args.unlabelled)
    write_tables(args.dst, perturb_tables(source, factors))
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

    def rows(table: Mapping[str, Any], value: MakeValue = lambda v, _: v) -> Iterator[Row]:
        return merge_sorted(source.path, [_copies(table, prefix, value) for prefix in prefixes])

    pieces = source.segments
    used = {recording for recording, *_ in pieces.values()} if pieces else source.speaker.keys()
    tables = {
        "wav.scp": rows({recording: source.wav[recording] for recording in used}),
        "utt2spk": rows(source.speaker, lambda name, prefix: prefix + name),
        "spk2utt": rows(spk2utt(source.speaker), _prefixed_all),
    }
    if source.text:
        tables["text"] = rows(source.text)
    if pieces:
        tables["segments"] = rows(pieces, lambda piece, prefix: prefix + format_segment(*piece))
    if any(prefixes):
        speed = [_copies(source.speaker, prefix, _speed) for prefix in prefixes if prefix]
        tables["utt2speed"] = merge_sorted(source.path, speed)
    if source.channel:
        tables["utt2ref_channels"] = rows(source.channel)
    return tables


def _copies(table: Mapping[str, Any], prefix: str, value: MakeValue) -> Iterator[Row]:
    """Return the rows of a table at one speed."""
    return ((prefix + key, value(table[key], prefix)) for key in sorted(table))


def _prefixed_all(utterances: str, prefix: str) -> str:
    return " ".join(prefix + utt for utt in utterances.split())


def _speed(_: Any, prefix: str) -> str:
    return f"{float(prefix.removeprefix('sp').removesuffix('-')):g}"
