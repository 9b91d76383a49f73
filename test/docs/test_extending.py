"""The diffs of docs/extending.md apply to this checkout, and what they add works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from pages import ROOT, blocks

PROGRAM = """
from pathlib import Path
import torch
from espnet2.tasks.asr import encoder_choices
from espnet_kd.encoders.register import register_encoders
register_encoders()
encoder = encoder_choices.get_class("stacked")(20, size=8)
states, lengths, _ = encoder(torch.randn(2, 11, 20), torch.tensor([11, 5]))
assert states.shape == (2, 3, 8) and lengths.tolist() == [3, 2]

from espnet_kd.commands.inspect import layer_table
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.online import OnlineTeacher
torch.save({"weight": torch.ones(4, 1, 320)}, "filters.pth")
teacher = Source("filters", "filters.pth").load()
speech, lengths = torch.ones(2, 800), torch.tensor([800, 400])
seen = OnlineTeacher([teacher], ["bank"]).targets(speech, lengths, *[torch.zeros(2, 0)] * 2)["bank"]
assert seen.lengths.tolist() == [2, 1]
assert seen.tensor[..., 0].tolist() == [[320.0, 320.0], [320.0, 80.0]]  # of 80 real samples, then padding
print(layer_table(teacher, 1))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with all diffs applied."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("espnet_kd", "bench", "test/criteria", "egs/TEMPLATE", "egs/an4/kd1/conf"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for block in blocks("diff"):
        if block.page.name == "extending.md":
            command = ["git", "apply", "-C1", "-"]
            result = subprocess.run(command, cwd=root, input=block.text, capture_output=True, text=True)
            assert result.returncode == 0, f"{block}: {result.stderr}"
    return root


def run(checkout: Path, *command: str, cwd: str = ".") -> str:
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    result = subprocess.run(command, cwd=checkout / cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_criterion_passes_the_contract(checkout: Path) -> None:
    tests = ["-q", "-p", "no:cacheprovider", "-k", "logit_l2 or every", "test/criteria/test_contract.py"]
    assert " passed" in run(checkout, sys.executable, "-m", "pytest", "-n0", *tests)


def test_the_encoder_and_the_teacher_work(checkout: Path) -> None:
    assert "bank  50 frames x 4" in run(checkout, sys.executable, "-c", PROGRAM)


def test_the_corpus_is_prepared_and_the_command_counts_its_speakers(checkout: Path) -> None:
    folder = checkout / "speech" / "train" / "anna"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        soundfile.write(folder / f"{name}.wav", [0.0] * 800, 16000)
        (folder / f"{name}.txt").write_text(f"number {name}\n")
    run(checkout, sys.executable, "-m", "espnet_kd", "prepare", "folder", "speech", "data")
    assert (checkout / "data/train/text").read_text() == "anna-one number one\nanna-two number two\n"
    assert run(checkout, sys.executable, "-m", "espnet_kd", "speakers", "data/train") == "     2 anna\n"


def test_the_recipe_of_the_corpus_lists_its_options(checkout: Path) -> None:
    (block,) = [b for b in blocks("sh") if "cat >run.sh" in b.text]
    listed = run(checkout, "bash", "-ec", block.text)
    assert "--folder" in listed and "--kd_config" in listed
