"""A distilled experiment is a stock ESPnet experiment; any stock experiment is a teacher."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recipe import KL, Recipe

# Runs first in a process where espnet_kd cannot be imported.
WITHOUT_US = "import sys; sys.modules['espnet_kd'] = None\n"
COMPARE = """
import torch
from espnet2.tasks.asr import ASRTask
model, args = ASRTask.build_model_from_file("exp/{0}/config.yaml", "exp/{0}/valid.acc.ave.pth")
loaded, saved = model.state_dict(), torch.load("exp/{0}/valid.acc.ave.pth", weights_only=True)
saved = {{k: v for k, v in saved.items() if not k.startswith("kd_")}}
assert loaded.keys() == saved.keys(), loaded.keys() ^ saved.keys()
assert all(torch.equal(loaded[k], saved[k]) for k in loaded)
assert type(model).__name__ == "ESPnetASRModel"
"""
DECODE = """
from espnet2.bin.asr_inference import main
main(cmd=["--asr_train_config", "exp/{0}/config.yaml", "--asr_model_file", "exp/{0}/valid.acc.ave.pth",
          "--data_path_and_name_and_type", "dump/raw/dev/wav.scp,speech,sound",
          "--output_dir", "exp/{0}/decoded", "--ngpu", "0", "--beam_size", "2", "--maxlenratio", "0.2"])
"""


@pytest.fixture(scope="module")
def student(recipe: Recipe) -> Path:
    criteria = {"ctc": KL, "hid": {"type": "hidden", "weight": 1.0, "tap": "encoder"}}
    return recipe.train("exp/plain-student", "student", teacher={"exp": "exp/teacher"}, criteria=criteria)


def test_stock_decoding_without_us(recipe: Recipe, student: Path, tmp_path: Path) -> None:
    program = WITHOUT_US + (COMPARE + DECODE).format(student.name)
    subprocess.run([sys.executable, "-c", program], cwd=recipe.root, check=True, capture_output=True)
    text = (student / "decoded/1best_recog/text").read_text().splitlines()
    assert [line.split()[0] for line in text] == ["dev-0", "dev-1", "dev-2"]


def test_the_check_itself_can_fail(recipe: Recipe, student: Path) -> None:
    """Stock loading is lenient: a renamed tensor loads nothing and says nothing."""
    state = torch.load(student / "valid.acc.ave.pth", weights_only=True)
    state["model.ctc.ctc_lo.bias"] = state.pop("ctc.ctc_lo.bias")
    other = student.with_name("renamed")
    other.mkdir()
    torch.save(state, other / "valid.acc.ave.pth")
    (other / "config.yaml").write_bytes((student / "config.yaml").read_bytes())
    program = WITHOUT_US + COMPARE.format(other.name)
    result = subprocess.run([sys.executable, "-c", program], cwd=recipe.root, capture_output=True, text=True)
    assert result.returncode == 1 and "ctc.ctc_lo.bias" in result.stderr


def test_a_teacher_is_read_from_any_directory(recipe: Recipe, tmp_path: Path) -> None:
    from espnet_kd.teachers.experiment import load_experiment

    expected = torch.load(recipe.root / "exp/teacher/valid.acc.ave.pth", weights_only=True)
    with contextlib.chdir(tmp_path):
        experiment = load_experiment(recipe.root / "exp/teacher")
    found = experiment.model.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert not any(p.requires_grad for p in experiment.model.parameters())


def test_a_distilled_student_is_a_teacher(recipe: Recipe, student: Path) -> None:
    recipe.train("exp/second", "student", teacher={"exp": str(student)}, criteria={"ctc": KL})
    assert (recipe.root / "exp/second/valid.acc.ave.pth").exists()
