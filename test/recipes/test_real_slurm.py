"""Recipes and their runner on a real Slurm of one node, which is started here; needs slurm-wlm and munge."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fork_server
import pytest
import torch
import yaml
from fork_server import QUICK_PYTHON
from miniature import contents
from shell import TEMPLATE, Finished, environment, script, sh, write_recipe
from slurm_node import slurm_node, why_not

pytestmark = [
    pytest.mark.slow(seconds=60),
    pytest.mark.long,
    pytest.mark.skipif(bool(why_not()), reason=f"no Slurm: {why_not()}"),
]

SLURM = str(TEMPLATE / "utils" / "slurm.sh")
TEACHER = Path("exp/asr_teacher_raw_char_sp")
CLUSTER = {
    "type": "slurm", "workers": 1,
    "options": {"cores": 1, "memory": "2GB", "walltime": "00:10:00", "log_directory": "exp/dask"},
}  # fmt: skip
# What is in the tests' miniature recipe, with a store of targets.
STORED = {
    "teacher": {"store": "exp/targets"},
    "criteria": {"ctc": {"type": "kl", "weight": 1.0, "tap": "ctc.ctc_lo"}},
}
# A training that stands still in its second epoch, the first time; the signals of a time limit end it.
STANDS_STILL = """#!/usr/bin/env bash
case "$1 $2 $3" in  # not ESPnet's launcher, which has the command of the training among its arguments
    "-m espnet_kd train") [ ! -e stood_still ] || exec {python} "$@" ;;
    *) exec {python} "$@" ;;
esac
python3 "$@" &
training=$!
trap 'kill -TERM "${{training}}"; kill -CONT "${{training}}"; exit 143' TERM
until [ -e "{exp}/2epoch.pth" ]; do sleep 0.05; done
kill -STOP "${{training}}"
touch stood_still
wait "${{training}}"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which commands of Slurm find it."""
    with slurm_node(tmp_path_factory.mktemp("slurm")) as changes:
        yield changes


@pytest.fixture(scope="module")
def whole(
    slurm: dict[str, str], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A recipe that goes through all stages as jobs, while other tests run."""
    root = write_recipe(tmp_path_factory.mktemp("whole") / "kd1", corpus)
    (root / "conf/stored.yaml").write_text(yaml.safe_dump(STORED))
    (root / "conf/cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
    command = ["./run.sh", "--kd_config", "conf/stored.yaml", "--cluster", "conf/cluster.yaml"]
    process = subprocess.Popen(
        [*command, "--python", str(QUICK_PYTHON)], cwd=root, text=True, start_new_session=True,
        env=environment(**slurm, cmd_backend="slurm", ESPNET_KD_FORK_SERVER=fork_server.start()),
        stdout=(root / "output").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    yield root, process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(autouse=True)
def _begun(whole: tuple[Path, subprocess.Popen[str]]) -> None:
    """Every test lets the whole recipe begin."""


def wait_until(condition: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.1)


def queue(slurm: dict[str, str], name: str, what: str = "%A") -> str:
    """What squeue says of the jobs with this name."""
    words = ("squeue", "--noheader", f"--name={name}", f"--format={what}")
    return sh(Path("/"), *words, **slurm).stdout.strip()


def start(cwd: Path, slurm: dict[str, str], *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=cwd, env=environment(**slurm), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_an_array_of_jobs_with_gpus(tmp_path: Path, slurm: dict[str, str]) -> None:
    job = "echo part JOB of '$HOME' $SLURM_GPUS_ON_NODE $SLURM_CPUS_ON_NODE $SLURM_MEM_PER_GPU; [ JOB != 3 ]"
    words = ("--gpu", "2", "--num_threads", "2", "--max_jobs_run", "2", "JOB=2:3", "log/a.JOB.log")
    result = sh(tmp_path, SLURM, *words, "bash", "-c", job, **slurm)
    assert result.returncode == 1 and "job failed" not in result.stdout
    assert "the log of the first, log/a.3.log, ends:" in result.stderr
    for part, status in (("2", "0"), ("3", "1")):
        lines = (tmp_path / f"log/a.{part}.log").read_text().splitlines()
        assert lines[2] == f"part {part} of $HOME 2 8 32768", "4 CPUs and 32 GB for each GPU"
        assert lines[-1] == f"# ended with status {status}"


def test_a_cancelled_job_and_a_cancelled_command(tmp_path: Path, slurm: dict[str, str]) -> None:
    running = start(tmp_path, slurm, SLURM, "--name", "gone", "gone.log", "sleep", "600")
    wait_until((tmp_path / "gone.log").exists)
    sh(tmp_path, "scancel", "--name=gone", **slurm)
    errors = running.communicate(timeout=300)[1]
    assert running.returncode == 1
    assert re.search(r"slurm.sh: job \d+ was cancelled\n", errors) and "gone.log, ends:" in errors
    running = start(tmp_path, slurm, SLURM, "--name", "ended", "ended.log", "sleep", "600")
    wait_until((tmp_path / "ended.log").exists)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=300)
    assert running.returncode == 130
    wait_until(lambda: not queue(slurm, "ended"))


def test_a_killed_command_finds_its_job_again(tmp_path: Path, slurm: dict[str, str]) -> None:
    job = "echo x >> jobs; until [ -e go ]; do sleep .1; done"
    command = (SLURM, "--name", "found", "a.log", "bash", "-c", job)
    running = start(tmp_path, slurm, *command)
    wait_until((tmp_path / "jobs").exists)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    (tmp_path / "a.log").rename(tmp_path / "a.1.log")  # as ESPnet's launcher does
    again = start(tmp_path, slurm, *command)
    time.sleep(1)
    (tmp_path / "go").touch()
    errors = again.communicate(timeout=300)[1]
    assert again.returncode == 0 and "which an earlier run has submitted, works on a.log" in errors
    assert (tmp_path / "jobs").read_text() == "x\n", "it was submitted twice"


def test_the_reason_is_shown_while_a_job_waits_for_a_drained_node(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    node = sh(tmp_path, "sinfo", "--noheader", "--format=%n", **slurm).stdout.strip()
    update = ("scontrol", "update", f"nodename={node}")
    assert sh(tmp_path, *update, "state=drain", "reason=disk broken", **slurm).returncode == 0
    try:
        waiting = start(tmp_path, slurm, SLURM, "a.log", "true")
        line = waiting.stderr.readline()
    finally:
        assert sh(tmp_path, *update, "state=resume", **slurm).returncode == 0
    assert re.search(rf"slurm.sh: job \d+ \(a.log\) waits: .*; {node} is out of service: disk broken", line)
    assert waiting.wait(60) == 0
    waiting.stderr.close()


def test_a_detached_run(tmp_path: Path, corpus: Path, slurm: dict[str, str]) -> None:
    root = write_recipe(tmp_path / "detached", corpus)
    slow = '[[ $* != *" perturb "* ]] || sleep 600'
    python = script(root / "slow", f'#!/bin/bash\n{slow}\nexec python3 "$@"\n')
    command = ("./run.sh", "--detach", "true", "--stop_stage", "2", "--python", str(python))
    first, second = (sh(root, *command, **slurm, cmd_backend="slurm") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    wait_until(lambda: list(root.glob("exp/log/run.*.log")))
    (log,) = root.glob("exp/log/run.*.log")
    assert f"its output is exp/log/{log.name}" in first.stderr
    assert "runs this command already" in second.stderr
    wait_until(lambda: queue(slurm, "perturb_train", "%T") == "RUNNING")
    assert "stage 1: took" in log.read_text()
    job, child = queue(slurm, "detached"), queue(slurm, "perturb_train")
    sh(root, "scancel", "--batch", "--signal=USR1", job, **slurm)  # as before its time limit
    wait_until(lambda: queue(slurm, "detached", "%T") == "PENDING")
    assert queue(slurm, "perturb_train") == child
    wait_until(lambda: "which an earlier run has submitted" in log.read_text())
    assert (queue(slurm, "detached"), queue(slurm, "perturb_train")) == (job, child)
    sh(root, "scancel", job, **slurm)
    wait_until(lambda: not queue(slurm, "detached,perturb_train"))


def test_a_training_is_continued_after_its_time_limit_to_the_same_result(
    finished: Finished, tmp_path: Path, slurm: dict[str, str]
) -> None:
    roots = [
        Path(shutil.copytree(finished.root, tmp_path / name, symlinks=True)) for name in ("whole", "ended")
    ]
    options = ("--stage", "9", "--stop_stage", "9", "--kd_config", "conf/kl.yaml")
    options += ("--student_args", "--max_epoch 4", "--student_tag", "s")
    exp = Path("exp/asr_s_max_epoch4")
    quick = {"ESPNET_KD_FORK_SERVER": fork_server.start()}
    plain = sh(roots[0], "./run.sh", *options, "--python", str(QUICK_PYTHON), **quick)
    assert plain.returncode == 0, plain.stderr
    python = script(roots[1] / "python", STANDS_STILL.format(python=QUICK_PYTHON, exp=exp))
    words = ("./run.sh", *options, "--python", str(python))
    running = start(roots[1], {**slurm, **quick, "cmd_backend": "slurm"}, *words)
    wait_until(lambda: (roots[1] / "stood_still").exists() or running.poll() is not None)
    job = queue(slurm, exp.name)
    assert sh(tmp_path, "scontrol", "update", f"jobid={job}", "EndTime=now", **slurm).returncode == 0
    errors = running.communicate(timeout=900)[1]
    assert running.returncode == 0, errors
    said = (roots[1] / exp / "launch.log").read_text()
    assert f"slurm.sh: job {job} ({exp}/train.log) ended (TIMEOUT); it is submitted again" in said
    assert "3/4epoch started" in (roots[1] / exp / "train.log").read_text()
    assert "1/4epoch started" in (roots[1] / exp / "train.1.log").read_text()
    names = {p.name for p in (roots[0] / exp).glob("*.pth")}
    assert names == {p.name for p in (roots[1] / exp).glob("*.pth")} and "valid.acc.ave.pth" in names
    for name in names - {"checkpoint.pth"}:
        one, two = (torch.load(root / exp / name, weights_only=True) for root in roots)
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one), name


def test_pseudo_labels_by_workers_that_are_jobs(
    finished: Finished, tmp_path: Path, slurm: dict[str, str]
) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "kd1", symlinks=True))
    (root / "conf/cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
    words = (sys.executable, "-m", "espnet_kd", "pseudo-label", "--teacher", str(TEACHER))
    words += ("--data", "dump/raw/test")
    places = {"jobs": ("--cluster", "conf/cluster.yaml"), "here": ("--workers", "1")}
    for name, where in places.items():
        command = (*words, "--dst", name, "--shards", "2", "--inference_config", "conf/decode.yaml", *where)
        result = sh(root, *command, **slurm)
        assert result.returncode == 0, result.stderr
    assert list((root / "exp/dask").glob("*.out")), "Dask's workers were jobs"
    texts = {name: (root / name / "text").read_bytes() for name in places}
    assert texts["jobs"] == texts["here"] and texts["jobs"]


def test_all_stages_as_jobs(finished: Finished, whole: tuple[Path, subprocess.Popen[str]]) -> None:
    root, process = whole
    assert process.wait(1800) == 0, (root / "output").read_text()
    output = (root / "output").read_text()
    assert re.findall(r"stage (\d+): took", output) == [str(n) for n in range(1, 13)]
    jobs = {p.name.removesuffix(".sh") for p in (root / ".slurm").glob("*.sh")}
    prepared = ("perturb_train", "format_train_sp", "lengths_dev", "tokens_char")
    assert {f"exp@log@{name}" for name in prepared} <= jobs
    assert {f"{TEACHER}@train".replace("/", "@"), "exp@asr_student_stored_raw_char_sp@train"} <= jobs
    assert len([name for name in jobs if name.endswith("asr_inference.JOB")]) == 4
    assert list((root / "exp/dask").glob("*.out")), "Dask's workers were jobs"
    assert (root / "exp/targets/manifest.json").exists()
    assert contents(root / "dump") == contents(finished.root / "dump")
    path = TEACHER / "valid.acc.ave.pth"
    one, two = (torch.load(r / path, weights_only=True) for r in (root, finished.root))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    results = (root / "RESULTS.md").read_text()
    assert "## test" in results and "cmd_backend" not in results
