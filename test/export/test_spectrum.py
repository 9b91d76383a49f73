"""Spectra by a convolution are those of the STFT that it stands in for."""

import numpy as np
import pytest

SIZE, HOP = 400, 160


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)


def test_a_spectrum_is_exact(signal: np.ndarray) -> None:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from espnet_kd.export.spectrum import replace_stft

    window = np.hanning(SIZE + 1)[:-1].astype(np.float32)
    constants = {"hop": np.array(HOP), "window": window, "size": np.array(SIZE)}
    graph = helper.make_graph(
        [helper.make_node("STFT", ["x", "hop", "window", "size"], ["y"], name="stft", onesided=1)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, None, SIZE // 2 + 1, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    replace_stft(model)
    assert not any(node.op_type == "STFT" for node in model.graph.node)
    assert len(model.SerializeToString()) < 10_000  # sines and cosines are computed, not stored
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"x": signal[None, :, None]})[0]
    frames = np.lib.stride_tricks.sliding_window_view(signal, SIZE)[::HOP]
    want = np.fft.rfft(frames.astype(np.float64) * window)
    np.testing.assert_allclose(found[0, ..., 0] + 1j * found[0, ..., 1], want, atol=2e-5)
