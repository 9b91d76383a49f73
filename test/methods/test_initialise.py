"""Copying parts of a teacher; whole models are in test/integration/test_task.py."""

from typing import Any

import pytest
import torch
from torch import nn

from espnet_kd.errors import UserError
from espnet_kd.methods.initialise import initialise


def stack(layers: int, size: int = 2) -> nn.Module:
    return nn.ModuleDict(
        {"layers": nn.ModuleList(nn.Linear(size, size) for _ in range(layers)), "head": nn.BatchNorm1d(size)}
    )


def test_layers_by_number_and_buffers_too() -> None:
    student, teacher = stack(2), stack(4)
    teacher["head"].running_mean.fill_(5.0)
    kept = student["layers"][1].bias.clone()
    initialise(student, teacher, {"layers": [3], "head": True})
    assert torch.equal(student["layers"][0].weight, teacher["layers"][3].weight)
    assert torch.equal(student["layers"][1].bias, kept)
    assert student["head"].running_mean.tolist() == [5.0, 5.0]


def test_a_copy_is_not_shared() -> None:
    student, teacher = stack(1), stack(1)
    initialise(student, teacher, {"layers.0": "layers.0"})
    with torch.no_grad():
        student["layers"][0].weight.add_(1)
    assert not torch.equal(student["layers"][0].weight, teacher["layers"][0].weight)


@pytest.mark.parametrize(
    ("teacher", "parts", "message"),
    [
        (
            stack(2, size=3),
            {"layers": [0]},
            "layers.0.bias is (2,) in the student, layers.0.bias is (3,) in the teacher",
        ),
        (stack(2), {"layers": [2]}, "the teacher has no layers.2; layers has 0, 1"),
        (stack(2), {"layers": []}, "neither true, a path, a list of layer numbers nor"),
        (stack(2), {"layers": [True]}, "neither true, a path, a list of layer numbers nor"),
        (stack(2), ["layers"], "init_from_teacher: ['layers'] is not a mapping: write"),
        (stack(2), {"tail": True}, "the student has no tail; the model has layers, head"),
    ],
)
def test_refused(teacher: nn.Module, parts: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        initialise(stack(2), teacher, parts)
    assert message in str(error.value)
