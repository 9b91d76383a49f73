"""Workers and whole jobs of pseudo-labelling are killed, and nothing is lost or done twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fake_teacher
import psutil
import pytest
from miniature import contents, write_kaldi

from espnet_kd.data import dump
from espnet_kd.decoding import shards
from espnet_kd.parallel import Cluster

pytestmark = pytest.mark.slow(seconds=10)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty utterances, to be decoded in ten shards."""
    write_kaldi(tmp_path / "audio", **{f"{i}.wav": f"{i}" for i in range(10, 50)})
    table = "".join(f"u{i} {tmp_path}/audio/{i}.wav\n" for i in range(10, 50))
    return write_kaldi(tmp_path / "data", wav_scp=table)


def start(data: Path, decode_dir: Path, workers: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, fake_teacher.__file__, str(data), str(decode_dir), str(workers)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finished(decode_dir: Path) -> set[Path]:
    return set(decode_dir.glob("[0-9]*.jsonl"))


def wait_for(condition: Callable[[], object], job: subprocess.Popen) -> None:
    while not condition():
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)


def workers_of(job: subprocess.Popen) -> list[psutil.Process]:
    return [p for p in psutil.Process(job.pid).children() if "spawn_main" in " ".join(p.cmdline())]


def test_a_killed_worker_and_a_killed_job(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    job = start(data, two, workers=2)
    wait_for(lambda: finished(two), job)
    workers = workers_of(job)
    assert len(workers) == 2
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    psutil.wait_procs(workers, timeout=10)
    before = {path: path.stat().st_mtime_ns for path in finished(two)}
    assert 1 <= len(before) < 10

    job = start(data, two, workers=2)
    wait_for(lambda: len(finished(two)) > len(before), job)
    workers_of(job)[0].kill()
    printed, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    assert f"10 shards, {10 - len(before)} to decode" in printed
    assert {path: path.stat().st_mtime_ns for path in before} == before

    monkeypatch.setattr(fake_teacher, "SECONDS", 0)
    here = Cluster("local", 1)
    shards.decode_missing(dump.read_dump(data), one, fake_teacher.SETTINGS, 10, fake_teacher.slow_work, here)
    assert contents(one) == contents(two)
