"""Pseudo-labels of real ESPnet models: stock hypotheses, one worker or two, whatever is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from miniature import contents
from recipe import RATE, TOKENS, Recipe

from espnet_kd.errors import UserError
from espnet_kd.recipe.pseudo_label import command

SEARCH = "--beam_size 4 --maxlenratio 0.5"
OPTIONS = ["--data", "dump/raw/train", "--shards", "5", "--inference_args", SEARCH, "--max_repeats", "100"]


def label(root: Path, dst: Path, *options: str, teacher: str = "exp/teacher") -> dict[str, bytes]:
    """Run the command here with one worker; returns what it wrote."""
    with contextlib.chdir(root):
        command.main(["--teacher", teacher, "--dst", str(dst), "--workers", "1", *OPTIONS, *options])
    return contents(dst)


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait until something is true, while a process runs."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_killed_workers_and_jobs_change_nothing(recipe: Recipe, tmp_path: Path) -> None:
    whole = label(recipe.root, tmp_path / "one")
    dst = tmp_path / "two"
    words = [sys.executable, "-m", "espnet_kd", "pseudo-label", "--teacher", "exp/teacher", "--dst", str(dst)]

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [*words, "--workers", "2", *OPTIONS], cwd=recipe.root, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def finished() -> set[Path]:
        return set(dst.glob("decode/*.jsonl"))

    job = start()
    wait_for(finished, job)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    before = {path: path.stat().st_mtime_ns for path in finished()}
    assert 1 <= len(before) < 5 and not (dst / "wav.scp").exists()

    job = start()
    wait_for(lambda: len(finished()) > len(before), job)
    workers = [p for p in psutil.Process(job.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    assert f"5 shards, {5 - len(before)} to decode" in output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(dst) == whole | {"decode/teacher.yaml": contents(dst)["decode/teacher.yaml"]}
