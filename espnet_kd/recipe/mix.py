"""``python -m espnet_kd mix``: labelled and pseudo-labelled speech in one training set, at a given ratio.

The ratio is that of an epoch: the side that is too small is repeated, an utterance either as often as its
neighbours or once more. For every batch to have it, there is espnet_kd/tasks/mixed_batches.py. Audio is not
copied. Utterances with a pseudo-label get the prefix ``pseudo-``, copies ``copy2-`` and so on.
``speech_shape`` and ``text_shape.<type>`` are as ESPnet would collect them.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_kd.corpora.datadir import spk2utt
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, read_json, read_lines, write_table
from espnet_kd.models.hypotheses import PREFIX
from espnet_kd.rate import parse_rate
from espnet_kd.recipe.lengths import read_dump_dir
from espnet_kd.recipe.pseudo_label.dump import MANIFEST

RECORD = "mix.json"
TABLES = ("wav.scp", "text", "utt2spk", "utt2num_samples")
Tables = dict[str, dict[str, str]]


def main(argv: list[str] | None = None) -> None:
    """Read, repeat, write, print."""
    description = __doc__.partition(": ")[2].splitlines()[0]
    parser = argparse.ArgumentParser(prog="espnet-kd mix", description=description)
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
    labelled = read_dump_dir(args.labelled)
    pseudo = join({path: read_dump_dir(path) for path in args.pseudo})
    times = repetitions(samples(labelled), samples(pseudo), args.share)
    record = {
        "generation": args.generation,
        "teacher": args.teacher,
        "share": args.share,
        "labelled": {"data": str(args.labelled), "times": round(times.labelled, 4)},
        "pseudo": [summary(path) for path in args.pseudo],
        "times": round(times.pseudo, 4),
    }
    sides = repeat(labelled, times.labelled), repeat(pseudo, times.pseudo)
    tables = {name: sides[0][name] | sides[1][name] for name in TABLES}
    record["text"] = hashlib.sha256(json.dumps(tables["text"], sort_keys=True).encode()).hexdigest()
    write(tables, args, record)
    hours = " and ".join(f"{samples(side) / rate / 3600:.2f}" for side in sides)
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


def repeat(tables: Tables, times: float) -> Tables:
    """A set with its copies; those utterances that have one more are spread evenly over the ids."""
    repeated: Tables = {name: {} for name in TABLES}
    for index, utt in enumerate(sorted(tables["text"])):
        for number in range(1, math.floor((index + 1) * times) - math.floor(index * times) + 1):
            for name in TABLES:
                value = tables[name][utt]
                repeated[name][copy_of(utt, number)] = copy_of(value, number) if name == "utt2spk" else value
    return repeated


def copy_of(name: str, number: int) -> str:
    """Name of the n-th copy; the prefix of the pseudo-labelled stays in front, where it is looked for."""
    if number == 1:
        return name
    front = PREFIX if name.startswith(PREFIX) else ""
    return f"{front}copy{number}-{name.removeprefix(front)}"


def join(sets: Mapping[Path, Tables]) -> Tables:
    """Pseudo-labelled sets as one, with the prefix.

    Raises:
        UserError: two have an utterance in common.
    """
    joined: Tables = {name: {} for name in TABLES}
    for path, tables in sets.items():
        for utt in tables["text"]:
            if PREFIX + utt in joined["text"]:
                raise UserError(f"{path}: {utt} is in another of the unlabelled sets, too")
            for name in TABLES:
                value = tables[name][utt]
                joined[name][PREFIX + utt] = PREFIX + value if name == "utt2spk" else value
    return joined


def samples(tables: Tables) -> int:
    """Length of a set."""
    return sum(map(int, tables["utt2num_samples"].values()))


def summary(path: Path) -> dict[str, Any]:
    """What the record keeps of a set of pseudo-labels."""
    manifest = read_json(path / MANIFEST)
    parts = ("decoded", "kept", "references")
    if not all(part in manifest for part in parts):
        raise UserError(f"{path / MANIFEST} is not of pseudo-labels: --pseudo takes results of pseudo-label")
    kept = {part: manifest[part] for part in parts}
    return {"data": str(path), **kept}


def write(tables: Tables, args: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Write the data directory; it appears when it is complete."""
    with atomic_dir(args.dst) as tmp:
        for name in ("feats_type", "audio_format"):
            if (args.labelled / name).is_file():
                (tmp / name).write_bytes((args.labelled / name).read_bytes())
        for name, table in tables.items():
            write_table(tmp / name, table)
        write_table(tmp / "spk2utt", spk2utt(tables["utt2spk"]))
        write_table(tmp / "speech_shape", tables["utt2num_samples"])
        write_table(tmp / f"text_shape.{args.token_type}", dict(text_shapes(tables["text"], args)))
        (tmp / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def text_shapes(text: Mapping[str, str], args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Utterance and ``tokens,V`` as stage 6 counts them."""
    from espnet2.text.build_tokenizer import build_tokenizer

    tokenizer = build_tokenizer(
        args.token_type,
        bpemodel=None if args.bpemodel == "none" else args.bpemodel,
        non_linguistic_symbols=None if args.nlsyms == "none" else args.nlsyms,
    )
    size = len(read_lines(args.token_list))
    for utt, words in text.items():
        yield utt, f"{len(tokenizer.text2tokens(words))},{size}"
