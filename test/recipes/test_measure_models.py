"""--measure true: which models the functions of utils/decoding.sh measure, and how."""

import pytest
from shell import TEMPLATE, sh

SCRIPT = """
set -euo pipefail
log() { echo "$*"; }
lines() { declare -n to=$1; to=(); [ -z "$2" ] || mapfile -t to <<< "$2"; }
compute() { printf '%s\\n' "${@:3}"; }
. utils/decoding.sh
teacher_dirs() { printf '%s\\n' "exp/a teacher" exp/other; }
peer_dirs() { echo exp/student; }
python=python decode_cmd=run raw=dump/raw tests=(test other) student=exp/student alone=exp/alone use_streaming=false
inference_asr_model=model.pth inference_config=conf/s.yaml inference_tag=s teacher_inference_config= teacher_inference_tag=t
lm_options=() inference_args="--beam_size 2" current_generation=1
"""
COMMAND = ("python", "-m", "espnet_kd", "measure", "exp/a teacher", "exp/other", "exp/alone", "exp/student")


def words(change: str) -> list[str]:
    result = sh(TEMPLATE, "bash", "-c", f"{SCRIPT}{change}\nmeasure_models")
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("change", "configs", "tags", "end"),
    [
        ("", ["none", "none", "conf/s.yaml", "conf/s.yaml"], ["t", "t", "s", "s"], ["--beam_size 2"]),
        ("current_generation=2", ["conf/s.yaml"] * 4, ["s"] * 4, ["--beam_size 2"]),
        (
            "use_streaming=true lm_options=(--lm_file 'exp/l m')",
            ["none", "none", "conf/s.yaml", "conf/s.yaml"],
            ["t", "t", "s", "s"],
            [r"--beam_size 2 --lm_file exp/l\ m ", "--stream"],
        ),
    ],
)
def test_teachers_and_students_are_decoded_as_in_stage_10(
    change: str, configs: list[str], tags: list[str], end: list[str]
) -> None:
    data = ["--data", "dump/raw/test", "--checkpoint", "model.pth"]
    tail = [f"--inference_args={end[0]}", *end[1:]]
    expected = [*COMMAND, *data, "--inference_config", *configs, "--inference_tag", *tags, *tail]
    assert words(change) == expected


def test_a_model_that_cannot_be_measured_does_not_end_the_recipe() -> None:
    result = sh(TEMPLATE, "bash", "-c", f"{SCRIPT}compute() {{ return 1; }}\nmeasure_models\necho goes on")
    assert (result.returncode, result.stdout) == (0, "goes on\n")
    assert result.stderr == "warning: exp/student could not be measured\n"

