"""Write the files of an exported model, and refuse those that do not do what the model in torch does."""

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from espnet_kd.criteria.criterion import near_misses
from espnet_kd.errors import UserError
from espnet_kd.export import check, directory, int8, sherpa, sherpa_chunks
from espnet_kd.export.experiment import Source, espnet_search
from espnet_kd.export.graph_parts import (
    Compared,
    ComparedEncoder,
    OnnxPart,
    least_samples,
    onnx_parts,
    torch_parts,
)
from espnet_kd.export.graphs import GraphPlan, plan_for_sherpa, plan_parts, write_graph
from espnet_kd.export.quantised import int8_layers, quantise, quantise_options
from espnet_kd.export.search import Array, Part, Settings
from espnet_kd.export.sherpa_chunks import ComparedChunks, as_ours
from espnet_kd.export.sherpa_stream import STREAM_PARTS, online_recognizer
from espnet_kd.export.sherpa_transducer import largest_step_difference, plan_transducer
from espnet_kd.export.stream import ChunkEncoder
from espnet_kd.files import fingerprint
from espnet_kd.host.streaming import StreamingEncoder

LARGEST_DIFFERENCE = 0.01  # of a value in torch and in float graphs; above it a graph is not the model
PREPROCESS = "preprocess"  # the encoder for sherpa-onnx; the steps of its search stay in float
PACKAGES = ("espnet_kd", "espnet", "torch", "onnx", "onnxscript", "onnxruntime", "sherpa_onnx")
Texts = Callable[[Mapping[str, Path]], dict[str, str]]  # of the check set, by the files of the parts


def write_checked(
    args: argparse.Namespace, source: Source, data: check.CheckSet, into: Path
) -> dict[str, Any]:
    """Write the files of an export into a directory, and return its description.

    Args:
        args: of the command.
        source: the experiment.
        data: the check set.
        into: a directory that gets its name later.

    Raises:
        UserError: a part cannot be exported, or what it computes or transcribes is not what torch does.
    """
    model, tokens = source.experiment.model, source.experiment.tokens
    plans = plan_parts(model, source.settings.search, source.rate, source.settings.chunks)
    for_sherpa = args.format == "sherpa"
    written = plans_for_sherpa(plans, model, source.settings) if for_sherpa else plans
    files, settings = write_graphs(written, source, into, args.opset)
    names = names_for_sherpa(tokens, source) if for_sherpa else dict(enumerate(tokens))
    directory.write_tokens(into, names)
    in_torch = torch_parts(plans, model)
    if settings.chunks is None:
        settings = with_least(settings, in_torch, files)
    compared = compared_parts(in_torch, files, settings, len(tokens))
    listed = into / directory.TOKENS
    stock = None if settings.chunks is None else stock_encoder(source, compared, files, listed)

    def decoded(parts: Mapping[str, Part]) -> dict[str, str]:
        return data.decode(directory.transcriber(parts, settings, tokens, source.token_type))

    def texts(files: Mapping[str, Path]) -> dict[str, str]:
        if for_sherpa:
            return data.decode(directory.sherpa_recogniser(files, listed, settings, args.threads)[0])
        return decoded(onnx_parts(files, args.threads))

    print(f"{data.path}: decoding {len(data.speech)} utterances in torch and by the graphs", flush=True)
    reference = data.decode(directory.transcriber(compared, settings, tokens, source.token_type, stock))
    parity = differences(compared, stock)
    if "cached_decode" in written:
        parity["cached_decode"] = largest_step_difference(written, files, data.read(next(iter(data.speech))))
    refuse_difference(parity)
    before = data.errors(reference)
    results = {"torch": {data.metric: round(before.rate, 3), "errors": before.errors}}
    results |= compare_searches(source, settings, in_torch, data, args.tolerance)
    results[args.format] = check.comparison(data, reference, texts(files))
    check.refuse_shift(results[args.format], args.tolerance, "float graphs")
    extra: dict[str, Any] = {"bytes_in_float": sum(path.stat().st_size for path in files.values())}
    if args.int8:
        trained = trained_in_float(args.keep_float, source, files)
        if trained is not None:
            quantise(model, trained).on = True  # what it was trained to compute, and int8 graphs are to
            found = decoded(torch_parts(plans, model))
            results["torch_int8"], reference = check.comparison(data, reference, found), found
        effects = Effects(args.keep_float, files, calls_of(compared, files, stock), trained)
        results["int8"], kept = quantised(args.tolerance, effects, files, data, reference, texts)
        extra |= kept
    description = describe(args, source, data, results) | {
        "parts": {name: {"file": path.name, "bytes": path.stat().st_size} for name, path in files.items()},
        "largest_difference": {name: round(value, 9) for name, value in parity.items()},
        **extra,
    }
    directory.write_description(into, description, settings)
    return description


def compare_searches(
    source: Source, settings: Settings, torch: Mapping[str, Part], data: check.CheckSet, tolerance: float
) -> dict[str, Any]:
    """Compare our search with ESPnet's own, since torch and graphs share ours.

    Nothing is compared for greedy searches, which ESPnet does not have: its beam of 1 is not greedy.

    Raises:
        UserError: see ``check.compare_searches``.
    """
    if settings.greedy:
        return {}
    tokens = source.experiment.tokens
    settings = replace(settings, beam_size=min(settings.beam_size, len(tokens)))  # ESPnet refuses more
    ours = directory.transcriber(torch, settings, tokens, source.token_type)
    found = check.compare_searches(data, ours, espnet_search(source, settings), tolerance)
    return {"espnet_search": found}


def write_graphs(
    plans: Mapping[str, GraphPlan], source: Source, into: Path, opset: int
) -> tuple[dict[str, Path], Settings]:
    """Write the graphs of an export; return their files, and the settings with what is known now."""
    files, settings = {name: into / f"{name}.onnx" for name in plans}, source.settings
    print(f"writing {', '.join(files)}", flush=True)
    shortest = {name: write_graph(name, plan, files[name], opset) for name, plan in plans.items()}
    if settings.chunks is None:
        settings = replace(settings, least=next(iter(shortest.values())) or 1)
    elif is_sherpa_stream(files):
        sherpa_chunks.complete_encoder(files["encoder"], source.experiment.model, settings)
    return files, settings


def with_least(settings: Settings, torch: Mapping[str, Part], files: Mapping[str, Path]) -> Settings:
    """Return the settings with the least number of samples that torch and the graph take."""
    encoder = compared_parts(torch, files, settings, 0)["encoder"]
    assert isinstance(encoder, Compared)
    least = least_samples(torch["encoder"], encoder, settings.least, LARGEST_DIFFERENCE)
    return replace(settings, least=least)


def trained_in_float(
    keep_float: list[str], source: Source, files: Mapping[str, Path]
) -> tuple[str, ...] | None:
    """Return what a training for int8, or this format, leaves in float; None if it is not to count.

    Args:
        keep_float: the option.
        source: the experiment.
        files: the graphs.
    """
    if keep_float != ["auto"] or not source.config.get("quantise"):
        return None
    trained = quantise_options(source.config["quantise"]).keep_float
    if PREPROCESS not in files and not is_sherpa_stream(files):
        return trained
    layers = dict(int8_layers(source.experiment.model))
    return (*trained, *(name for name in layers if not name.startswith("encoder.")))


def plans_for_sherpa(plans: Mapping[str, GraphPlan], model: Any, settings: Settings) -> dict[str, GraphPlan]:
    """Return the graphs that sherpa-onnx asks for."""
    if settings.chunks is not None:
        return sherpa_chunks.plan_stream(model, settings)
    if settings.search == "transducer":
        return plan_transducer(model, plans["encoder"], settings)
    return {"model": plan_for_sherpa(plans["encoder"])}


def names_for_sherpa(tokens: list[str], source: Source) -> dict[int, str]:
    """Return the numbers and tokens that tokens.txt has for sherpa-onnx."""
    if source.settings.chunks is not None:
        return sherpa_chunks.listed(tokens, source.token_type, source.settings.blank)
    return sherpa.listed(tokens, source.token_type, source.settings)


def stock_encoder(
    source: Source, compared: Mapping[str, Part], files: Mapping[str, Path], listed: Path
) -> ComparedEncoder | ComparedChunks:
    """Return ESPnet's streaming encoder, which is compared with the parts or the files, chunk by chunk."""
    chunks, model = source.settings.chunks, source.experiment.model
    assert chunks is not None
    stock = StreamingEncoder(model, source.config, source.window_ms, chunks.left_context)
    if is_sherpa_stream(files):
        return ComparedChunks(stock, files["encoder"], online_recognizer(files, listed), chunks)
    return ComparedEncoder(stock, ChunkEncoder(compared, chunks))


def is_sherpa_stream(files: Mapping[str, Path]) -> bool:
    """Return whether graphs are those of a streaming transducer for sherpa-onnx."""
    return files.keys() == set(STREAM_PARTS)


def calls_of(
    compared: Mapping[str, Part], files: Mapping[str, Path], stock: ComparedEncoder | ComparedChunks | None
) -> dict[str, list[tuple[Array, ...]]]:
    """Return inputs of the graphs whose layers can be quantised, from the check set."""
    if isinstance(stock, ComparedChunks):
        return {"encoder": stock.calls[: int8.CALLS]}
    calls = {name: part.calls[: int8.CALLS] for name, part in compared.items() if isinstance(part, Compared)}
    if "model" in files:
        return {"model": [(sherpa.at_unit_variance(speech),) for (speech,) in calls["encoder"]]}
    if PREPROCESS in files:
        return {PREPROCESS: calls["encoder"]}
    return calls


def compared_parts(
    torch: Mapping[str, Part], files: Mapping[str, Path], settings: Settings, vocabulary: int
) -> dict[str, Part]:
    """Return parts in torch, each of which compares itself with its graph whenever it is called."""
    if is_sherpa_stream(files):
        graphs = onnx_parts({name: files[name] for name in ("decoder", "joiner")})
        ours = as_ours(graphs["decoder"], graphs["joiner"], settings, vocabulary)
        return {**torch, **{name: Compared(torch[name], part) for name, part in ours.items()}}
    if PREPROCESS in files:
        return {**torch, "encoder": Compared(torch["encoder"], OnnxPart(files[PREPROCESS]), outputs=1)}
    if "model" not in files:
        return {name: Compared(torch[name], OnnxPart(files[name])) for name in files}
    graph = OnnxPart(files["model"])

    def as_sherpa(speech: Array) -> list[Array]:
        return graph(sherpa.at_unit_variance(speech))

    # sherpa-onnx takes the mean of the waveform away, and nothing can bring it back
    return {"encoder": Compared(torch["encoder"], as_sherpa, lambda speech: speech - speech.mean())}


def differences(
    compared: Mapping[str, Part], stock: ComparedEncoder | ComparedChunks | None
) -> dict[str, float]:
    """Return the largest difference of a value of each part, and of a streaming encoder in all chunks.

    Raises:
        UserError: no utterance reached a part.
    """
    parts: dict[str, Any] = {name: part for name, part in compared.items() if isinstance(part, Compared)}
    parts |= {} if stock is None else {"chunks": stock}
    for name, part in parts.items():
        if not part.calls:
            raise UserError(f"part {name}: no utterance of --check is long enough for it: give longer speech")
    return {name: part.difference for name, part in parts.items()}


def refuse_difference(parity: Mapping[str, float]) -> None:
    """Refuse graphs that do not compute what the model does.

    Raises:
        UserError: a part differs.
    """
    name = max(parity, key=parity.__getitem__)
    if not parity[name] <= LARGEST_DIFFERENCE:
        raise UserError(
            f"part {name}: its graph differs from torch by {parity[name]:.3g} on the check set, more than "
            f"{LARGEST_DIFFERENCE:g}: it does not compute what the model does; nothing is written"
        )


class Effects:
    """Which layers to leave in float, the most sensitive first.

    Args:
        keep_float: the option: names of layers, ``none``, or ``auto`` to measure.
        files: part -> float graph; a prepared copy is written beside each.
        calls: part -> inputs from the check set; parts that are not in it stay in float.
        trained: what a training for int8 left in float, in these graphs and in others; it then counts.

    Raises:
        UserError: there is no layer of a name.
    """

    def __init__(
        self,
        keep_float: list[str],
        files: Mapping[str, Path],
        calls: Mapping[str, list[tuple[Array, ...]]],
        trained: Collection[str] | None = None,
    ) -> None:
        self.prepared = {name: files[name].with_name(f".{files[name].name}") for name in calls}
        known = {name: int8.prepare(files[name], self.prepared[name]) for name in calls}
        self.layers = [layer for layers in known.values() for layer in layers]
        self.measured: dict[str, float] = {}
        if trained is not None:
            self.choices = [[layer for layer in self.layers if layer in trained]]
            return
        if keep_float == ["auto"]:
            print(f"measuring the effect of int8 on each of {len(self.layers)} layers", flush=True)
            found = int8.effects(self.prepared, calls)
            self.measured = {layer: round(effect, 5) for (_, layer), effect in found.items()}
            order = list(self.measured)
            self.choices = [order[:number] for number in int8.numbers_to_keep(len(order))]
            return
        named = [] if keep_float == ["none"] else keep_float
        for layer in named:
            if layer not in self.layers:
                raise UserError(f"--keep_float {layer}: {near_misses(layer, self.layers)}")
        self.choices = [named]


def quantised(
    tolerance: float,
    effects: Effects,
    files: Mapping[str, Path],
    data: check.CheckSet,
    reference: Mapping[str, str],
    texts: Texts,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Replace float graphs by int8 graphs, with as few layers in float as the tolerance allows.

    Returns:
        The comparison with torch, and what export.json says of layers.

    Raises:
        UserError: the error rate moves too much with each choice of layers.
    """
    tried = []
    for kept in effects.choices:
        for name in effects.prepared:
            int8.quantise(effects.prepared[name], files[name], kept)
        result = check.comparison(data, reference, texts(files))
        tried.append({"float_layers": len(kept), data.metric: result[data.metric]})
        rate = f"{data.metric.upper()} {result[data.metric]:.2f} %"
        print(f"int8 with {len(kept)} layers in float: {rate}", flush=True)
        if abs(result[f"{data.metric}_moves_by"]) <= tolerance:
            break
    check.refuse_shift(result, tolerance, f"int8 with {len(kept)} of {len(effects.layers)} layers in float")
    for path in effects.prepared.values():
        path.unlink()
    layers = {"int8_layers": len(effects.layers) - len(kept), "float_layers": kept, "tried": tried}
    return result, {**layers, "effects": effects.measured}


def describe(
    args: argparse.Namespace, source: Source, data: check.CheckSet, results: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what export.json says of the model and the check."""
    experiment, config = source.experiment, source.config
    return {
        "format": args.format,
        "rate": source.rate,
        "token_type": source.token_type,
        "opset": args.opset,
        "front_end": {
            "type": config.get("frontend"),
            **(config.get("frontend_conf") or {}),
            "normalize": config.get("normalize"),
        },
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


def version(name: str) -> str | None:
    """Return the version of an installed package, None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
