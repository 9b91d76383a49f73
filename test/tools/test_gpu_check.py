"""The check on a GPU: its report, and that a machine without a GPU is no success."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
