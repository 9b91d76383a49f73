"""Parts of a model: comparison with torch, and files that cannot be loaded."""

from pathlib import Path

import numpy as np
import pytest

from espnet_kd.errors import UserError
from espnet_kd.export.graph_parts import Compared, OnnxPart, largest_difference, least_samples


def test_a_difference_is_the_largest_and_infinite_where_nothing_can_be_compared() -> None:
    zeros = [np.zeros(3), np.zeros((2, 2))]
    assert largest_difference(zeros, [np.array([0, -0.5, 0]), np.full((2, 2), 0.25)]) == 0.5
    assert largest_difference(zeros, [np.zeros(3), np.full((2, 2), np.nan)]) == float("inf")
    assert largest_difference([np.full(3, np.nan), zeros[1]], zeros) == float("inf")
    assert largest_difference(zeros, [np.zeros(4), np.zeros((2, 2))]) == float("inf")


def test_a_compared_part_returns_the_first_result_and_keeps_the_difference() -> None:
    part = Compared(lambda x: [x, 2 * x], lambda x: [2 * x + 0.1])
    x = np.ones(2)
    assert part(x)[0] is x and part.difference == pytest.approx(0.1) and part.calls == [(x,)]


def test_parts_are_compared_with_adapted_inputs() -> None:
    part = Compared(lambda x: [x], lambda x: [x - x.mean()], lambda x: x - x.mean())
    x = np.array([1.0, 3.0])
    assert part(x)[0] is x and part.difference == 0


def test_speech_of_one_frame_is_not_too_short() -> None:
    def encoder(speech: np.ndarray) -> list[np.ndarray]:
        if (frames := speech.shape[1] // 640 - 1) < 1:  # below 1280 samples
            raise RuntimeError("too short")
        return [np.ones((1, frames, 2))]

    def other(speech: np.ndarray) -> list[np.ndarray]:
        return [encoder(speech)[0] + 1.0]

    def refusing(speech: np.ndarray) -> list[np.ndarray]:
        raise UserError("onnxruntime cannot run it")

    for graph, least in ((encoder, 1280), (other, 1920), (refusing, 1920)):
        assert least_samples(encoder, Compared(encoder, graph), 1920, 0.01) == least


def test_a_damaged_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"encoder\.onnx cannot be loaded: .*: export it again"):
        OnnxPart(tmp_path / "encoder.onnx")
