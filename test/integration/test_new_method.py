"""The method of docs/extending.md: its diff, applied to a copy of the package, is all that it needs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fabricated
import pytest
from recipe import Recipe
from source import ROOT

from espnet_kd.teachers.checkpoint import load_checkpoint

PENALTY = {"weight_penalty": {"weight": 0.001}}
PROGRAM = """
import sys, yaml
from espnet_kd.errors import UserError
from espnet_kd.tasks.asr import ASRDistillationTask as Task
print(Task.get_parser().format_help())
words = sys.argv[1:]
try:
    Task.main(cmd=[*words, "--weight_penalty", "wait=3"])
except UserError as e:
    print("refused:", e)
Task.main(cmd=words)
"""


def the_diff(page: str) -> str:
    """The block of a page that is the diff of a method."""
    return re.search(r"^<!-- diff method -->\n```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]


def apply(diff: str, root: Path) -> list[str]:
    """Apply a diff below a directory; return the files that it touches."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)}
    command = ["git", "apply", "--numstat", "--apply"]
    done = subprocess.run(
        command, cwd=root, input=diff, env=environment, capture_output=True, text=True, check=True
    )
    return [line.split("\t")[2] for line in done.stdout.splitlines()]


def run(recipe: Recipe, package: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(package / "test")])}
    command = [sys.executable, *words]
    result = subprocess.run(
        command, cwd=recipe.root, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result


pytestmark = [pytest.mark.slow(seconds=20), pytest.mark.long]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "espnet_kd", root / "espnet_kd", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "test").mkdir()
    page = (ROOT / "docs/extending.md").read_text()
    assert apply(the_diff(page), root) == [
        "espnet_kd/methods/__init__.py",
        "espnet_kd/methods/weight_penalty.py",
        "test/methods/test_weight_penalty.py",
    ]
    return root


def test_a_method_is_its_module_its_row_and_its_test(recipe: Recipe, package: Path) -> None:
    exp = recipe.root / "penalised/asr_penalty"
    words = recipe.training(exp, "student", max_epoch=1, **PENALTY)
    printed = run(recipe, package, "-c", PROGRAM, *words).stdout
    assert "--weight_penalty" in printed and "Penalty: {weight: 0.001}" in printed
    assert "refused: weight_penalty: unknown key wait; known: weight\n" in printed
    states = load_checkpoint(exp / "checkpoint.pth")
    for phase in ("train", "valid"):
        stats = states["reporter"]["stats"][1][phase]
        assert stats["loss_weight_penalty"] > 0
        assert stats["loss"] > 0.001 * stats["loss_weight_penalty"]
    run(recipe, package, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "test"))

    plain = recipe.train("penalised/asr_plain", "student", max_epoch=1)
    for directory, wrong in ((plain, 4), (exp, 3)):
        fabricated.write_score(directory, "test", wrong=wrong)
    report = ["-m", "espnet_kd", "report", "--expdir", "penalised", "--test_sets", "test"]
    report += ["--out", "penalised/RESULTS.md", "--images", "penalised/images"]
    table = run(recipe, package, *report).stdout
    assert "| student |" in table and "| student, weight penalty |" in table
