"""What kd.sh hands to `espnet-kd check` before it trains teachers or labels speech."""

import pytest
from shell import TEMPLATE, sh

SCRIPT = """
set -euo pipefail
raw=dump/raw text_options=() fs=16k valid_set=dev audio_type=sound python=fake
. utils/training.sh
is_to_run() { :; }
need() { [ "$*" = "5 tokens" ]; }
error() { echo "error: $*"; exit 1; }
fake() { printf '<%s>' "${@:4}"; echo; }
students_checked= labelling= asr_task=asr token_list=tokens student_config=s.yaml student_args="--seed 2"
kd_configs=(a.yaml b.yaml) teacher_config= teacher_configs=() teacher_args="--seed 3" teachers=()
"""


@pytest.mark.parametrize(
    ("change", "end"),
    [
        ("", ""),
        (
            "teacher_config='t.yaml u.yaml' teacher_configs=(t.yaml u.yaml) teachers=(exp/t exp/u)",
            "<--teacher><exp/t><exp/u><--teacher_config><t.yaml><u.yaml><--teacher_args=--seed 3>",
        ),
        ("labelling=yes teachers=('exp/a teacher')", "<--pseudo_labels><--teacher><exp/a teacher>"),
    ],
)
def test_each_phase_is_checked_with_the_teachers(change: str, end: str) -> None:
    result = sh(TEMPLATE, "bash", "-c", f"{SCRIPT}{change}\ncheck_students; check_students")
    assert result.returncode == 0, result.stderr
    common = "<--task><asr><--config><s.yaml><{}.yaml><--token_list><tokens><--args=--seed 2{}>"
    later = " --init_param the_phase_before"
    assert result.stdout == f"{common.format('a', '')}{end}\n{common.format('b', later)}{end}\n"
