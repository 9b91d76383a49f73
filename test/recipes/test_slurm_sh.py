"""utils/slurm.sh against a stand-in for sbatch and srun."""

import shutil
import sys
from pathlib import Path

import pytest
from shell import TEMPLATE, environment, script, sh

SLURM = str(TEMPLATE / "utils" / "slurm.sh")
# Runs the script once, or once a task of --array=A-B[%M]; notes its own options, and what squeue is to say.
SBATCH = r"""#!/usr/bin/env bash
[ -z "${refuse-}" ] || { echo "sbatch: error: no such partition" >&2; exit 1; }
printf '%s\n' "$@" > sbatch.options
first=N/A; last=N/A
for option; do
    [[ ${option} =~ ^--array=([0-9]+)-([0-9]+) ]] && first=${BASH_REMATCH[1]} && last=${BASH_REMATCH[2]}
done
rm -f squeue.lines
for task in $([ "${first}" = N/A ] && echo N/A || seq "${first}" "${last}"); do
    if [ "${task}" != "${lost_task-}" ]; then
        state=COMPLETED
        (cd / && SLURM_ARRAY_TASK_ID=${task} bash "${!#}") > /dev/null 2>&1 || state=FAILED
    fi
    echo "${task}|${state_of_jobs:-${state}}|None" >> squeue.lines
done
echo x >> jobs
echo 7
"""
SQUEUE = """#!/usr/bin/env bash
[[ $* != *--jobs=7* ]] || cat squeue.lines
"""
SRUN = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" > srun.options\n'


@pytest.fixture()
def cluster(tmp_path: Path) -> dict[str, str]:
    """Environment in which there is a cluster of this machine."""
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("srun", SRUN), ("scancel", "#!/bin/sh\n")):
        script(tmp_path / "bin" / name, text)
    return {"PATH": f"{tmp_path / 'bin'}:{environment()['PATH']}"}


def submitted(tmp_path: Path) -> list[str]:
    """The words for sbatch of the last job."""
    return (tmp_path / "sbatch.options").read_text().splitlines()


def test_an_array_of_jobs(tmp_path: Path, cluster: dict[str, str]) -> None:
    options = ["--gpu", "1", "--mem", "8G", "--num_threads", "2", "--max-jobs-run", "3", "--name", "exp/a"]
    result = sh(
        tmp_path, SLURM, *options, "JOB=2:4", "log/a.JOB.log", "echo", "part JOB of 'it'", "$HOME", **cluster
    )
    assert result.returncode == 0, result.stderr
    for job in "234":
        lines = (tmp_path / "log" / f"a.{job}.log").read_text().splitlines()
        assert lines[2] == f"part {job} of 'it' $HOME" and lines[-1] == "# ended with status 0"
    given = (tmp_path / "sbatch.options").read_text().split("\n")
    options = {"--gres=gpu:1", "--cpus-per-gpu=4", "--mem-per-cpu=8G", "--array=2-4%3", "--job-name=exp/a"}
    assert options <= set(given) and "--cpus-per-task=2" not in given


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
    script(tmp_path / "bin" / "sleep", "#!/bin/sh\n")  # it waits half a minute for the log
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
    assert {"--nodes=3", "--gres=gpu:2", "--cpus-per-gpu=4", "--ntasks-per-node=1"} <= set(given)
    assert (tmp_path / "srun.options").read_text().split("\n")[:4] == [
        "--export=ALL",
        "train.py",
        "--lr",
        "1",
    ]


CONFIGURATION = """# as a group has it
command sbatch --export=PATH
option time=* --time $0   # a limit
default gpu=0
option gpu=0 -p cpu
option gpu=* -p gpu --gres=gpu:$0 -c $0
option gpu=8 -p whole --exclusive
option kind=decode --qos=short
default time=4:00:00
"""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--export=PATH", "--time", "4:00:00", "-p", "cpu"]),
        (["--gpu", "2", "--num_threads", "9"], ["--time", "4:00:00", "-p", "gpu", "--gres=gpu:2", "-c", "2"]),
        (["--gpu", "8"], ["--time", "4:00:00", "-p", "whole", "--exclusive"]),
        (["--kind", "decode", "--time", "5"], ["--time", "5", "-p", "cpu", "--qos=short"]),
        (["--kind", "train"], ["--time", "4:00:00", "-p", "cpu"]),
    ],
)
def test_the_recipes_configuration_says_what_slurm_gives(
    tmp_path: Path, cluster: dict[str, str], options: list[str], words: list[str]
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.conf").write_text(CONFIGURATION + "option num_threads=* -c $0\n")
    assert sh(tmp_path, SLURM, *options, "x.log", "true", **cluster).returncode == 0
    given = [w for w in submitted(tmp_path) if not w.startswith(("--parsable", "--output", "/"))]
    assert given == (["--export=PATH", *words] if words[0] != "--export=PATH" else words)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (CONFIGURATION, ["--mem", "8G"], "x.conf does not describe --mem: add a line such as 'option mem=*"),
        ("command sbatch\noptions gpu=0\n", [], "x.conf: a line starts with 'options'"),
        ("default gpu=0\n", [], "x.conf has no line 'command sbatch'"),
    ],
)
def test_a_wrong_configuration_is_one_line(
    tmp_path: Path, cluster: dict[str, str], text: str, options: list[str], message: str
) -> None:
    (tmp_path / "x.conf").write_text(text)
    result = sh(tmp_path, SLURM, "--config", "x.conf", *options, "x.log", "true", **cluster)
    assert result.returncode == 1 and f"slurm.sh: error: {message}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_slurm_refuses_is_shown_with_the_configuration(tmp_path: Path, cluster: dict[str, str]) -> None:
    result = sh(tmp_path, SLURM, "--time", "9", "x.log", "true", **cluster, refuse="yes")
    assert result.returncode == 1
    assert "no such partition" in result.stderr and "--time=9: correct " in result.stderr


def test_without_slurm(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("bash", "readlink", "dirname", "cat", "id", "awk"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    result = sh(tmp_path, SLURM, "x.log", "true", PATH=str(tmp_path / "bin"))
    assert result.stderr == "slurm.sh: error: there is no Slurm here: squeue is not in the PATH\n"


# A training that makes one checkpoint in each of its first jobs, and dies.
DYING = "n=$(cat epoch || echo 0); [ $n -ge {last} ] || echo $((n + 1)) > epoch; [ $n -ge 3 ]"


@pytest.mark.parametrize(("last", "status", "jobs"), [(3, 0, 4), (1, 1, 3)])
def test_a_training_goes_on_after_its_time_limit_while_it_makes_checkpoints(
    tmp_path: Path, cluster: dict[str, str], last: int, status: int, jobs: int
) -> None:
    command = ["bash", "-c", DYING.format(last=last)]
    limits = {"kd_checkpoint": "epoch", "state_of_jobs": "TIMEOUT"}
    result = sh(tmp_path, SLURM, "--kind", "cuda", "train.log", *command, **cluster, **limits)
    assert (result.returncode, (tmp_path / "jobs").read_text().count("x")) == (status, jobs), result.stderr
    assert len(list(tmp_path.glob("train.*.log"))) == jobs - 1, "logs of earlier jobs are kept"
    if status:
        assert "without a new epoch: make epochs shorter by num_iters_per_epoch, or " in result.stderr


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("TIMEOUT", "job 7 reached its time limit: raise it by the line 'option kind=decode --time="),
        ("CANCELLED", "job 7 was cancelled"),
        ("OUT_OF_MEMORY", "job 7 needs more memory: raise it in "),
        ("NODE_FAIL", "job 7 lost its node (NODE_FAIL): repeat the command"),
    ],
)
def test_other_jobs_end_with_the_reason(
    tmp_path: Path, cluster: dict[str, str], state: str, message: str
) -> None:
    result = sh(tmp_path, SLURM, "--kind", "decode", "x.log", "false", **cluster, state_of_jobs=state)
    assert result.returncode == 1 and f"slurm.sh: {message}" in result.stderr
    assert "the log of the first, x.log, ends:" in result.stderr
    assert (tmp_path / "jobs").read_text() == "x\n"
