"""Dynamic int8: weights of one scale per channel, activations quantised as they come, by onnxruntime.

What is quantised: products with a matrix of weights (linear layers and convolutions over one frame). The
other convolutions, recurrent layers and embeddings stay in float: onnxruntime's integer kernels for the first
are slow, and the others are small.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from espnet_kd.export.graph_parts import OnnxPart, needing_packages
from espnet_kd.export.search import Array

OPERATORS = ("MatMul", "Gemm")
FRONT_END = "frontend"  # its features have too large a range for integers
CALLS = 20  # inputs of each part with which the effect of a layer is measured


def prepare(source: Path, target: Path) -> list[str]:
    """Write a graph whose convolutions over one frame are products with a matrix.

    Returns:
        The layers with weights that can be quantised.
    """
    with needing_packages():
        import onnx
    model = onnx.load(source)
    frames_as_products(model)
    onnx.save(model, target)
    return layers(model)


def layers(model: Any) -> list[str]:
    """Return the layers of a graph that can be quantised, in their order."""
    weights = {i.name for i in model.graph.initializer}
    nodes = (n for n in model.graph.node if n.op_type in OPERATORS and n.input[1] in weights)
    names = dict.fromkeys(layer_of_node(n.name) for n in nodes)
    return [name for name in names if not name.startswith(FRONT_END)]


def layer_of_node(name: str) -> str:
    """Return the layer of a node, after which ``graphs.tidy`` named it."""
    return name.rsplit("/", 1)[0]


def frames_as_products(model: Any) -> None:
    """Replace convolutions with a kernel of 1 over time by a product between two transpositions."""
    from onnx import helper, numpy_helper

    weights = {i.name: i for i in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or not is_product(node, weight.dims):
            nodes.append(node)
            continue
        matrix = numpy_helper.to_array(weight)[:, :, 0].T.copy()
        name, parts = node.name, [f"{node.output[0]}.product_{i}" for i in range(3)]
        model.graph.initializer.append(numpy_helper.from_array(matrix, f"{weight.name}.matrix"))
        nodes.append(helper.make_node("Transpose", [node.input[0]], parts[:1], f"{name}_in", perm=[0, 2, 1]))
        nodes.append(helper.make_node("MatMul", [parts[0], f"{weight.name}.matrix"], parts[1:2], name))
        last = parts[1]
        if len(node.input) > 2:
            nodes.append(helper.make_node("Add", [last, node.input[2]], parts[2:], f"{name}_bias"))
            last = parts[2]
        nodes.append(
            helper.make_node("Transpose", [last], list(node.output), f"{name}_out", perm=[0, 2, 1])
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [i for i in model.graph.initializer if i.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def is_product(convolution: Any, shape: Sequence[int]) -> bool:
    """Return whether a convolution over time, with weights of a shape, takes each frame alone."""
    found = {a.name: list(a.ints) or [a.i] for a in convolution.attribute}
    plain = found.get("group", [1]) == [1] == found.get("strides", [1]) and not any(found.get("pads", [0]))
    return list(shape[2:]) == [1] and plain


def quantise(source: Path, target: Path, float_layers: Collection[str] = ()) -> None:
    """Write the int8 form of a prepared graph.

    Args:
        source: what ``prepare`` wrote.
        target: file to write.
        float_layers: layers to leave as they are.
    """
    with needing_packages():
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    model = onnx.load(source)
    nodes = [n.name for n in model.graph.node if n.op_type in OPERATORS]
    excluded = [
        name for name in nodes if layer_of_node(name) in float_layers or name.startswith(FRONT_END)
    ]
    with _quiet():
        quantize_dynamic(
            source, target, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
            nodes_to_exclude=[*excluded, *(f"{name}_MatMul" for name in excluded)],  # of a Gemm
        )  # fmt: skip


def effects(
    sources: Mapping[str, Path], calls: Mapping[str, Sequence[tuple[Array, ...]]]
) -> dict[tuple[str, str], float]:
    """Return what the quantisation of each layer alone changes, the most harmful layer first.

    Args:
        sources: part -> prepared graph.
        calls: part -> inputs, from the check set.

    Returns:
        (part, layer) -> root mean square of the change of the part's first output, relative to the spread of
        that output.
    """
    import onnx

    found: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "one.onnx"
        for part, source in sources.items():
            names, run = layers(onnx.load(source)), OnnxPart(source)
            want = [run(*inputs)[0] for inputs in calls[part]]
            spread = np.sqrt(np.mean([w.var() for w in want]))
            for layer in names:
                quantise(source, file, set(names) - {layer})
                one = OnnxPart(file)
                changes = [
                    np.mean((one(*inputs)[0] - w) ** 2) for inputs, w in zip(calls[part], want, strict=True)
                ]
                found[part, layer] = float(np.sqrt(np.mean(changes)) / spread)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def numbers_to_keep(total: int) -> Iterator[int]:
    """Yield how many layers to leave in float: 0, 1, 2, 4 and so on, at most half of them."""
    yield 0
    number = 1
    while number <= total // 2:
        yield number
        number *= 2


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's advice to preprocess graphs, which torch's exporter has done, from the terminal."""
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(before)
