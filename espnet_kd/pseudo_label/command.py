"""``espnet-kd pseudo-label``: transcribe a formatted data directory, normalise the text, and filter it.

``DST/decode`` keeps what was decoded (n-best lists and scores, one line of JSON per utterance), so that the
command resumes after an interruption, and other normalisers and filters need no decoding. ``DST`` is a data
directory with the pseudo-labels that pass the filters; ``DST/manifest.json`` records how they were made.
"""

import argparse
from collections.abc import Iterator
from itertools import batched
from pathlib import Path
from typing import Any

from espnet_kd import parallel
from espnet_kd.command_line import command_parser
from espnet_kd.data import dump
from espnet_kd.data.tables import Lookup, SortedTable
from espnet_kd.decoding import language_model, records
from espnet_kd.decoding.records import PseudoLabel, pseudo_label
from espnet_kd.errors import UserError
from espnet_kd.parallel import PER_SHARD, SETTINGS
from espnet_kd.pseudo_label import filters, form, labellers, output
from espnet_kd.pseudo_label.output import check_destination

DECODE = "decode"
TOGETHER = 10_000  # utterances in memory at the same time


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("pseudo-label")
    p.add_argument(
        "--teacher", type=Path, help="espnet: trained experiment, CTC/attention or transducer"
    )
    p.add_argument(
        "--data", type=Path, required=True, help="formatted data directory; its transcripts are not read"
    )
    p.add_argument("--dst", type=Path, required=True, help="data directory to write the pseudo-labels into")
    p.add_argument(
        "--decode_dir",
        type=Path,
        help="directory of decoded shards, which several --dst may share (default: DST/decode)",
    )
    p.add_argument(
        "--references",
        type=Path,
        help="text with true transcripts, which are only used to measure the error rate",
    )
    p.add_argument("--nlsyms", help="file of non-linguistic symbols, one per line, that are not scored")
    labellers.add_options(p)
    g = p.add_argument_group("decoding", "of the labeller espnet; --batch_size and --ngpu of all models")
    g.add_argument("--checkpoint", help="file in the experiment (default: its averaged model)")
    g.add_argument("--inference_config", type=Path, help="YAML for ESPnet's inference")
    g.add_argument(
        "--inference_args",
        default="",
        help='options that override --inference_config, such as "--beam_size 5"',
    )
    language_model.add_options(g)
    g.add_argument(
        "--nbest", type=int, default=5, help="most hypotheses to record per utterance (default: %(default)s)"
    )
    g.add_argument(
        "--batch_size", type=int, default=1,
        help="utterances to decode together; more than 1 moves the last digits of scores (default: 1)",
    )  # fmt: skip
    g.add_argument(
        "--ngpu", type=int, choices=(0, 1), default=0, help="1: workers decode on GPUs (default: 0)"
    )
    g = p.add_argument_group("parallel work")
    g.add_argument(
        "--cluster", default="local", help="local, or YAML of a Dask cluster (default: %(default)s)"
    )
    g.add_argument(
        "--workers", type=int, help="processes, one thread each (default: number of cores or GPUs)"
    )
    g.add_argument("--shards", type=int, help=f"number of shards (default: one per {PER_SHARD} utterances)")
    form.add_options(p)
    filters.add_options(p)
    return p


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(argv)
    for name in ("nbest", "shards", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} must be at least 1")
    filters.check_options(args)
    labellers.check_options(args)
    label = labellers.find_labeller(args.labeller)
    written = form.Form(args)
    where = parallel.parse_cluster(args.cluster, args.workers, bool(args.ngpu))
    source = dump.read_dump(args.data)
    check_destination(args.data, args.dst)
    other = other_decode(Path(args.agree_with), written) if args.agree_with else None
    references = output.References(args.references, args.nlsyms) if args.references else None
    decode_dir = args.decode_dir or args.dst / DECODE
    settings = label(args, source, decode_dir, where)

    def parts(count: bool) -> Iterator[dict[str, PseudoLabel]]:
        decoded = map(pseudo_label, records.read_decoded(decode_dir, source.wav.ids()))
        return (
            {label.utt: written(label, count) for label in part} for part in batched(decoded, TOGETHER)
        )

    sizes, selection = (output.Size(), output.Size()), filters.Selection(args)
    second = None if other is None else Lookup(other)
    for labels in parts(count=True):
        found = None if second is None else {u: text for u in labels if (text := second.get(u)) is not None}
        selection.add(labels, found)
        sizes[0].add(labels.values())
    flags, steps = selection.finish()
    content: dict[str, Any] = {}
    with output.new_labels(args.dst, lambda: output.manifest_text(content)) as tmp:
        outside = output.OutsideTokens(tmp if written.checks_tokens else None)

        def counted() -> Iterator[PseudoLabel]:
            """Yield the labels again, and count those that are kept."""
            place = 0
            for labels in parts(count=False):
                kept = {u for u, flag in zip(labels, flags[place : place + len(labels)], strict=True) if flag}
                place += len(labels)
                sizes[1].add(labels[utt] for utt in labels if utt in kept)
                outside.add(labels.values())
                if references:
                    references.add(labels, kept)
                yield from labels.values()

        output.write_labelled(source, tmp, output.label_rows(source, counted(), flags))
        outside.close()
        quality = references.quality() if references else None
        content |= output.make_manifest(settings, *sizes, written.summary(), steps, quality)
        for line in output.report_lines(args.dst, content):
            print(line)
        if not any(flags):
            counts = ", ".join(f"{step.dropped} by {step.name}" for step in steps if step.dropped)
            raise UserError(f"{args.dst}: no utterance passes the filters ({counts}): give wider limits")


def other_decode(path: Path, written: form.Form) -> Iterator[tuple[str, str]]:
    """Yield utterance and text of another decode, from shards of this command or a text file of ESPnet.

    Decoded shards are brought into the student's form; a text file is taken as it is.

    Raises:
        UserError: the directory has neither.
    """
    for directory in (path, path / DECODE):
        if (directory / SETTINGS).exists():
            found = map(pseudo_label, records.read_decoded(directory))
            return ((label.utt, written.text(label.text)) for label in found)
    if not (path / "text").exists():
        raise UserError(
            f"--agree_with {path} has neither decoded shards nor a text: give the --dst of another decode"
        )
    return iter(SortedTable(path / "text"))
