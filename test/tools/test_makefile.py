"""What cleaning keeps, and the one place where the Makefile cannot work."""

import os
import shutil
import subprocess
from pathlib import Path

from source import ROOT


def make(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # of the `make test` we run in
    return subprocess.run(["make", *argv], cwd=folder, env=env, capture_output=True, text=True)


def test_cleaning_keeps_data_and_environment(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for kept in ("egs/digits/kd1/exp", "egs/digits/kd1/data", ".venv/lib/__pycache__"):
        (tmp_path / kept).mkdir(parents=True)
    (tmp_path / "espnet_kd" / "__pycache__").mkdir(parents=True)
    assert make(tmp_path, "clean").returncode == 0
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_dir() and not any(p.iterdir())}
    assert left == {"egs/digits/kd1/exp", "egs/digits/kd1/data", ".venv/lib/__pycache__", "espnet_kd"}


def test_a_path_with_a_space_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "my work"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    result = make(folder, "test")
    assert result.returncode == 2
    assert "has a space in it" in result.stderr and result.stderr.count("\n") == 1
