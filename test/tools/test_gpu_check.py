"""The check on a GPU: its report, and that a machine without a GPU is no success."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import device_step, gpu_check
from bench.gpu_check import Part, write_report

ROOT = Path(__file__).parents[2]


def test_a_part_that_fails_or_hangs_leaves_the_others_their_place(tmp_path: Path) -> None:
    def part(title: str, code: str, limit: int = 30) -> Part:
        return Part(title, (sys.executable, "-c", code), limit)

    report = tmp_path / "new/report.md"
    parts = (
        part("First", "print('one\\ntwo')"),
        part("Second", "raise SystemExit(3)"),
        part("Third", "import time; print('begun', flush=True); time.sleep(30)", limit=1),
    )
    assert write_report(report, parts) == 1
    text = report.read_text()
    assert "## First: ok\n\n```text\none\ntwo\n```" in text
    assert "| Second | failed (status 3) |" in text
    assert "## Third: not finished after 1 s\n\n```text\nbegun" in text
    assert write_report(report, parts[:1]) == 0


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_what_draws_random_numbers_on_the_device_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_device(name: str, device: str, scope: object = None) -> list[torch.Tensor]:
        drawn = name in ("scheduled sampling", "own prefixes, nucleus", "mutual learning")
        return [torch.tensor(2.0 if drawn and device == "cuda" else 1.0)]

    names = [*device_step.ATTENTION, "scheduled sampling", "own prefixes, nucleus", "mutual learning"]
    monkeypatch.setattr(device_step, "cases", lambda folder: {name: name for name in names})
    monkeypatch.setattr(device_step, "on_device", on_device)
    assert gpu_check.precision() == 0


def test_tests_that_need_a_gpu_are_found_and_no_others_collected() -> None:
    names = {Path(file).name for file in gpu_check.FILES}
    assert names == {"test_device_step.py", "test_distillation.py"}


def test_a_python_of_the_system_takes_the_place_of_an_installation(tmp_path: Path) -> None:
    folder = tmp_path / "tools"
    folder.mkdir()
    script = Path(shutil.copy(ROOT / "tools/gpu_check.sh", folder))
    for name, text in (("python3", "[[ $2 == *espnet2* ]]"), ("make", f"touch {tmp_path}/made; exit 3")):
        program = tmp_path / name
        program.write_text(f"#!/usr/bin/env bash\n{text}\n")
        program.chmod(0o755)
    here = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", str(script)], env=here, capture_output=True, text=True)
    assert done.returncode == 77 and "no GPU" in done.stderr and not (tmp_path / "made").exists()
    (tmp_path / "python3").write_text("#!/usr/bin/env bash\nexit 1\n")  # has no torch
    done = subprocess.run(["bash", str(script)], env=here, capture_output=True, text=True)
    assert done.returncode == 3 and (tmp_path / "made").exists()


@pytest.mark.slow(seconds=3)
def test_a_machine_without_a_gpu_is_no_success(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    done = subprocess.run(
        [str(ROOT / "tools/gpu_check.sh"), str(report)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 77 and not report.exists()
    assert done.stderr.splitlines() == [
        "gpu_check: this machine has no GPU that torch can use: nothing was checked"
    ]
