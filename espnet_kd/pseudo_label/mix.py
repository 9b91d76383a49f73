"""``espnet-kd mix``: labelled and pseudo-labelled speech in one training set, at a given ratio.

The ratio is that of an epoch: the side that is too small is repeated, an utterance either as often as its
neighbours or once more. For every batch to have it, there is espnet_kd/methods/mixed_batches.py. Audio is not
copied. Utterances with a pseudo-label get the prefix ``pseudo-``, copies ``copy2-`` and so on.
``speech_shape`` and ``text_shape.<type>`` are as ESPnet would collect them.
"""

import argparse
import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.contents import inherit
from espnet_kd.data.datadir import Row, merged, spk2utt
from espnet_kd.data.dump import HYPOTHESIS, MANIFEST, PREFIX, dump_tables
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, read_json, read_lines, read_table, write_rows, write_table

RECORD = "mix.json"
Table = dict[str, str]


def main(argv: list[str] | None = None) -> None:
    """Read, repeat, write, print."""
    parser = command_parser("mix")
    parser.add_argument("--labelled", type=Path, required=True, help="dump directory with transcripts")
    parser.add_argument("--pseudo", type=Path, nargs="+", required=True, help="results of pseudo-label")
    parser.add_argument("--share", type=float, help="of pseudo-labelled speech, up to 1 (default: all, once)")
    parser.add_argument("--generation", type=int, default=1, help="for the record (default: 1)")
    parser.add_argument("--teacher", help="who labelled the speech, for the record")
    parser.add_argument("--fs", default="16k", help="sampling rate (default: %(default)s)")
    parser.add_argument("--token_type", choices=("bpe", "char", "word"), required=True)
    parser.add_argument("--token_list", type=Path, required=True)
    parser.add_argument("--bpemodel", default="none")
    parser.add_argument("--nlsyms", default="none")
    parser.add_argument("dst", type=Path)
    args = parser.parse_args(argv)
    if args.share is not None and not 0 < args.share <= 1:
        raise UserError(f"--share {args.share:g} is not above 0 and up to 1")
    rate = parse_rate(args.fs)
    check_ids(args.labelled, args.pseudo)
    times = repetitions(samples(args.labelled), sum(map(samples, args.pseudo)), args.share)
    record = {
        "generation": args.generation,
        "teacher": args.teacher,
        "share": args.share,
        "labelled": {"data": str(args.labelled), "times": round(times.labelled, 4)},
        "pseudo": [summary(path) for path in args.pseudo],
        "times": round(times.pseudo, 4),
    }
    sides = write(times, args, record)
    hours = " and ".join(f"{number / rate / 3600:.2f}" for number in sides)
    print(f"{args.dst}: labelled and pseudo-labelled speech, {hours} hours an epoch")


@dataclass(frozen=True)
class Times:
    """How often each side stands in the mixture, on average."""

    labelled: float
    pseudo: float


def repetitions(labelled: int, pseudo: int, share: float | None) -> Times:
    """How often each side must stand so that its samples have the wanted share; the larger side stands once.

    Args:
        labelled, pseudo: samples, > 0.
        share: of the pseudo-labelled ones, in (0, 1]; None leaves both as they are, 1 has no labelled ones.
    """
    if share is None:
        return Times(1.0, 1.0)
    if share == 1:
        return Times(0.0, 1.0)
    wanted = pseudo * (1 - share) / share / labelled
    return Times(wanted, 1.0) if wanted >= 1 else Times(1.0, 1 / wanted)


def repeat(name: str, table: Table, times: float, front: str = "") -> list[Iterator[Row]]:
    """Rows of a table and of its copies, each sorted; those utterances that have one more are spread evenly.

    Args:
        name: of the table; speakers of a copy have names of their own.
        table: by utterance.
        times: how often, on average.
        front: prefix of utterances and speakers.
    """
    order = sorted(table)

    def copy(number: int) -> Iterator[Row]:
        for index, utt in enumerate(order):
            if number <= math.floor((index + 1) * times) - math.floor(index * times):
                value = table[utt]
                yield (
                    copy_of(front + utt, number),
                    copy_of(front + value, number) if name == "utt2spk" else value,
                )

    return [copy(number) for number in range(1, math.ceil(times) + 1)]


def both(dst: Path, name: str, labelled: Table, pseudo: Table, times: Times) -> Iterator[Row]:
    """Rows of a table of the mixture, sorted."""
    sides = repeat(name, labelled, times.labelled), repeat(name, pseudo, times.pseudo, PREFIX)
    return merged(dst, [*sides[0], *sides[1]])


def total(copies: Iterable[Iterator[Row]]) -> int:
    """Sum of numbers of samples."""
    return sum(int(str(value)) for rows in copies for _, value in rows)


def copy_of(name: str, number: int) -> str:
    """Name of the n-th copy; the prefix of the pseudo-labelled stays in front, where it is looked for."""
    if number == 1:
        return name
    front = PREFIX if name.startswith(PREFIX) else ""
    return f"{front}copy{number}-{name.removeprefix(front)}"


def check_ids(labelled: Path, pseudo: Sequence[Path]) -> None:
    """Refuse what would be called alike.

    Raises:
        UserError: two unlabelled sets have an utterance in common, or a labelled one is a pseudo-label.
    """
    found: set[str] = set()
    for path in pseudo:
        utterances = read_table(path / "utt2spk").keys()
        if common := min(found & utterances, default=None):
            raise UserError(f"{path}: {common} is in another of the unlabelled sets, too")
        found |= utterances
    for utt in read_table(labelled / "utt2spk"):
        if HYPOTHESIS.match(utt):
            raise UserError(f"{labelled}: {utt} is a pseudo-label: --labelled is speech with transcripts")


def samples(path: Path) -> int:
    """Length of a set.

    Raises:
        UserError: it was not formatted, or its tables do not agree.
    """
    counts = (table for name, table in dump_tables(path) if name == "utt2num_samples")
    return sum(int(count) for table in counts for count in table.values())


def summary(path: Path) -> dict[str, Any]:
    """What the record keeps of a set of pseudo-labels."""
    manifest = read_json(path / MANIFEST)
    parts = ("decoded", "kept", "references")
    if not all(part in manifest for part in parts):
        raise UserError(f"{path / MANIFEST} is not of pseudo-labels: --pseudo takes results of pseudo-label")
    kept = {part: manifest[part] for part in parts}
    return {"data": str(path), **kept}


def write(times: Times, args: argparse.Namespace, record: dict[str, Any]) -> tuple[int, int]:
    """Write the data directory, table by table; it appears when it is complete.

    Returns:
        Samples of both sides.
    """
    sides = 0, 0
    with atomic_dir(args.dst) as tmp:
        for name in ("feats_type", "audio_format"):
            if (args.labelled / name).is_file():
                (tmp / name).write_bytes((args.labelled / name).read_bytes())
        for parts in zip(*map(dump_tables, (args.labelled, *args.pseudo)), strict=True):
            (name, labelled), *others = parts
            pseudo = {utt: value for _, table in others for utt, value in table.items()}
            rows = partial(both, args.dst, name, labelled, pseudo, times)
            if name == "text":
                sha = hashlib.sha256()
                write_rows(tmp / name, hashed(rows(), sha))
                record["text"] = sha.hexdigest()
                write_rows(tmp / f"text_shape.{args.token_type}", text_shapes(rows(), args))
            else:
                write_rows(tmp / name, rows())
            if name == "utt2spk":
                write_table(tmp / "spk2utt", spk2utt({utt: str(value) for utt, value in rows()}))
            elif name == "utt2num_samples":
                shutil.copyfile(tmp / name, tmp / "speech_shape")
                sides = (
                    total(repeat(name, labelled, times.labelled)),
                    total(repeat(name, pseudo, times.pseudo)),
                )
            del parts, labelled, others, pseudo, rows  # before the next tables are read: they are large
        inherit(tmp, [args.dst, args.labelled, *args.pseudo])
        (tmp / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return sides


def hashed(rows: Iterable[Row], sha: Any) -> Iterator[Row]:
    """The rows; on their way the hash gets them as JSON."""
    sha.update(b"{")
    for number, (key, value) in enumerate(rows):
        sha.update(f"{', ' if number else ''}{json.dumps(key)}: {json.dumps(value)}".encode())
        yield key, value
    sha.update(b"}")


def text_shapes(text: Iterable[Row], args: argparse.Namespace) -> Iterator[Row]:
    """Utterance and ``tokens,V`` as stage 6 counts them."""
    from espnet_kd.host.options import token_counter

    bpemodel, symbols = (None if name == "none" else name for name in (args.bpemodel, args.nlsyms))
    count = token_counter(args.token_type, bpemodel, symbols)
    size = len(read_lines(args.token_list))
    for utt, words in text:
        yield utt, f"{count(str(words))},{size}"
