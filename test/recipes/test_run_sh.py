"""utils/run.sh and utils/once.sh: jobs on this machine."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from shell import TEMPLATE, environment, sh

RUN = str(TEMPLATE / "utils" / "run.sh")
ONCE = str(TEMPLATE / "utils" / "once.sh")


def test_the_number_of_a_job_stands_in_its_log_and_arguments(tmp_path: Path) -> None:
    result = sh(tmp_path, RUN, "JOB=2:3", "log dir/a.JOB.log", "echo", "part JOB of $HOME", "JOB/JOB")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    for job in "23":
        lines = (tmp_path / "log dir" / f"a.{job}.log").read_text().splitlines()
        assert lines[2] == f"part {job} of $HOME {job}/{job}"
        assert lines[-1] == "# ended with status 0"


def test_a_single_command_with_the_options_of_cluster_runners(tmp_path: Path) -> None:
    options = ["--gpu", "1", "--mem", "8G", "--num_threads", "2", "--name", "exp/x"]
    assert sh(tmp_path, RUN, *options, "x.log", "echo", "JOB").returncode == 0
    assert "JOB" in (tmp_path / "x.log").read_text().splitlines()


@pytest.mark.parametrize(
    ("options", "visible", "taken"),
    [
        (["--gpu", "1", "JOB=2:6"], None, ["0", "1", "2", "0", "1"]),  # every GPU of the machine
        (["--gpu", "1", "JOB=2:6"], "3,5", ["3", "5", "3", "5", "3"]),
        (["--gpu", "1", "JOB=2:6"], "", [""] * 5),  # none
        (["--gpu", "0", "JOB=2:6"], "3,5", ["3,5"] * 5),
        (["--gpu", "1"], "3,5", ["3,5"]),  # a training
    ],
)
def test_the_jobs_of_an_array_take_the_gpus_in_turn(
    tmp_path: Path, options: list[str], visible: str | None, taken: list[str]
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    env = environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    env.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    command = [RUN, *options, "a.JOB.log", "bash", "-c", 'echo "<${CUDA_VISIBLE_DEVICES-every}>"']
    assert subprocess.run(command, cwd=tmp_path, env=env).returncode == 0
    logs = [f"a.{n}.log" for n in range(2, 7)] if len(taken) > 1 else ["a.JOB.log"]
    assert [(tmp_path / log).read_text().splitlines()[2] for log in logs] == [f"<{gpu}>" for gpu in taken]


def test_a_failed_job_is_named_and_its_end_shown(tmp_path: Path) -> None:
    result = sh(tmp_path, RUN, "JOB=1:3", "a.JOB.log", "bash", "-c", "echo job JOB; [ JOB != 2 ] || exit 7")
    assert result.returncode == 1
    assert (
        "1 of 3 jobs failed" in result.stderr
        and "a.2.log" in result.stderr
        and "  | job 2\n" in result.stderr
    )
    assert (tmp_path / "a.2.log").read_text().endswith("# ended with status 7\n")
    assert (tmp_path / "a.3.log").read_text().endswith("# ended with status 0\n")


def test_max_jobs_run_limits_how_many_run_at_once(tmp_path: Path) -> None:
    # the first job ends while the others are being started
    job = "[ JOB != 1 ] || exit 0; touch on.JOB; sleep .3; ls on.* | wc -l > seen.JOB; rm on.JOB"
    result = sh(tmp_path, RUN, "--max_jobs_run", "4", "JOB=1:10", "a.JOB.log", "bash", "-c", job)
    assert result.returncode == 0
    seen = [int((tmp_path / f"seen.{n}").read_text()) for n in range(2, 11)]
    assert 2 <= max(seen) <= 4


def test_jobs_are_parallel(tmp_path: Path) -> None:
    # each waits for the other's file
    job = (
        "touch on.JOB; for i in $(seq 500); do [ -e on.1 ] && [ -e on.2 ] && exit 0; sleep .02; done; exit 1"
    )
    assert sh(tmp_path, RUN, "JOB=1:2", "a.JOB.log", "bash", "-c", job).returncode == 0


def test_ctrl_c_ends_the_jobs(tmp_path: Path) -> None:
    job = "echo $$ > pid.JOB; exec sleep 600"
    process = subprocess.Popen(
        [RUN, "JOB=1:2", "a.JOB.log", "bash", "-c", job],
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
        # A process that was started in the background ignores SIGINT, which a shell cannot undo by a trap.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    files = [tmp_path / "pid.1", tmp_path / "pid.2"]
    while not all(f.exists() and f.read_text() for f in files):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    for file in files:
        _wait_for_end(int(file.read_text()))


def test_mistakes_of_the_caller(tmp_path: Path) -> None:
    assert "usage: run.sh" in sh(tmp_path, RUN, "x.log").stderr
    assert "does not contain JOB" in sh(tmp_path, RUN, "JOB=1:2", "x.log", "echo").stderr
    assert "unknown option --num_nodes" in sh(tmp_path, RUN, "--num_nodes", "2", "x.log", "echo").stderr


def test_once_does_it_once_and_again_after_a_failure(tmp_path: Path) -> None:
    command = [ONCE, "done.1", "bash", "-c", "echo >> count; [ -e ready ]"]
    assert sh(tmp_path, *command).returncode == 1
    (tmp_path / "ready").touch()
    for _ in range(2):
        assert sh(tmp_path, *command).returncode == 0
    assert (tmp_path / "count").read_text() == "\n\n"


def _wait_for_end(pid: int) -> None:
    for _ in range(1000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} lives on")
