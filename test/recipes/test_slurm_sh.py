"""utils/slurm.sh against a stand-in for sbatch and srun."""

import sys
from pathlib import Path

import pytest
from shell import TEMPLATE, environment, script, sh

SLURM = str(TEMPLATE / "utils" / "slurm.sh")
# Runs the script once, or once a task of --array=A-B[%M]; notes its own options.
SBATCH = r"""#!/usr/bin/env bash
printf '%s\n' "$@" > sbatch.options
first=0; last=0
for option; do
    [[ ${option} =~ ^--array=([0-9]+)-([0-9]+) ]] && first=${BASH_REMATCH[1]} && last=${BASH_REMATCH[2]}
done
status=0
for ((task = first; task <= last; task++)); do
    [ "${task}" != "${lost_task-}" ] || continue
    (cd / && SLURM_ARRAY_TASK_ID=${task} bash "${OLDPWD}/${!#}") || status=1
done
exit "${status}"
"""
SRUN = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" > srun.options\n'


@pytest.fixture()
def cluster(tmp_path: Path) -> dict[str, str]:
    """Environment in which there is a cluster of this machine."""
    script(tmp_path / "bin" / "sbatch", SBATCH)
    script(tmp_path / "bin" / "srun", SRUN)
    return {"PATH": f"{tmp_path / 'bin'}:{environment()['PATH']}"}


def test_an_array_of_jobs(tmp_path: Path, cluster: dict[str, str]) -> None:
    options = ["--gpu", "1", "--mem", "8G", "--num_threads", "2", "--max_jobs_run", "3", "--name", "exp/a"]
    result = sh(
        tmp_path, SLURM, *options, "JOB=2:4", "log/a.JOB.log", "echo", "part JOB of 'it'", "$HOME", **cluster
    )
    assert result.returncode == 0, result.stderr
    for job in "234":
        lines = (tmp_path / "log" / f"a.{job}.log").read_text().splitlines()
        assert lines[2] == f"part {job} of 'it' $HOME" and lines[-1] == "# ended with status 0"
    given = (tmp_path / "sbatch.options").read_text().split("\n")
    options = {"--wait", "--gres=gpu:1", "--mem=8G", "--cpus-per-task=2", "--array=2-4%3", "--job-name=exp/a"}
    assert options <= set(given)


def test_a_single_job_asks_for_no_array_and_no_gpu(tmp_path: Path, cluster: dict[str, str]) -> None:
    assert sh(tmp_path, SLURM, "--gpu", "0", "x.log", "echo", "JOB", **cluster).returncode == 0
    assert "JOB" in (tmp_path / "x.log").read_text().splitlines()
    assert "--gres" not in (tmp_path / "sbatch.options").read_text()
    assert "--array" not in (tmp_path / "sbatch.options").read_text()


def test_a_failed_job_is_named(tmp_path: Path, cluster: dict[str, str]) -> None:
    job = "echo job JOB; [ JOB != 2 ]"
    result = sh(tmp_path, SLURM, "JOB=1:3", "a.JOB.log", "bash", "-c", job, **cluster)
    assert result.returncode == 1
    assert "a.2.log" in result.stderr and "  | job 2\n" in result.stderr


def test_a_job_that_the_cluster_lost_is_a_failure_in_spite_of_an_old_log(
    tmp_path: Path, cluster: dict[str, str]
) -> None:
    command = [SLURM, "JOB=1:2", "a.JOB.log", "true"]
    assert sh(tmp_path, *command, **cluster).returncode == 0
    result = sh(tmp_path, *command, **cluster, lost_task="2")
    assert result.returncode == 1 and "a.2.log" in result.stderr


def test_espnets_launcher_takes_it_for_slurm(tmp_path: Path, cluster: dict[str, str]) -> None:
    pl = f"{TEMPLATE / 'utils' / 'slurm.pl'} --name exp/x"
    launch = [
        sys.executable,
        "-m",
        "espnet2.bin.launch",
        "--cmd",
        pl,
        "--log",
        "train.log",
        "--ngpu",
        "2",
        "--num_nodes",
        "3",
    ]
    result = sh(
        tmp_path,
        *launch,
        "--init_file_prefix",
        str(tmp_path / "init_"),
        "--",
        "train.py",
        "--lr",
        "1",
        **cluster,
    )
    assert result.returncode == 0, result.stderr
    given = (tmp_path / "sbatch.options").read_text().split("\n")
    assert {"--nodes=3", "--gres=gpu:2", "--cpus-per-task=2"} <= set(given)
    assert (tmp_path / "srun.options").read_text().split("\n")[:4] == [
        "--export=ALL",
        "train.py",
        "--lr",
        "1",
    ]
