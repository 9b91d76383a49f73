"""``espnet-kd export``: write a trained experiment as ONNX graphs that transcribe as it does.

The graphs take waveforms: ESPnet's front end and normalisation are in them. The check set is decoded by the
experiment in torch and by the exported files; the directory gets its name only if both agree.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_kd.command_line import command_parser
from espnet_kd.criteria.criterion import near_misses
from espnet_kd.errors import UserError
from espnet_kd.export import check, directory, int8
from espnet_kd.export.parts import Compared, needing_packages, onnx_parts, torch_parts
from espnet_kd.export.search import Array, Part, transcribe
from espnet_kd.files import atomic_dir, fingerprint

if TYPE_CHECKING:
    from espnet_kd.export.experiment import Source

LARGEST_DIFFERENCE = 0.01  # of a value in torch and in float graphs; above it a graph is not the model
SEARCHES = ("ctc", "attention", "transducer")
PACKAGES = ("espnet_kd", "espnet", "torch", "onnx", "onnxscript", "onnxruntime", "sherpa_onnx")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("export")
    p.add_argument("experiment", type=Path, help="directory of a trained experiment")
    p.add_argument("--checkpoint", help="file in it (default: its averaged model)")
    p.add_argument("--format", choices=directory.FORMATS, default="onnx", help="default: %(default)s")
    p.add_argument("--out", type=Path, help="directory to write (default: EXPERIMENT/FORMAT[_int8])")
    p.add_argument("--check", type=Path, required=True, help="formatted set with transcripts")
    p.add_argument(
        "--tolerance", type=float, default=0.2,
        help="most that the WER of the check set may move, in points (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--search", choices=SEARCHES, help="default: attention or transducer, else ctc")
    p.add_argument("--beam_size", type=int, default=5, help="of attention decoders (default: %(default)s)")
    p.add_argument(
        "--ctc_weight", type=float, default=0.5,
        help="of CTC beside an attention decoder (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--int8", action="store_true", help="quantise the weights of linear layers")
    p.add_argument(
        "--keep_float", nargs="+", default=["auto"],
        help="with --int8: layers that stay in float; auto: the most sensitive, as few as the tolerance "
        "needs; none (default: auto)",
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

    from espnet_kd.export.experiment import open_source

    source = open_source(args.experiment, args.checkpoint, args.search, args.beam_size, args.ctc_weight)
    data = check.read_check_set(args.check, source.rate)
    out = args.out or args.experiment / (args.format + ("_int8" if args.int8 else ""))
    if out.exists() and not (out / directory.DESCRIPTION).is_file() and any(out.iterdir()):
        raise UserError(f"{out} is not an exported model and is not overwritten: give another --out")
    with atomic_dir(out) as temporary:
        found = write_checked(args, source, data, temporary)
    print_summary(out, found)


def check_options(args: argparse.Namespace) -> None:
    """Refuse values that no export can have.

    Raises:
        UserError: which, and what is possible.
    """
    from espnet_kd.export.graphs import OPSETS

    if not math.isfinite(args.tolerance) or args.tolerance < 0:
        raise UserError(f"--tolerance {args.tolerance:g}: give points of WER, 0 or more, such as 0.2")
    if not OPSETS[0] <= args.opset <= OPSETS[1]:
        raise UserError(f"--opset {args.opset}: give {OPSETS[0]} to {OPSETS[1]}")
    if args.beam_size < 1 or args.threads < 1:
        raise UserError("--beam_size and --threads: give 1 or more")
    if not 0 <= args.ctc_weight < 1:
        raise UserError(f"--ctc_weight {args.ctc_weight:g}: give 0 to below 1, or --search ctc for CTC alone")
    if not args.int8 and args.keep_float != ["auto"]:
        raise UserError("--keep_float names layers that --int8 leaves in float: give --int8 as well")


def write_checked(
    args: argparse.Namespace, source: "Source", data: check.CheckSet, into: Path
) -> dict[str, Any]:
    """Write the files of an export into a directory, and return its description.

    Raises:
        UserError: a part cannot be exported, or what it computes or transcribes is not what torch does.
    """
    from espnet_kd.export.graphs import plan_parts, write_graph

    plans = plan_parts(source.experiment.model, source.settings.search, source.rate)
    files, least = {name: into / f"{name}.onnx" for name in plans}, 1
    for name, plan in plans.items():
        print(f"{name}: writing", flush=True)
        shortest = write_graph(name, plan, files[name], args.opset)
        least = shortest or 1 if name == "encoder" else least
    settings = replace(source.settings, least=least)
    parts, tokens = onnx_parts(files, args.threads), source.experiment.tokens
    torch = torch_parts(plans, source.experiment.model)
    compared = {name: Compared(torch[name], parts[name]) for name in plans}

    def texts(parts: Mapping[str, Part]) -> dict[str, str]:
        def one(speech: Array) -> str:
            found = transcribe(parts, settings, speech)
            return directory.text_of(found, tokens, source.token_type)

        return data.decode(one)

    print(f"{data.path}: decoding {len(data.speech)} utterances in torch and in onnxruntime", flush=True)
    reference = texts(compared)
    parity = {name: part.difference for name, part in compared.items()}
    refuse_difference(parity)
    before = data.errors(reference)
    results = {"torch": {"wer": round(before.rate, 3), "errors": before.errors}}
    results["onnx"] = check.comparison(data, reference, texts(parts))
    check.refuse_shift(results["onnx"], args.tolerance, "float graphs in onnxruntime")
    kept: dict[str, Any] = {}
    if args.int8:
        results["int8"], kept = quantised(args, files, compared, data, reference, texts)
    directory.write_tokens(into, tokens)
    found = describe(args, source, data, results) | {
        "parts": {name: {"file": path.name, "bytes": path.stat().st_size} for name, path in files.items()},
        "largest_difference": parity,
        **kept,
    }
    directory.write_description(into, found, settings)
    return found


def refuse_difference(parity: Mapping[str, float]) -> None:
    """Refuse graphs that do not compute what the model does.

    Raises:
        UserError: a part differs.
    """
    name = max(parity, key=parity.__getitem__)
    if not parity[name] <= LARGEST_DIFFERENCE:
        raise UserError(
            f"part {name} in onnxruntime differs from torch by {parity[name]:.3g} on the check set, more than "
            f"{LARGEST_DIFFERENCE:g}: the graph does not compute what the model does; nothing is written"
        )


def quantised(
    args: argparse.Namespace,
    files: Mapping[str, Path],
    compared: Mapping[str, Compared],
    data: check.CheckSet,
    reference: Mapping[str, str],
    texts: Callable[[Mapping[str, Part]], dict[str, str]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Replace float graphs by int8 graphs.

    Returns:
        The comparison with torch, and what export.json says of layers.

    Raises:
        UserError: ``--keep_float`` names a layer that there is not, or the WER moves too much.
    """
    prepared = {name: path.with_name(f".{path.name}") for name, path in files.items()}
    known = {name: int8.prepare(files[name], prepared[name]) for name in files}
    every = [layer for layers in known.values() for layer in layers]
    named = [layer for layer in args.keep_float if layer not in ("auto", "none")]
    for layer in named:
        if layer not in every:
            raise UserError(f"--keep_float {layer}: {near_misses(layer, every)}")
    sizes, order, effects = [0], named, {}
    if args.keep_float == ["auto"]:
        print(f"measuring the effect of int8 on each of {len(every)} layers", flush=True)
        calls = {name: part.calls[: int8.CALLS] for name, part in compared.items()}
        effects = int8.effects(prepared, calls)
        sizes, order = list(int8.numbers_to_keep(len(every))), [layer for _, layer in effects]
    for size in sizes:
        kept = named or order[:size]
        for name in files:
            int8.quantise(prepared[name], files[name], kept)
        result = check.comparison(data, reference, texts(onnx_parts(files, args.threads)))
        print(f"int8 with {len(kept)} layers in float: WER {result['wer']:.2f} %", flush=True)
        if abs(result["wer_moves_by"]) <= args.tolerance:
            break
    check.refuse_shift(result, args.tolerance, f"int8 with {len(kept)} of {len(every)} layers in float")
    for path in prepared.values():
        path.unlink()
    measured = {layer: round(effect, 5) for (_, layer), effect in effects.items()}
    return result, {"int8_layers": len(every) - len(kept), "float_layers": kept, "effects": measured}


def describe(
    args: argparse.Namespace, source: "Source", data: check.CheckSet, results: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what export.json says of the model and the check."""
    experiment = source.experiment
    return {
        "format": args.format,
        "rate": source.rate,
        "token_type": source.token_type,
        "opset": args.opset,
        "front_end": front_end(source.config),
        "source": {
            "experiment": args.experiment.name,
            "checkpoint": experiment.checkpoint.name,
            "config_sha256": fingerprint(experiment.directory / "config.yaml"),
            "checkpoint_sha256": fingerprint(experiment.checkpoint),
            "parameters": sum(p.numel() for p in experiment.model.parameters()),
        },
        "check": {
            "set": data.path.name,
            "utterances": len(data.speech),
            "tolerance": args.tolerance,
            **results,
        },
        "versions": {name: version(name) for name in PACKAGES},
    }


def front_end(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the front end and the normalisation that the encoder's graph computes."""
    return {
        "type": config.get("frontend"),
        **(config.get("frontend_conf") or {}),
        "normalize": config.get("normalize"),
        "in_graph": True,
    }


def version(name: str) -> str | None:
    """Return the version of an installed package, None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def print_summary(out: Path, found: Mapping[str, Any]) -> None:
    """Print sizes and error rates."""
    results, total = found["check"], sum(part["bytes"] for part in found["parts"].values())
    print(f"{out}: {total / 1e6:.2f} MB in {', '.join(found['parts'])}")
    for name in ("torch", "onnx", "int8", "sherpa"):
        if name in results:
            one = results[name]
            moved = f", {one['texts_differ']} texts differ from torch" if "texts_differ" in one else ""
            print(f"  {name:<7} WER {one['wer']:.2f} % ({one['errors']} errors){moved}")
    if found.get("float_layers"):
        print(f"  in float: {' '.join(found['float_layers'])}")
