"""A plan with real trainings: kill -9 of the runner and of a training, then the same results."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fork_server
import pytest
from fork_server import QUICK_PYTHON
from shell import environment, write_recipe

pytestmark = [pytest.mark.slow(seconds=60), pytest.mark.long]

PLAN = f"""
options: {{python: {QUICK_PYTHON}, speed_perturb_factors: ""}}
args: {{max_epoch: 4}}
rows:
  Teacher: {{options: {{student_config: conf/teacher.yaml}}}}
  KL: {{options: {{student_config: conf/student.yaml, kd_config: conf/kl.yaml}}, teacher: Teacher}}
"""


def start(root: Path) -> subprocess.Popen[str]:
    """Start the runner of the plan."""
    (root / "plans").mkdir(exist_ok=True)
    (root / "plans/mini.yaml").write_text(PLAN)
    return subprocess.Popen(
        [sys.executable, "-m", "espnet_kd", "experiments", "plans/mini.yaml", "--jobs", "1"],
        cwd=root, env=environment(ESPNET_KD_FORK_SERVER=fork_server.start()),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.01)


def training_of(root: Path, exp: str) -> int | None:
    """Return the process that trains an experiment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if "--task" in words and exp in words and (process / "cwd").readlink() == root:
                return int(process.name)
        except OSError:
            pass
    return None


def results(root: Path) -> list[dict[str, object]]:
    """Return the records without costs, which an interruption changes, and the commit of this checkout."""
    records = [json.loads(line) for line in (root / "plans/results/mini.jsonl").read_text().splitlines()]
    left_out = ("seconds", "cpu_seconds", "commit")
    return [{k: v for k, v in record.items() if k not in left_out} for record in records]


def test_killed_and_continued(tmp_path: Path, corpus: Path) -> None:
    whole, killed = (write_recipe(tmp_path / name / "kd1", corpus) for name in ("whole", "killed"))
    uninterrupted = start(whole)
    output = uninterrupted.communicate(timeout=1200)[0]
    assert uninterrupted.returncode == 0, output
    first = start(killed)
    until((killed / "exp/teacher_seed1/1epoch.pth").exists)
    first.kill()
    first.wait()
    assert training_of(killed, "exp/teacher_seed1"), "it was killed too late"
    second = start(killed)
    until((killed / "exp/kl_seed1/1epoch.pth").exists)
    training = training_of(killed, "exp/kl_seed1")
    assert training is not None, "it was killed too late"
    os.kill(training, signal.SIGKILL)
    output = second.communicate(timeout=1200)[0]
    assert second.returncode == 1 and "KL, seed 1: failed" in output, output
    third = start(killed)
    output = third.communicate(timeout=1200)[0]
    assert third.returncode == 0 and "Teacher" not in output, output
    assert results(killed) == results(whole)
    log = (killed / "exp/teacher_seed1.log").read_text()
    assert log.count("# started") == 1, "the teacher was trained by two runs"
