"""Training for int8: continued as uninterrupted, stock files, and what its int8 graphs compute."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from recipe import KL, Recipe

from espnet_kd.export import command
from espnet_kd.export.graph_parts import OnnxPart
from espnet_kd.export.quantised import quantise
from espnet_kd.host.models import encode
from espnet_kd.teachers.experiment import load_experiment

pytestmark = pytest.mark.slow(seconds=15)

OPTIONS = {
    "teacher": {"exp": "exp/teacher"}, "criteria": {"ctc": KL}, "resume": True,
    "quantise": {"begin": 2, "keep_float": ["ctc.ctc_lo"]},
}  # fmt: skip


def epoch(exp: Path, number: int) -> dict[str, list]:
    """The values of a model."""
    state = torch.load(exp / f"{number}epoch.pth", weights_only=True)
    return {name: tensor.tolist() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def trained(recipe: Recipe) -> Path:
    return recipe.train("exp/for_int8", "student", max_epoch=2, **OPTIONS)


def test_a_continued_training_is_the_uninterrupted_one(recipe: Recipe, trained: Path) -> None:
    plain = {key: value for key, value in OPTIONS.items() if key != "quantise"}
    recipe.train("exp/continued", "student", max_epoch=1, **OPTIONS)
    continued = recipe.train("exp/continued", "student", max_epoch=2, **OPTIONS)
    in_float = recipe.train("exp/in_float", "student", max_epoch=2, **plain)
    assert epoch(continued, 2) == epoch(trained, 2)
    assert epoch(in_float, 1) == epoch(trained, 1), "it has begun too early"
    assert epoch(in_float, 2) != epoch(trained, 2)
    assert epoch(in_float, 2).keys() == epoch(trained, 2).keys()


@pytest.mark.long
def test_the_int8_graph_computes_what_was_trained(recipe: Recipe, trained: Path) -> None:
    out, dev = trained / "onnx_int8", recipe.root / "dump/raw/dev"
    speech = {line.split()[0]: recipe.root / line.split()[1] for line in (dev / "wav.scp").open()}
    checked = recipe.root / "dump/raw/checked"
    checked.mkdir()
    (checked / "wav.scp").write_text("".join(f"{utt} {path}\n" for utt, path in speech.items()))
    (checked / "text").write_text((dev / "text").read_text())
    command.main([str(trained), "--check", str(checked), "--search", "ctc", "--int8", "--tolerance", "0"])
    found = json.loads((out / "export.json").read_text())
    assert found["float_layers"] == ["ctc.ctc_lo"] and found["check"]["int8"]["texts_differ"] == 0
    graph, model = OnnxPart(out / "encoder.onnx"), load_experiment(trained).model
    switch, ratios = quantise(model, ["ctc.ctc_lo"]), []
    for path in speech.values():
        samples = soundfile.read(path, dtype="float32")[0][None]
        outputs = {}
        for switch.on in (False, True):
            with torch.no_grad():
                lengths = torch.tensor([samples.shape[1]])
                outputs[switch.on] = encode(model, torch.from_numpy(samples), lengths)[0]
        int8 = torch.from_numpy(graph(np.ascontiguousarray(samples))[0])
        moved, left = ((outputs[on] - int8).square().mean().sqrt() for on in (False, True))
        ratios.append(left / moved)
    assert sorted(ratios)[1] < 1e-3  # of three, in one a zero point may be rounded to the other side
