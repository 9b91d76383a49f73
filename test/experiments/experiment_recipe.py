"""A recipe whose run.sh only notes its call and leaves what a training leaves."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from espnet_kd.scoring.alignment import Counts, write_score

# It trains while the file hold exists, and fails if fail_NAME does; wrong_NAME has the number of its errors.
RUN_SH = """#!/usr/bin/env bash
set -eu
line=$(printf '%q ' "$0" "$@")
line=${line% }
echo "${line}" >> calls
declare -A option=()
while [ $# -gt 0 ]; do option[${1#--}]=$2; shift 2; done
if [ "${option[stage]}" = 1 ]; then
    [ ! -e fail_data ] || { echo "local/data.sh: error: there is no corpus" >&2; exit 1; }
    exit 0
fi
exp=${option[student_exp]}
name=${exp##*/}
for teacher in ${option[teacher_exp]-}; do
    [ -e "${teacher}/run.json" ] || exit 9
done
mkdir -p "${exp}"
echo "epochs" > "${exp}/train.log"
[ ! -e "fail_${name}" ] || { echo "espnet-kd: error: it went wrong" >&2; exit 1; }
while [ -e hold ]; do sleep 0.02; done
for set in dev test; do
    mkdir -p "${exp}/${option[inference_tag]}/${set}"
    errors=2
    [ ! -e "wrong_${name}" ] || errors=$(cat "wrong_${name}")
    cp "scores/${errors}.json" "${exp}/${option[inference_tag]}/${set}/score.json"
done
printf 'token_list: [a]\\nseed: 1\\n' > "${exp}/config.yaml"
line=${line//\\\\/\\\\\\\\}
took=$((3600 - $(cat trained 2> /dev/null | grep -cx "${name}" || true)))  # a repetition takes less
printf '{"done": true, "command": "%s", "cpu_seconds": %s}' \\
    "${line//\\"/\\\\\\"}" "${took}" > "${exp}/run.json"
echo "${name}" >> trained
echo "${CUDA_VISIBLE_DEVICES-}" >> gpus
"""
PLAN = """
title: Two students
options: {expdir: exp/two, speed_perturb_factors: ""}
seeds: [1, 2]
lengths:
  1x: {max_epoch: 18}
  2x: {max_epoch: 36}
rows:
  Teacher: {options: {student_config: conf/teacher.yaml, speed_perturb_factors: "0.9 1.0"}, seeds: [1]}
  alone: {options: {student_config: conf/student.yaml}, lengths: [1x, 2x]}
  "KL, weight 1":
    like: alone
    teacher: Teacher
    options: {kd_config: conf/kd.yaml}
    args: {criteria: ctc.weight=1}
    seeds: [1]
    lengths: [1x]
  "KL, weight 10": {like: "KL, weight 1", args: {criteria: ctc.weight=10}}
  KL: {best_of: ["KL, weight 1", "KL, weight 10"], lengths: [1x, 2x]}
"""


def write_recipe(root: Path, plan: str = PLAN) -> Path:
    """A recipe with the plan plans/two.yaml."""
    (root / "plans").mkdir(parents=True)
    (root / "plans/two.yaml").write_text(plan)
    (root / "conf").mkdir()
    for name in ("teacher", "student", "kd"):
        (root / f"conf/{name}.yaml").write_text("max_epoch: 1\n")
    (root / "run.sh").write_text(RUN_SH)
    (root / "run.sh").chmod(0o755)
    for errors in range(5):
        counts = Counts(hits=4 - errors, substitutions=errors)
        write_score(root / "scores", {kind: {"utt": counts} for kind in ("wer", "cer")})
        (root / "scores/score.json").rename(root / f"scores/{errors}.json")
    return root


def start(root: Path, *options: str) -> subprocess.Popen[str]:
    """Start `espnet-kd experiments plans/two.yaml`."""
    return subprocess.Popen(
        [sys.executable, "-m", "espnet_kd", "experiments", "plans/two.yaml", *options],
        cwd=root, env={**os.environ}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def experiments(root: Path, *options: str, status: int = 0) -> str:
    """Run it to its end and return what it printed."""
    process = start(root, *options)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == status, output
    return output


def trained(root: Path) -> list[str]:
    """Return the names of directories in the order in which their trainings ended, also of those repeated."""
    file = root / "trained"
    return file.read_text().split() if file.exists() else []


def calls(root: Path) -> list[list[str]]:
    """Return the commands of run.sh, in the order in which they started."""
    return [shlex.split(line) for line in (root / "calls").read_text().splitlines()]


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def record_file(root: Path) -> str:
    """Return what plans/results has of the plan."""
    return (root / "plans/results/two.jsonl").read_text()
