"""``espnet-kd perturb``: a data directory with copies at other speeds.

As with Kaldi's perturb_data_dir_speed.sh, ids and speakers of a copy get a prefix ``sp0.9-``.
There the audio becomes a sox pipe and segments are rescaled; here nothing is run: audio and
segments stay as they are, ``utt2speed`` says what ``format`` does when it writes the audio.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from espnet_kd.corpora.datadir import SPEEDS, DataDir, Utterance, read_data_dir, write_data_dir
from espnet_kd.errors import UserError


def main(argv: list[str] | None = None) -> None:
    """``perturb [--factors "0.9 1.0 1.1"] [--unlabelled] SRC DST``."""
    parser = argparse.ArgumentParser(prog="espnet-kd perturb", description=__doc__.splitlines()[0])
    parser.add_argument("src", type=Path)
    parser.add_argument("dst", type=Path)
    parser.add_argument("--unlabelled", action="store_true", help="speech without transcripts")
    parser.add_argument("--factors", default="0.9 1.0 1.1", help="speeds (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.src.resolve() == args.dst.resolve():
        raise UserError(f"{args.src} cannot be perturbed into itself")
    factors = parse_factors(args.factors)
    source = read_data_dir(args.src, labelled=not args.unlabelled)
    write_data_dir(args.dst, (u for f in factors for u in at_speed(source, f)))
    print(f"{args.dst}: {len(factors) * len(source.speaker)} utterances at {len(factors)} speeds")


def parse_factors(text: str) -> list[str]:
    """Speed factors as they are written, since the prefix repeats them.

    Raises:
        UserError: a factor is no number within ``SPEEDS``, or occurs twice.
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


def at_speed(source: DataDir, factor: str) -> Iterator[Utterance]:
    """The utterances at another speed; at 1.0 themselves."""
    if source.speed:
        raise UserError(f"{source.path} has utt2speed, so it is perturbed already")
    if float(factor) == 1:
        yield from source
        return
    prefix = f"sp{factor}-"
    for u in source:
        u = replace(u, id=prefix + u.id, speaker=prefix + u.speaker, speed=float(factor))
        yield u if u.recording is None else replace(u, recording=prefix + u.recording)
