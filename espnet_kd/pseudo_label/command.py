"""``espnet-kd pseudo-label``: transcribe a formatted data directory with a teacher, and filter the result.

``DST/decode`` keeps what was decoded (n-best lists and scores, one line of JSON per utterance), so that the
command resumes after an interruption and other filters need no decoding. ``DST`` is a data directory with the
pseudo-labels that pass the filters; ``DST/manifest.json`` records how they were made.
"""

import argparse
from pathlib import Path

from espnet_kd import parallel
from espnet_kd.command_line import command_parser
from espnet_kd.data import dump
from espnet_kd.decoding import language_model, records, shards
from espnet_kd.decoding.records import pseudo_label
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.parallel import PER_SHARD, SETTINGS
from espnet_kd.pseudo_label import filters, output
from espnet_kd.pseudo_label.output import check_destination, write_labelled

DECODE = "decode"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("pseudo-label")
    p.add_argument(
        "--teacher", type=Path, required=True, help="trained ESPnet experiment, CTC/attention or transducer"
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
    g = p.add_argument_group("decoding")
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
    filters.add_options(p)
    return p


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(argv)
    for name in ("nbest", "shards"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} must be at least 1")
    filters.check_options(args)
    where = parallel.parse_cluster(args.cluster, args.workers, bool(args.ngpu))
    source = dump.read_dump(args.data)
    check_destination(args.data, args.dst)
    other = other_decode(Path(args.agree_with)) if args.agree_with else None
    references = output.References.read(args.references, args.nlsyms) if args.references else None
    decode_dir = args.decode_dir or args.dst / DECODE
    settings = shards.decode_with_teacher(args, source, decode_dir, where)
    labels = {record.utt: pseudo_label(record) for record in records.read_decoded(decode_dir, source.wav)}
    kept, steps = filters.select(labels, args, other)
    quality = references.quality(labels, kept) if references else None
    content = output.make_manifest(settings, labels, kept, steps, quality)
    for line in output.report_lines(args.dst, content):
        print(line)
    if not kept:
        counts = ", ".join(f"{step.dropped} by {step.name}" for step in steps if step.dropped)
        raise UserError(f"{args.dst}: no utterance passes the filters ({counts}): give wider limits")
    write_labelled(source, args.dst, kept, output.manifest_text(content))


def other_decode(path: Path) -> dict[str, str]:
    """Read utterance -> text of another decode, from shards of this command or a text file of ESPnet.

    Raises:
        UserError: the directory has neither.
    """
    for directory in (path, path / DECODE):
        if (directory / SETTINGS).exists():
            return {record.utt: pseudo_label(record).text for record in records.read_decoded(directory)}
    if not (path / "text").exists():
        raise UserError(
            f"--agree_with {path} has neither decoded shards nor a text: give the --dst of another decode"
        )
    return read_table(path / "text")
