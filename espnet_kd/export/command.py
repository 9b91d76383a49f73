"""``espnet-kd export``: write a trained experiment as ONNX graphs that transcribe as it does.

The graphs take waveforms, whole or chunk by chunk: ESPnet's front end and normalisation are in them. The
check set is decoded by the experiment in torch and by the exported files; the directory gets its name only if
both agree.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_kd.command_line import command_parser
from espnet_kd.errors import UserError
from espnet_kd.export import check, directory
from espnet_kd.export.graph_parts import needing_packages
from espnet_kd.files import atomic_dir
from espnet_kd.scoring.alignment import UNITS

if TYPE_CHECKING:
    from espnet_kd.export.experiment import SearchOptions

OPSETS = (18, 23)  # of ONNX: the oldest that torch writes, and the newest that onnxruntime is known to run
DECODING_WINDOW, LEFT_CONTEXT = 640, 32  # ESPnet's
SEARCHES = ("attention", "transducer", "ctc")  # in the order in which they are taken by default


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("export")
    p.add_argument("experiment", type=Path, help="directory of a trained experiment")
    p.add_argument("--checkpoint", help="file in it (default: its averaged model)")
    p.add_argument("--format", choices=directory.FORMATS, default="onnx", help="default: %(default)s")
    p.add_argument("--out", type=Path, help="directory to write (default: EXPERIMENT/FORMAT[_stream][_int8])")
    p.add_argument("--check", type=Path, required=True, help="formatted set with transcripts")
    p.add_argument(
        "--tolerance", type=float, default=0.2,
        help="most that the error rate of the check set may move, in points (default: %(default)s)",
    )  # fmt: skip
    p.add_argument(
        "--metric", choices=tuple(UNITS), default="wer",
        help="that error rate; cer for a language without spaces, whose words are whole utterances "
        "(default: %(default)s)",
    )  # fmt: skip
    p.add_argument(
        "--inference_config", type=Path,
        help="YAML for ESPnet's inference: search as it says, where graphs can; options below override it",
    )  # fmt: skip
    p.add_argument("--inference_args", default="", help='options that override it, such as "--beam_size 5"')
    p.add_argument("--search", choices=SEARCHES, help="default: the first that the model has")
    p.add_argument(
        "--beam_size", type=int,
        help="of attention decoders (default: 5); of transducers (default: 1, greedy; else ESPnet's)",
    )  # fmt: skip
    p.add_argument(
        "--ctc_weight", type=float, help="of CTC beside an attention decoder (default: 0.5)",
    )  # fmt: skip
    p.add_argument(
        "--stream", action="store_true", help="for speech that arrives in chunks, of a streaming transducer"
    )
    p.add_argument(
        "--decoding_window", type=int,
        help="with --stream: milliseconds of a chunk, which ESPnet counts at 16 kHz "
        f"(default: {DECODING_WINDOW})",
    )  # fmt: skip
    p.add_argument(
        "--left_context", type=int,
        help=f"with --stream: encoder frames before a chunk that it sees (default: {LEFT_CONTEXT})",
    )  # fmt: skip
    p.add_argument("--int8", action="store_true", help="quantise the weights of linear layers")
    p.add_argument(
        "--keep_float", nargs="+", default=["auto"],
        help="with --int8: layers that stay in float; auto: the most sensitive, as few as the tolerance "
        "needs, or as in a training for int8; none (default: auto)",
    )  # fmt: skip
    p.add_argument("--opset", type=int, default=18, help="of ONNX (default: %(default)s)")
    p.add_argument("--threads", type=int, default=1, help="of onnxruntime (default: %(default)s)")
    return p


def main(argv: list[str] | None = None) -> None:
    """Export, check, and print what was measured."""
    args = parser().parse_args(argv)
    check_options(args)
    with needing_packages():
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401

        if args.format == "sherpa":
            import sherpa_onnx  # noqa: F401

    from espnet_kd.export.experiment import open_source
    from espnet_kd.export.sherpa import refuse
    from espnet_kd.export.sherpa_chunks import refuse_stream
    from espnet_kd.export.writing import write_checked

    options = search_options(args)
    source = open_source(args.experiment, args.checkpoint, options)
    if args.format == "sherpa":
        refuse(source.settings, source.rate)
        if options.stream is not None:
            refuse_stream(source.config, source.settings)
    data = check.read_check_set(args.check, source.rate, args.metric)
    kind = args.format + "_stream" * (options.stream is not None) + "_int8" * args.int8
    out = args.out or args.experiment / kind
    if out.exists() and not (out / directory.DESCRIPTION).is_file() and any(out.iterdir()):
        raise UserError(f"{out} is not an exported model and is not overwritten: give another --out")
    with atomic_dir(out) as temporary:
        found = write_checked(args, source, data, temporary)
    print_summary(out, found, args.metric)


def search_options(args: argparse.Namespace) -> "SearchOptions":
    """Return how the graphs are to search: as options of ESPnet's inference say, and those of the command.

    Raises:
        UserError: see ``search_of_decoding``.
    """
    from espnet_kd.export.experiment import SearchOptions, search_of_decoding

    found = SearchOptions(default=SEARCHES if args.format == "onnx" else ("transducer", "ctc"))
    if args.inference_config is not None or args.inference_args:
        words = args.inference_args
        found = search_of_decoding(args.experiment, args.checkpoint, args.inference_config, words)
    if args.search not in (None, found.search):  # the beam is that of another search
        found = SearchOptions(stream=found.stream)
    given: dict[str, Any] = {name: getattr(args, name) for name in ("search", "beam_size", "ctc_weight")}
    if args.stream:
        window, context = found.stream or (DECODING_WINDOW, LEFT_CONTEXT)
        given["stream"] = (args.decoding_window or window, args.left_context or context)
    return replace(found, **{name: value for name, value in given.items() if value is not None})


def check_options(args: argparse.Namespace) -> None:
    """Refuse values that no export can have.

    Raises:
        UserError: which, and what is possible.
    """
    if not math.isfinite(args.tolerance) or args.tolerance < 0:
        raise UserError(f"--tolerance {args.tolerance:g}: give points of WER or CER, 0 or more, such as 0.2")
    if not OPSETS[0] <= args.opset <= OPSETS[1]:
        raise UserError(f"--opset {args.opset}: give {OPSETS[0]} to {OPSETS[1]}")
    for name in ("beam_size", "threads"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: give a number from 1 up")
    of_stream = [n for n in (args.decoding_window, args.left_context) if n is not None]
    if of_stream and not args.stream:
        raise UserError("--decoding_window and --left_context are for chunks: give --stream as well")
    if min(of_stream, default=1) < 1:
        raise UserError("--decoding_window and --left_context: give 1 or more")
    if args.ctc_weight is not None and not 0 <= args.ctc_weight < 1:
        raise UserError(f"--ctc_weight {args.ctc_weight:g}: give 0 to below 1, or --search ctc for CTC alone")
    if not args.int8 and args.keep_float != ["auto"]:
        raise UserError("--keep_float names layers that --int8 leaves in float: give --int8 as well")


def print_summary(out: Path, found: Mapping[str, Any], metric: str = "wer") -> None:
    """Print sizes and error rates."""
    results, total = found["check"], sum(part["bytes"] for part in found["parts"].values())
    print(f"{out}: {total / 1e6:.2f} MB in {', '.join(found['parts'])}")
    reference = "torch"
    for name in ("torch", "onnx", "sherpa", "torch_int8", "int8"):
        if name in results:
            one = results[name]
            moved = f", {one['texts_differ']} texts differ from {reference}" if "texts_differ" in one else ""
            reference = name if name == "torch_int8" else "torch"
            print(f"  {name:<10} {metric.upper()} {one[metric]:.2f} % ({one['errors']} errors){moved}")
    if search := results.get("espnet_search"):
        print(f"  ESPnet's own search: {search['texts_differ']} of {search['utterances']} texts differ")
    if found.get("float_layers"):
        print(f"  in float: {' '.join(found['float_layers'])}")
