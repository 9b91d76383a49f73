"""Exported models as recognisers: what they are made of, and options that do not apply."""

import json
from pathlib import Path

import numpy as np
import pytest

from espnet_kd.errors import UserError
from espnet_kd.export import directory
from espnet_kd.export.search import Settings
from espnet_kd.measure.recogniser import DecodingOptions, load_recogniser


@pytest.fixture()
def exported(tmp_path: Path) -> Path:
    """A CTC model of two frames, which knows one text."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    frames = np.eye(3, dtype=np.float32)[[1, 2]][None]
    nodes = [
        helper.make_node("ReduceSum", ["speech"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["frames", "nothing"], ["ctc"]),
        helper.make_node("Identity", ["ctc"], ["encoded"]),
    ]
    constants = {"frames": frames, "zero": np.zeros(1, np.float32)}
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("speech", TensorProto.FLOAT, [1, None])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 3]) for n in ("encoded", "ctc")], stored,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "encoder.onnx")
    directory.write_tokens(tmp_path, dict(enumerate(["<blank>", "A", "B"])))
    description = {
        "format": "onnx", "rate": 8000, "token_type": "char", "source": {"parameters": 6},
        "parts": {"encoder": {"file": "encoder.onnx"}},
    }  # fmt: skip
    directory.write_description(tmp_path, description, Settings("ctc", least=100))
    return tmp_path


def test_an_exported_model_is_a_recogniser(exported: Path) -> None:
    model = load_recogniser(exported, DecodingOptions(stream=True))
    assert model.decode(np.zeros(800, np.float32)) == "AB" and model.decode(np.zeros(99, np.float32)) == ""
    assert (model.rate, model.chunk, model.parameters) == (8000, 0, 6)
    assert model.whole == "was exported for whole utterances" and model.runtime == ("onnxruntime",)
    assert {path.name for path in model.files} == {path.name for path in exported.iterdir()}


def test_options_of_experiments_are_refused(exported: Path) -> None:
    with pytest.raises(UserError, match="no option of checkpoints or of ESPnet's inference applies"):
        load_recogniser(exported, DecodingOptions(checkpoint="valid.acc.ave.pth"))


def test_a_token_list_that_is_cut_is_named(exported: Path) -> None:
    cut = exported / "tokens.txt"
    cut.write_text(cut.read_text()[:-1])
    with pytest.raises(UserError, match=f"{cut} is cut, or not the one that was exported: export again"):
        load_recogniser(exported, DecodingOptions())
    cut.write_text("<blank> 0\nA 1\n")
    description = json.loads((exported / "export.json").read_text())
    (exported / "export.json").write_text(json.dumps({**description, "tokens.txt": None}))  # an older one
    with pytest.raises(UserError, match="tokens.txt is cut: 2 tokens, none of the number 2: export again"):
        load_recogniser(exported, DecodingOptions()).decode(np.zeros(800, np.float32))
