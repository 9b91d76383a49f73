"""Quantisation of a small graph: what is quantised, how layers are ranked, what stays in float."""

from pathlib import Path

import numpy as np
import pytest

from espnet_kd.export import int8
from espnet_kd.export.graph_parts import OnnxPart

WIDTH = 64


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution over single frames, a layer of a large range of inputs, and one of the front end."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "mel": rng.normal(size=(WIDTH, WIDTH)),
        "conv": rng.normal(size=(WIDTH, WIDTH, 1)) / 8,
        "bias": rng.normal(size=WIDTH),
        "wide": rng.normal(size=(WIDTH, WIDTH)) / 8,
        "plain": rng.normal(size=(WIDTH, WIDTH)) / 8,
    }
    for name in ("conv", "bias"):
        weights[name][0] /= 2000  # too little for a step of an int8 activation
    weights["wide"][0] *= 2000  # and yet it matters
    nodes = [
        helper.make_node("MatMul", ["x", "mel"], ["a"], "frontend.logmel/MatMul"),
        helper.make_node("Transpose", ["a"], ["b"], "graph/Transpose", perm=[0, 2, 1]),
        helper.make_node("Conv", ["b", "conv", "bias"], ["c"], "encoder.conv/Conv", kernel_shape=[1]),
        helper.make_node("Transpose", ["c"], ["d"], "graph/Transpose_2", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["d", "wide"], ["e"], "encoder.wide/MatMul"),
        helper.make_node("MatMul", ["d", "plain"], ["f"], "encoder.plain/MatMul"),
        helper.make_node("Add", ["e", "f"], ["y"], "graph/Add"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, None, WIDTH]) for n in ("x", "y")]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], stored),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("int8") / "part.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def prepared(graph: Path) -> Path:
    path = graph.with_name("prepared.onnx")
    assert int8.prepare(graph, path) == ["encoder.conv", "encoder.wide", "encoder.plain"]
    return path


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, 20, WIDTH)).astype(np.float32)


def test_a_convolution_over_one_frame_becomes_a_product(
    graph: Path, prepared: Path, inputs: np.ndarray
) -> None:
    want, got = OnnxPart(graph)(inputs)[0], OnnxPart(prepared)(inputs)[0]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-2)


def test_weights_are_bytes_but_for_the_layers_in_float(prepared: Path, tmp_path: Path) -> None:
    import onnx

    int8.quantise(prepared, tmp_path / "all.onnx")
    int8.quantise(prepared, tmp_path / "some.onnx", ["encoder.wide"])
    for file, left in (("all.onnx", ["frontend.logmel"]), ("some.onnx", ["frontend.logmel", "encoder.wide"])):
        nodes = onnx.load(tmp_path / file).graph.node
        assert [int8.layer_of_node(n.name) for n in nodes if n.op_type == "MatMul"] == left
        assert sum(n.op_type == "MatMulInteger" for n in nodes) == 4 - len(left)


def test_the_most_sensitive_layer_is_found(prepared: Path, inputs: np.ndarray) -> None:
    found = int8.effects({"encoder": prepared}, {"encoder": [(inputs,)]})
    assert next(iter(found)) == ("encoder", "encoder.wide")
    assert len(found) == 3 and all(effect > 0 for effect in found.values())


def test_at_most_half_of_the_layers_stay_in_float() -> None:
    assert list(int8.numbers_to_keep(10)) == [0, 1, 2, 4]
    assert list(int8.numbers_to_keep(1)) == [0]
