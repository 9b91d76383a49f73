"""Layers that train for int8 compute what onnxruntime computes of the quantised layer."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.export import int8
from espnet_kd.export.graph_parts import OnnxPart
from espnet_kd.export.quantised import (
    LATTICE_LAYER,
    Quantise,
    Switch,
    int8_activations,
    int8_layers,
    int8_weights,
    quantise,
    quantise_options,
)
from espnet_kd.methods.quantise import QuantiseMethod


class Model(nn.Module):
    """Layers with the names of an ESPnet model."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = nn.Linear(3, 3)
        self.encoder = nn.Module()
        self.encoder.w = nn.Linear(24, 40)
        self.encoder.point = nn.Conv1d(40, 40, 1)
        self.encoder.wide = nn.Conv1d(40, 40, 3)
        attention = {"linear_q": nn.Linear(8, 8), "linear_k": nn.Linear(8, 8)}
        self.decoder = nn.ModuleDict({"self_attn": nn.ModuleDict(attention), "ffn": nn.Linear(8, 8)})
        self.joint_network = nn.ModuleDict({"lin_enc": nn.Linear(8, 8), "lin_out": nn.Linear(8, 8)})
        self.encoder.forward = lambda features, lengths: features


def onnxruntime(layer: nn.Linear | nn.Conv1d, values: Tensor, folder: Path) -> Tensor:
    """What the exported int8 form of a layer computes: (1, T, D) -> (1, T, O)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    named = {"w": layer.weight.detach(), "b": layer.bias.detach()}
    if isinstance(layer, nn.Linear):
        named["w"] = named["w"].T
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["m"], "layer/MatMul"),
            helper.make_node("Add", ["m", "b"], ["y"], "layer/Add"),
        ]
    else:
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], "layer/Conv", kernel_shape=[1])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, None, None]) for n in "xy"]
    stored = [numpy_helper.from_array(np.ascontiguousarray(t.numpy()), name) for name, t in named.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "float.onnx")
    assert int8.prepare(folder / "float.onnx", folder / "prepared.onnx") == ["layer"]
    int8.quantise(folder / "prepared.onnx", folder / "int8.onnx")
    return torch.from_numpy(OnnxPart(folder / "int8.onnx")(values.numpy())[0])


@pytest.mark.parametrize("name", ["w", "point"])
def test_a_layer_computes_what_onnxruntime_does(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model()
    layer = getattr(model.encoder, name)
    with torch.no_grad():
        layer.weight[3] = 0.0  # a channel without a range
        layer.weight[5] *= 100.0
    values = torch.randn(1, 30, 24) if name == "w" else torch.randn(1, 40, 30) + 2.0
    plain = layer(values)
    quantise(model, []).on = True
    found, expected = layer(values), onnxruntime(layer, values, tmp_path)
    assert (plain - expected).abs().max() > 0.01, "int8 changes something"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_by_hand() -> None:
    # scales 127/127 = 1 and 1.27/127 = 0.01; a tie is rounded to the even number
    weight = torch.tensor([[127.0, 2.5, -3.4], [0.004, -1.27, 0.016]], requires_grad=True)
    rounded = int8_weights(weight)
    torch.testing.assert_close(rounded, torch.tensor([[127.0, 2.0, -3.0], [0.0, -1.27, 0.02]]))
    (rounded * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert weight.grad.tolist() == [[1.0, 2.0, 3.0]] * 2  # as if nothing were rounded


def test_activations_by_hand() -> None:
    # range -51 to 204: scale 1, zero at 51; range 0 to 127.5 (0 belongs to it): scale 1/2
    values = torch.tensor([[[-51.0, 204.0], [1.4, 0.6]], [[127.5, 50.2], [10.0, 20.3]]])
    rounded = int8_activations(values, stepwise=False)
    assert rounded.tolist() == [[[-51.0, 204.0], [1.0, 1.0]], [[127.5, 50.0], [10.0, 20.5]]]
    assert torch.equal(int8_activations(values[:1], False), rounded[:1])  # whatever else is in the batch
    # range -255 to 0, which belongs to it, so -254.6 is 255 below; no range; range 0 to 255 of what is real
    assert int8_activations(torch.tensor([[[-255.0, -254.6]]]), False).tolist() == [[[-255.0, -255.0]]]
    assert int8_activations(torch.zeros(1, 1, 2), stepwise=False).tolist() == [[[0.0, 0.0]]]
    padded, real = torch.tensor([[[255.0, 7.2], [999.0, -9.0]]]), torch.tensor([[[True], [False]]])
    assert int8_activations(padded, False, real).tolist() == [[[255.0, 7.0], [255.0, 0.0]]]
    # each vector alone: 1.4/255 is the scale of (1.4, 0.6), 0.6 is 109.3 of it
    assert int8_activations(values, stepwise=True)[0, 1].tolist() == pytest.approx([1.4, 109 * 1.4 / 255])


def test_padding_is_no_part_of_a_range() -> None:
    model = Model()
    switch = quantise(model, [])
    switch.on = True
    features, lengths = torch.zeros(2, 100, 24), torch.tensor([100, 57])
    model.encoder(features, lengths)
    values = torch.randn(2, 10, 24)  # of 10 frames of the encoder 5.7, so 6, are real
    louder = values.clone()
    louder[1, 6:] *= 50
    both = [model.encoder.w(v) for v in (values, louder)]
    assert torch.equal(both[0][:, :6], both[1][:, :6])
    louder[1, 5] *= 50
    assert not torch.equal(both[0][1, :5], model.encoder.w(louder)[1, :5])


def test_which_layers_and_what_is_one_range() -> None:
    model = Model()
    assert [name for name, _ in int8_layers(model)] == [
        "encoder.w", "encoder.point", "decoder.self_attn.linear_q", "decoder.self_attn.linear_k",
        "decoder.ffn", "joint_network.lin_enc", "joint_network.lin_out",
    ]  # fmt: skip
    names, keys = [name for name, _ in model.named_modules()], list(model.state_dict())
    quantise(model, ["decoder.ffn", LATTICE_LAYER])
    assert [name for name, _ in model.named_modules()] == names and list(model.state_dict()) == keys
    ranges = {name: m.kd_stepwise for name, m in model.named_modules() if hasattr(m, "kd_switch")}
    assert ranges == {
        "encoder.w": False, "encoder.point": False, "decoder.self_attn.linear_q": True,
        "decoder.self_attn.linear_k": False, "joint_network.lin_enc": True,
    }  # fmt: skip
    frames = {name: m.kd_time for name, m in model.named_modules() if name in ranges and not m.kd_stepwise}
    assert frames == {"encoder.w": 1, "encoder.point": 2, "decoder.self_attn.linear_k": None}


def test_half_precision_is_rounded_in_float32() -> None:
    values = torch.linspace(-3, 5, 100).reshape(1, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        model = Model()
        quantise(model, []).on = True
        assert torch.equal(int8_activations(values, False), int8_activations(values, False).float())
        assert model.encoder.w(torch.randn(2, 5, 24)).dtype == torch.bfloat16
        rounded = int8_activations(values.bfloat16().requires_grad_(), False)
    assert rounded.dtype == torch.bfloat16 and len(rounded.unique()) > 90
    rounded.sum().backward()


def test_options() -> None:
    found = quantise_options({"weights": "int8", "begin": "5e0", "keep_float": ["ctc.ctc_lo"]})
    assert found == Quantise(5, ("ctc.ctc_lo", LATTICE_LAYER))

    for wrong, message in (
        ({"weights": "int4"}, "weights is 'int4': int8 is what exported graphs have"),
        ({"begin": -1}, "quantise.begin: -1 is not a whole number of batches from 0 up"),
        ({"keep_float": "ctc"}, "keep_float is 'ctc': give a list of layers"),
        ({"start": 1}, "unknown key start"),
    ):
        with pytest.raises(UserError, match=message):
            quantise_options(wrong)
    with pytest.raises(UserError, match=r"keep_float has encoder.v: did you mean encoder.w"):
        quantise(Model(), ["encoder.v"])


def test_a_model_that_cannot_be_exported_is_refused() -> None:
    model = Model()
    model.frontend = None
    with pytest.raises(UserError, match=r"quantise: .* cannot export the model: its input is features"):
        QuantiseMethod().check_model(model, Namespace(quantise={"begin": 5}))


def test_off_nothing_changes() -> None:
    model, values = Model(), torch.randn(2, 5, 24)
    plain = model.encoder.w(values)
    assert isinstance(quantise(model, []), Switch)
    assert torch.equal(model.encoder.w(values), plain)
