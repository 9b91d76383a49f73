"""A distilled experiment is a stock ESPnet experiment; any stock experiment is a teacher."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import quick_python
from recipe import KL, Recipe, own_tensors

from espnet_kd.errors import UserError

pytestmark = pytest.mark.slow(seconds=10)

# Runs first in a process where espnet_kd cannot be imported.
WITHOUT_US = "import sys; sys.modules['espnet_kd'] = None\n"
COMPARE = """
import torch
from espnet2.tasks.asr import ASRTask
model, args = ASRTask.build_model_from_file("exp/{0}/config.yaml", "exp/{0}/valid.acc.ave.pth")
loaded, saved = model.state_dict(), torch.load("exp/{0}/valid.acc.ave.pth", weights_only=True)
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
    quick_python("-c", program, cwd=recipe.root, check=True)
    text = (student / "decoded/1best_recog/text").read_text().splitlines()
    assert [line.split()[0] for line in text] == ["dev-0", "dev-1", "dev-2"]


def test_the_check_itself_can_fail(recipe: Recipe, student: Path) -> None:
    """ESPnet's loading is lenient: it ignores a renamed tensor without a warning."""
    state = torch.load(student / "valid.acc.ave.pth", weights_only=True)
    state["model.ctc.ctc_lo.bias"] = state.pop("ctc.ctc_lo.bias")
    other = student.with_name("renamed")
    other.mkdir()
    torch.save(state, other / "valid.acc.ave.pth")
    (other / "config.yaml").write_bytes((student / "config.yaml").read_bytes())
    program = WITHOUT_US + COMPARE.format(other.name)
    result = quick_python("-c", program, cwd=recipe.root)
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


def stock(recipe: Recipe, out: str, **changes: Any) -> Path:
    """Train the student by ESPnet alone, from where ``out`` ended or from ``init_param``."""
    from espnet2.tasks.asr import ASRTask

    return recipe.train(out, "student", task=ASRTask, **changes)


def test_stock_fine_tuning_of_a_distilled_student(recipe: Recipe, student: Path) -> None:
    """What asr.sh does with --pretrained_model."""
    still = {"optim": "sgd", "optim_conf": {"lr": 0.0}, "scheduler": None}
    exp = stock(recipe, "exp/tuned", init_param=[f"{student}/valid.acc.ave.pth"], **still)
    given, tuned = (torch.load(d / "1epoch.pth", weights_only=True) for d in (student, exp))
    assert given.keys() == tuned.keys()
    moved = {name for name in given if not torch.equal(given[name], tuned[name])}
    assert all(".norm." in name for name in moved), "statistics of batch norm go on"


def test_criteria_come_and_go_between_epochs(
    recipe: Recipe, student: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(student, recipe.root / "exp/changing", symlinks=True)
    projection = "kd_criteria.hid.projection.weight"

    def go_on(epochs: int, **criteria: Any) -> dict[str, Any]:
        caplog.clear()
        given = {"teacher": {"exp": "exp/teacher"}, "criteria": criteria} if criteria else {}
        exp = recipe.train("exp/changing", "student", **given, max_epoch=epochs, resume=True)
        assert torch.load(exp / f"{epochs}epoch.pth", weights_only=True).keys() == keys
        return own_tensors(exp)

    keys = torch.load(student / "1epoch.pth", weights_only=True).keys()
    assert go_on(2, ctc=KL) == {"kd_step": torch.tensor(4)}
    assert f"{projection} of the checkpoint is left out: no criterion has it any more" in caplog.text
    assert go_on(3, ctc=KL, hid={"type": "hidden", "tap": "encoder"})["kd_step"] == 6
    assert f"{projection} is not in the checkpoint: it starts anew" in caplog.text
    assert go_on(4) == {}
    stock(recipe, "exp/changing", max_epoch=5, resume=True)
    assert torch.load(recipe.root / "exp/changing/5epoch.pth", weights_only=True).keys() == keys


def test_a_checkpoint_of_another_model_is_refused_in_one_line(recipe: Recipe, student: Path) -> None:
    with pytest.raises(UserError) as error:
        recipe.train(student, "teacher", max_epoch=2, resume=True)
    assert str(error.value).startswith(f"{student}/checkpoint.pth does not fit the configuration: ")
    assert "encoder.encoders.1." in str(error.value) and "\n" not in str(error.value)


def test_schedules_start_at_0_from_the_weights_of_another_student(recipe: Recipe, student: Path) -> None:
    """Those of an older espnet_kd have its counter among the model's tensors."""
    old = {**torch.load(student / "1epoch.pth", weights_only=True), "kd_step": torch.tensor(2.0)}
    torch.save(old, recipe.root / "old.pth")
    exp = recipe.train(
        "exp/later", "student", teacher={"exp": "exp/teacher"}, criteria={"ctc": KL}, init_param=["old.pth"]
    )
    assert own_tensors(exp) == {"kd_step": torch.tensor(2)}  # 8 utterances in batches of 4
