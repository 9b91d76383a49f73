"""``espnet-kd mix``: combine labelled and pseudo-labelled speech to one training set at a given ratio.

The ratio is that of an epoch: utterances of the smaller side are repeated, all equally often or some once
more. espnet_kd/methods/mixed_batches.py makes batches with the same ratio. Audio is not copied. Utterances
with a pseudo-label get the prefix ``pseudo-``, copies ``copy2-`` and so on. ``speech_shape`` and
``text_shape.<type>`` are the same as ESPnet would collect.
"""

import argparse
import hashlib
import heapq
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.contents import inherit_fingerprints
from espnet_kd.data.datadir import Row, merge_sorted
from espnet_kd.data.dump import MANIFEST, PREFIX, PSEUDO_ID, SAMPLES, TABLES, read_dump_tables
from espnet_kd.data.tables import SortedTable, spk2utt_rows
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, read_json, read_lines, write_rows

RECORD = "mix.json"


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = command_parser("mix")
    parser.add_argument("--labelled", type=Path, required=True, help="dump directory with transcripts")
    parser.add_argument(
        "--pseudo", type=Path, nargs="+", required=True, help="directories that pseudo-label wrote"
    )
    parser.add_argument(
        "--share", type=float, help="share of pseudo-labelled speech, up to 1 (default: all speech, once)"
    )
    parser.add_argument(
        "--generation",
        type=int,
        default=1,
        help="number of the generation, which is only recorded (default: 1)",
    )
    parser.add_argument("--teacher", help="experiment that labelled the speech, which is only recorded")
    parser.add_argument("--fs", default="16k", help="sampling rate (default: %(default)s)")
    parser.add_argument(
        "--token_type", choices=("bpe", "char", "word"), required=True, help="of the student's tokens"
    )
    parser.add_argument("--token_list", type=Path, required=True, help="the student's tokens")
    parser.add_argument("--bpemodel", default="none", help="of the student's tokens (default: %(default)s)")
    parser.add_argument(
        "--nlsyms", default="none", help="file of non-linguistic symbols, one per line (default: %(default)s)"
    )
    parser.add_argument("--cleaner", default="none", help="ESPnet's cleaning of text (default: %(default)s)")
    parser.add_argument("dst", type=Path, help="dump directory to write")
    args = parser.parse_args(argv)
    if args.share is not None and not 0 < args.share <= 1:
        raise UserError(f"--share {args.share:g} must be above 0 and at most 1")
    rate = parse_rate(args.fs)
    labelled = read_dump_tables(args.labelled)
    pseudo = [read_dump_tables(path) for path in args.pseudo]
    check_ids(args, labelled, pseudo)
    sides = Sides(labelled, {name: Joined(args.dst, [tables[name] for tables in pseudo]) for name in TABLES})
    times = repetitions(total(sides.labelled[SAMPLES]), total(sides.pseudo[SAMPLES]), args.share)
    record = {
        "generation": args.generation,
        "teacher": args.teacher,
        "share": args.share,
        "labelled": {"data": str(args.labelled), "times": round(times.labelled, 4)},
        "pseudo": [manifest_summary(path) for path in args.pseudo],
        "times": round(times.pseudo, 4),
    }
    samples = write_mixture(sides, times, args, record)
    hours = " and ".join(f"{number / rate / 3600:.2f}" for number in samples)
    print(f"{args.dst}: labelled and pseudo-labelled speech, {hours} hours an epoch")


class Joined:
    """The sorted rows of a table of several directories.

    Args:
        path: of the mixture, for messages.
        parts: the table in each directory.
    """

    def __init__(self, path: Path, parts: Sequence[SortedTable]) -> None:
        self._path, self._parts = path, parts

    def __iter__(self) -> Iterator[Row]:
        return merge_sorted(self._path, map(iter, self._parts))


@dataclass(frozen=True)
class Sides:
    """The tables of the labelled and of the pseudo-labelled side, by name."""

    labelled: Mapping[str, Iterable[Row]]
    pseudo: Mapping[str, Iterable[Row]]


@dataclass(frozen=True)
class Times:
    """How often each utterance of either side occurs in the mixture, on average."""

    labelled: float
    pseudo: float


def repetitions(labelled: int, pseudo: int, share: float | None) -> Times:
    """Return how often each side must occur to reach the share; one side occurs once.

    Args:
        labelled: number of samples, > 0.
        pseudo: number of samples, > 0.
        share: of the pseudo-labelled samples, in (0, 1]; 1 leaves out the labelled ones. None takes both
            sides once.
    """
    if share is None:
        return Times(1.0, 1.0)
    if share == 1:
        return Times(0.0, 1.0)
    times = pseudo * (1 - share) / share / labelled
    return Times(times, 1.0) if times >= 1 else Times(1.0, 1 / times)


def copies_of_table(name: str, table: Iterable[Row], times: float, front: str = "") -> list[Iterator[Row]]:
    """Return the sorted rows of a table and of each copy of it.

    Where ``times`` is not whole, the utterances of the last copy are spread evenly.

    Args:
        name: of the table; in utt2spk speakers of a copy are renamed, too.
        table: utterance -> value, sorted; each copy reads it once.
        times: how often an utterance occurs on average.
        front: prefix of utterances and speakers.
    """

    def copy(number: int) -> Iterator[Row]:
        for index, (utt, value) in enumerate(table):
            if number <= math.floor((index + 1) * times) - math.floor(index * times):
                named = copy_of(f"{front}{value}", number) if name == "utt2spk" else value
                yield copy_of(front + utt, number), named

    return [copy(number) for number in range(1, math.ceil(times) + 1)]


def mixed_rows(dst: Path, name: str, sides: Sides, times: Times) -> Iterator[Row]:
    """Return the sorted rows of a table of the mixture."""
    labelled = copies_of_table(name, sides.labelled[name], times.labelled)
    pseudo = copies_of_table(name, sides.pseudo[name], times.pseudo, PREFIX)
    return merge_sorted(dst, [*labelled, *pseudo])


def total(rows: Iterable[Row]) -> int:
    """Return the sum of the values, which are numbers of samples."""
    return sum(int(str(value)) for _, value in rows)


def copy_of(name: str, number: int) -> str:
    """Return the name of the n-th copy; the prefix of pseudo-labels stays in front of it."""
    if number == 1:
        return name
    front = PREFIX if name.startswith(PREFIX) else ""
    return f"{front}copy{number}-{name.removeprefix(front)}"


def check_ids(
    args: argparse.Namespace,
    labelled: Mapping[str, SortedTable],
    pseudo: Sequence[Mapping[str, SortedTable]],
) -> None:
    """Check that no two utterances would get the same id.

    Raises:
        UserError: two sets of pseudo-labels have an utterance in common, or ``labelled`` has pseudo-labels.
    """
    ids = [((utt, number) for utt in tables["utt2spk"].ids()) for number, tables in enumerate(pseudo)]
    for (before, _), (utt, number) in pairwise(heapq.merge(*ids)):
        if utt == before:
            raise UserError(f"{args.pseudo[number]}: {utt} is in another of the unlabelled sets, too")
    for utt in labelled["utt2spk"].ids():
        if PSEUDO_ID.match(utt):
            raise UserError(
                f"{args.labelled}: {utt} is a pseudo-label: give speech with transcripts as --labelled"
            )


def manifest_summary(path: Path) -> dict[str, Any]:
    """Return the part of the manifest of pseudo-labels that is recorded in ``mix.json``."""
    manifest = read_json(path / MANIFEST)
    parts = ("decoded", "kept", "references")
    if not all(part in manifest for part in parts):
        raise UserError(
            f"{path / MANIFEST} does not belong to pseudo-labels: give directories that `espnet-kd "
            "pseudo-label` wrote as --pseudo"
        )
    kept = {part: manifest[part] for part in parts}
    return {"data": str(path), **kept}


def write_mixture(
    sides: Sides, times: Times, args: argparse.Namespace, record: dict[str, Any]
) -> tuple[int, int]:
    """Write the data directory of the mixture, one table at a time; it appears when it is complete.

    Returns:
        Number of samples of the labelled and of the pseudo-labelled side.
    """
    with atomic_dir(args.dst) as tmp:
        for name in ("feats_type", "audio_format"):
            if (args.labelled / name).is_file():
                (tmp / name).write_bytes((args.labelled / name).read_bytes())
        for name in TABLES:
            rows = partial(mixed_rows, args.dst, name, sides, times)
            if name == "text":
                sha = hashlib.sha256()
                write_rows(tmp / name, hashed(rows(), sha))
                record["text"] = sha.hexdigest()
                write_rows(tmp / f"text_shape.{args.token_type}", text_shapes(rows(), args))
            else:
                write_rows(tmp / name, rows())
        write_rows(tmp / "spk2utt", spk2utt_rows(SortedTable(tmp / "utt2spk")))
        shutil.copyfile(tmp / SAMPLES, tmp / "speech_shape")
        inherit_fingerprints(tmp, [args.dst, args.labelled, *args.pseudo])
        (tmp / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    labelled = chain(*copies_of_table(SAMPLES, sides.labelled[SAMPLES], times.labelled))
    pseudo = chain(*copies_of_table(SAMPLES, sides.pseudo[SAMPLES], times.pseudo))
    return total(labelled), total(pseudo)


def hashed(rows: Iterable[Row], sha: Any) -> Iterator[Row]:
    """Yield the rows, and update a hash with them as JSON."""
    sha.update(b"{")
    for number, (key, value) in enumerate(rows):
        sha.update(f"{', ' if number else ''}{json.dumps(key)}: {json.dumps(value)}".encode())
        yield key, value
    sha.update(b"}")


def text_shapes(text: Iterable[Row], args: argparse.Namespace) -> Iterator[Row]:
    """Yield utterance and ``tokens,V`` as in ESPnet's statistics; V is the size of the token list."""
    from espnet_kd.host.options import token_counter

    bpemodel, symbols = (None if name == "none" else name for name in (args.bpemodel, args.nlsyms))
    count = token_counter(args.token_type, bpemodel, symbols, args.cleaner)
    size = len(read_lines(args.token_list))
    for utt, words in text:
        yield utt, f"{count(str(words))},{size}"
