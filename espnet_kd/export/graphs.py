"""Write modules of torch as ONNX graphs, by torch's own exporter.

The graphs keep no record of the code and the machine that they were made on; their nodes are named after the
layers of the model.
"""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError, first_line
from espnet_kd.export import sherpa
from espnet_kd.export.search import Chunks
from espnet_kd.export.spectrum import replace_stft
from espnet_kd.host.export import (
    Acoustics,
    AttentionStep,
    EncoderChunk,
    FrontEnd,
    Joiner,
    Predictor,
    cache_shape,
    state_shapes,
)

SECONDS = 1.3  # of the noise that a graph is traced with
ROUNDED = 1e-9  # the least that rounding leaves of 1 minus the variance of a waveform for sherpa-onnx
NAMED_INPUTS: dict[type, int] = {Predictor: 1, EncoderChunk: 2}  # of modules that take states after them
LAYER = re.compile(r"\bmodel\.([\w.]+)|\b((?:decoder|joint_network)\.[\w.]+)")


class FromUnitVariance(nn.Module):
    """Waveform as sherpa-onnx gives it, (1, N), to logarithms of probabilities, (1, T, V)."""

    def __init__(self, acoustics: Acoustics) -> None:
        super().__init__()
        self.acoustics = acoustics

    def forward(self, speech: Tensor) -> Tensor:
        """Restore the level, and compute the output."""
        given = speech.double().square().mean()
        variance = sherpa.ADDED * given / (1 - given).clamp(min=ROUNDED)
        scores: Tensor = self.acoustics(speech * (variance + sherpa.ADDED).sqrt().float())[-1]
        return scores


class GraphPlan(NamedTuple):
    """A graph to write, of a part of a model.

    Attributes:
        module: of tensors only.
        inputs: name -> an example.
        outputs: their names.
        dynamic: input -> its axes whose size varies.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    dynamic: Mapping[str, Sequence[int]]


def plan_parts(model: Any, search: str, rate: int, chunks: Chunks | None = None) -> dict[str, GraphPlan]:
    """Return the parts that a search needs.

    Args:
        model: ESPnet model in eval mode.
        search: ``ctc``, ``attention`` or ``transducer``.
        rate: samples per second.
        chunks: of a streaming encoder; None for one that takes whole utterances.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    if chunks is None:
        acoustics = Acoustics(model).eval()
        speech = noise(1, int(SECONDS * rate))
        with torch.no_grad():
            encoded, *ctc = acoustics(speech)
        names = ["encoded", "ctc"][: 1 + len(ctc)]
        parts = {"encoder": GraphPlan(acoustics, {"speech": speech}, names, {"speech": [1]})}
    else:
        parts, encoded = plan_chunks(model, noise(1, chunks.samples + chunks.overlap), chunks)
    if search == "attention":
        layers, size = cache_shape(model)
        tokens = torch.randint(1, 3, (3, 4), generator=generator)
        inputs = {"tokens": tokens, "encoded": encoded, "cache": noise(layers, 3, 3, size)}
        dynamic = {"tokens": [0, 1], "encoded": [1], "cache": [1, 2]}
        parts["decoder"] = GraphPlan(AttentionStep(model).eval(), inputs, ["scores", "cache_after"], dynamic)
    if search == "transducer":
        predictor = Predictor(model).eval()
        token, states = torch.ones(1, 1, dtype=torch.long), [noise(*shape) for shape in state_shapes(model)]
        with torch.no_grad():
            predicted = predictor(token, *states)[0]
        named = {"token": token} | {f"state_{i}": state for i, state in enumerate(states)}
        outputs = ["predicted", *(f"state_{i}_after" for i in range(len(states)))]
        parts["predictor"] = GraphPlan(predictor, named, outputs, {})
        both = {"encoded": encoded[:, 0], "predicted": predicted}
        parts["joiner"] = GraphPlan(Joiner(model).eval(), both, ["scores"], {})
    return parts


def plan_chunks(model: Any, speech: Tensor, chunks: Chunks) -> tuple[dict[str, GraphPlan], Tensor]:
    """Return the parts of a streaming encoder, and what it gives for an example.

    Args:
        model: ESPnet model in eval mode.
        speech: (1, N) example of what a chunk and the samples kept before it are.
        chunks: see there.
    """
    front_end, encoder = FrontEnd(model).eval(), EncoderChunk(model, chunks.left_context).eval()
    states = [torch.zeros(shape) for shape in chunks.states]
    before = torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        features = front_end(speech)
        encoded, *others = encoder(features, before, *states)
    outputs = ["encoded", "ctc"][: 1 + len(others) - len(states)]
    outputs += [f"state_{i}_after" for i in range(len(states))]
    inputs = {"features": features, "before": before} | {f"state_{i}": s for i, s in enumerate(states)}
    plans = {
        "front_end": GraphPlan(front_end, {"speech": speech}, ["features"], {"speech": [1]}),
        "encoder": GraphPlan(encoder, inputs, outputs, {"features": [1]}),
    }
    return plans, encoded


def plan_for_sherpa(acoustics: GraphPlan) -> GraphPlan:
    """Return the graph of a model for sherpa-onnx, of that of an encoder with a CTC layer."""
    speech = torch.from_numpy(sherpa.at_unit_variance(acoustics.inputs["speech"].numpy()))
    module = FromUnitVariance(acoustics.module)  # type: ignore[arg-type]
    return GraphPlan(module.eval(), {"speech": speech}, ["logits"], acoustics.dynamic)


def write_graph(name: str, plan: GraphPlan, path: Path, opset: int) -> int | None:
    """Write a part as an ONNX file.

    Args:
        name: of the part, for the message.
        plan: what to write.
        path: file.
        opset: version of ONNX's operators.

    Returns:
        The least size of the first varying axis that the graph takes, None if it has none.

    Raises:
        UserError: torch cannot express the part as a graph.
    """
    import onnx

    order = tuple(plan.inputs.values())
    shapes: tuple[Any, ...] = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis in plan.dynamic.get(key, ())} or None for key in plan.inputs
    )
    if (named := NAMED_INPUTS.get(type(plan.module))) is not None and len(shapes) > named:
        shapes = (*shapes[:named], shapes[named:])  # its states are variadic
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(plan.module, order, dynamic_shapes=shapes, strict=False)
            written = torch.onnx.export(
                program, dynamo=True, opset_version=opset, input_names=list(plan.inputs),
                output_names=plan.outputs, external_data=False, optimize=True, verbose=False,
            )  # fmt: skip
    except UserError:
        raise
    except Exception as e:  # whatever the model's own code raises under a tracer
        raise UserError(
            f"part {name} cannot be exported: torch.onnx: {type(e).__name__}: {first_line(e)}: "
            "see `espnet-kd --debug export`, or choose another --search"
        ) from e
    assert written is not None
    graph = written.model_proto
    tidy(graph)
    replace_stft(graph)
    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as e:
        raise UserError(f"part {name} cannot be exported: not valid ONNX: {first_line(e)}") from e
    path.write_bytes(graph.SerializeToString())
    ranges = [int(r.lower) for r in program.range_constraints.values() if r.lower.is_Integer and r.lower > 2]
    return max(ranges, default=None)


def tidy(graph: Any) -> None:
    """Name the nodes of an ONNX model after layers, and remove the traces of Python code from it."""
    taken: set[str] = set()
    for node in graph.graph.node:
        places = {p.key: p.value for p in node.metadata_props}
        del node.metadata_props[:]
        node.doc_string = ""
        layer = layer_of(places.get("namespace", "")) or "graph"
        name, number = f"{layer}/{node.op_type}", 1
        while name in taken:
            number += 1
            name = f"{layer}/{node.op_type}_{number}"
        taken.add(name)
        node.name = name
    for group in (graph.graph.initializer, graph.graph.value_info, graph.graph.input, graph.graph.output):
        for item in group:
            del item.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.functions[:]
    graph.doc_string = graph.graph.doc_string = ""
    graph.producer_name, graph.producer_version = "espnet_kd", ""


def layer_of(namespace: str) -> str:
    """Return the module path of the innermost layer in what torch notes of a node's origin."""
    found = LAYER.findall(namespace)
    return (found[-1][0] or found[-1][1]) if found else ""


@contextmanager
def quiet() -> Any:
    """Keep notes of torch's exporter on its own work from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
