"""--measure true: which models the functions of utils/decoding.sh measure, and how."""

from pathlib import Path

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
python=python decode_cmd=run raw=dump/raw tests=(test other) student=exp/student alone=exp/alone
inference_asr_model=model.pth inference_config=conf/s.yaml inference_tag=s use_streaming=false
teacher_inference_config= teacher_inference_tag=t
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



def test_decoding_again_removes_what_was_measured(tmp_path: Path) -> None:
    """The model has changed, or the options of decoding."""
    decoded = tmp_path / "exp/s/test"
    decoded.mkdir(parents=True)
    for name in ("text", "score.json", "measure.json"):
        (decoded / name).touch()
    stubs = (
        f"raw={tmp_path} inference_nj=1 gpu_inference=false lm_name=; "
        "find_valid_parts() { :; }; to_decode() { echo test; }; fits_lm() { :; }; lock() { :; }; "
        "cksum() { :; }; wc() { echo 1; }; smallest() { echo 1; }; unchanged() { false; }; python=true; "
        "inference_config=; split_keys() { exit 0; }"  # after which it decodes
    )
    (tmp_path / "test").mkdir()
    (tmp_path / "test/wav.scp").touch()
    result = sh(TEMPLATE, "bash", "-c", f"{SCRIPT}{stubs}\ndecode {tmp_path / 'exp'} test")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in decoded.iterdir()] == ["logdir"]
