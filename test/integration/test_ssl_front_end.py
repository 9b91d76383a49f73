"""A teacher whose front end is a model of transformers, such as HuBERT, inside an ESPnet experiment."""

import argparse
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
import yaml
from recipe import KL, RATE, TOKENS, Recipe, model

from espnet_kd.teachers.experiment import load_experiment

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow(seconds=8)

HIDDEN = {"type": "hidden", "tap": "encoder", "frame_rate": "resample", "reduction": "utterance"}


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment as a recipe leaves it: its config.yaml names the model relative to the recipe."""
    from espnet2.tasks.asr import ASRTask

    root = tmp_path_factory.mktemp("recipe")
    hubert = tiny_models.save("hubert", root / "downloads/hubert")
    config = ASRTask.get_default_config() | model(16, 1) | {
        "token_list": list(TOKENS), "token_type": "char", "normalize": "utterance_mvn", "normalize_conf": {},
        "frontend": "huggingface", "frontend_conf": {"model": str(hubert), "fs": RATE}, "specaug": None,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = ASRTask.build_model(argparse.Namespace(**config))
        for weight in built.frontend.parameters():  # trained further than the model that it began with
            weight.data.add_(0.01 * torch.randn_like(weight))
    directory = root / "exp/asr_hubert"
    directory.mkdir(parents=True)
    config["frontend_conf"] = {"model": "downloads/hubert", "fs": RATE}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(built.state_dict(), directory / "valid.acc.ave.pth")
    return directory


def test_its_weights_are_those_of_the_checkpoint(exp: Path) -> None:
    """The directory of the front end's model needs no weights, only its configuration."""
    (exp.parents[1] / "downloads/hubert/model.safetensors").rename(exp.parents[1] / "weights")
    teacher = load_experiment(exp)
    shutil.move(exp.parents[1] / "weights", exp.parents[1] / "downloads/hubert/model.safetensors")
    kept = torch.load(exp / "valid.acc.ave.pth", weights_only=True)
    for name, weight in teacher.model.state_dict().items():
        torch.testing.assert_close(weight, kept[name], msg=name)
    assert teacher.rate == RATE


def test_it_teaches_posteriors_and_hidden_vectors(recipe: Recipe, exp: Path) -> None:
    """50 frames a second, of which the encoder keeps every fourth; the student has 25."""
    criteria = {"enc": HIDDEN, "ctc": {**KL, "frame_rate": "resample"}, "att": {**KL, "tap": "decoder"}}
    student = recipe.train("exp/of_hubert", "student", teacher={"exp": str(exp)}, criteria=criteria)
    log = torch.load(student / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["train"]
    assert all(log[f"loss_kd_{name}"] > 0 for name in criteria)
    assert not [name for name in torch.load(student / "1epoch.pth", weights_only=True) if "hubert" in name]
