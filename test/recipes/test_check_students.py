"""What kd.sh hands to `espnet-kd check` before it trains teachers or labels speech."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shell import TEMPLATE, sh

FIRST = "<--generation><1>"
SCRIPT = """
set -euo pipefail
raw=dump/raw text_options=() fs=16k valid_set=dev audio_type=sound python=fake
. utils/training.sh
is_to_run() { :; }
need() { [ "$*" = "5 tokens" ]; }
error() { echo "error: $*"; exit 1; }
fake() { printf '<%s>' "${@:4}"; echo; }
current_generation=1
students_checked= labelling= asr_task=asr token_list=tokens student_config=s.yaml student_args="--seed 2"
kd_configs=(a.yaml b.yaml) teacher_config= teacher_configs=() teacher_args="--seed 3" teachers=()
"""


@pytest.mark.parametrize(
    ("change", "end"),
    [
        ("", ""),
        (
            "teacher_config='t.yaml u.yaml' teacher_configs=(t.yaml u.yaml) teachers=(exp/t exp/u)",
            f"{FIRST}<--teacher><exp/t><exp/u><--teacher_config><t.yaml><u.yaml><--teacher_args=--seed 3>",
        ),
        ("labelling=yes teachers=('exp/a teacher')", f"<--pseudo_labels>{FIRST}<--teacher><exp/a teacher>"),
    ],
)
def test_each_phase_is_checked_with_the_teachers(change: str, end: str) -> None:
    result = sh(TEMPLATE, "bash", "-c", f"{SCRIPT}{change}\ncheck_students; check_students")
    assert result.returncode == 0, result.stderr
    common = "<--task><asr><--config><s.yaml><{}.yaml><--token_list><tokens><--args=--seed 2{}>"
    later = " --init_param the_phase_before"
    assert result.stdout == f"{common.format('a', '')}{end}\n{common.format('b', later)}{end}\n"


def test_the_student_alone_is_named_and_trained_without_options_of_the_distillation(tmp_path: Path) -> None:
    """It would be refused, after the teachers are trained, or not be the student alone."""
    (tmp_path / "kd.yaml").write_text("scheduled_sampling: {probability: 0.2}")
    words = f"""
set -euo pipefail
python={sys.executable} labelling= teachers=() students=() unlabelled=()
student_alone=true student_tag= student_exp=
student_config=s.yaml student_args="--seed 2 --criteria ctc.k=1 --scheduled_sampling probability.begin=9"
kd_config={tmp_path}/kd.yaml kd_configs=("{tmp_path}/kd.yaml")
exp_name() {{ echo "<${{*:1:2}}>"; }}
student_of() {{ exp_name "${{student_config}}" "${{student_args}}"; }}
. utils/generations.sh
eval "$(sed -n '/^train_alone()/,/^}}/p' utils/training.sh)"
train() {{ echo "$*"; }}
select_generation 1
train_alone
"""
    result = sh(TEMPLATE, "bash", "-c", words)
    assert result.stdout == "student <s.yaml --seed 2> s.yaml --seed 2 \n", result.stderr


TRAIN = """
bpemodel=none nlsyms_txt=none feats_normalize=utterance_mvn not_default=() mixed= unlabelled=() student_exp=
current_generation=1 num_splits_asr=1 run_line=run config_ngpu=0 ngpu=0 token_type=char train=train
tokens=char lm_stats=lm lm_texts=(text) lm_dev_text=text lm_exp=exp/lm lm_args= lm_tag= lm_config=lm.yaml
num_splits_lm=1
lock() { :; }; log() { :; }; need() { :; }; launch() { echo trains; }
fake() { [ "$3" != contents ] || cat speech; }
statistics_for() { echo stats; }
lm_is_trained_here() { :; }; compute_perplexity() { :; }
eval "$(sed -n '/^lm_inputs()/p; /^train_lm()/,/^}/p' utils/language_model.sh)"
cd "${place}"
"""


def test_a_training_takes_no_statistics_of_other_data(tmp_path: Path) -> None:
    """They name the utterances that it reads: with those of a part of the data it would read that part."""
    for name in ("train", "dev"):
        (tmp_path / "dump/raw" / name).mkdir(parents=True)
        for table in ("wav.scp", "utt2num_samples", "text"):
            (tmp_path / "dump/raw" / name / table).write_text("a 1\n")
    for name in ("tokens", "speech", "text"):
        (tmp_path / name).write_text("a\n")

    def run(words: str) -> str:
        return sh(TEMPLATE, "bash", "-c", f"place={tmp_path}{SCRIPT}{TRAIN}{words}").stdout

    train, train_lm = "train student exp/s s.yaml '' ''", "train_lm"
    assert run(train) == run(train_lm) == "trains\n"  # of a stock recipe: there is no record
    run("mkdir stats lm; statistics_inputs > stats/inputs; lm_inputs > lm/inputs")
    assert run(train) == run(train_lm) == "trains\n"
    (tmp_path / "dump/raw/train/wav.scp").write_text("a 1\nb 1\n")
    (tmp_path / "text").write_text("a\nb\n")
    assert run(train).startswith("error: stats is of other data or tokens: run stage 6 again, and keep")
    assert run(train_lm).startswith("error: lm is of other data or tokens: run stage 6 again, and keep")


def test_tables_of_speech_alone_are_divided_as_well(tmp_path: Path) -> None:
    """Libri-Light has millions of utterances: with all tables in memory, each process takes gigabytes."""
    for name in ("train", "dev"):
        (tmp_path / "dump/raw" / name).mkdir(parents=True)
        for table in ("wav.scp", "utt2num_samples", "text"):
            (tmp_path / "dump/raw" / name / table).write_text("a 1\n")
    stubs = """
speech_only() { printf '%s\n' --data exp/s/speech/wav.scp,speech,sound --shape exp/s/speech/utt2num_samples; }
splits_of() { [ "$1" != exp/s/speech/wav.scp ] || echo 3; }
in_parts() { echo "in_parts $*"; }; launch() { echo "$*"; }
num_splits_asr=auto
train student exp/s s.yaml '' '' kd.yaml
"""
    result = sh(TEMPLATE, "bash", "-c", f"place={tmp_path}{SCRIPT}{TRAIN}{stubs}")
    divided, launched = result.stdout.splitlines()
    assert divided == "in_parts 3 exp/s/speech exp/s/speech/wav.scp exp/s/speech/utt2num_samples"
    expected = (
        "--data exp/s/speech/splits3/wav.scp,speech,sound --shape exp/s/speech/splits3/utt2num_samples "
        "--multiple_iterator true --resume true"
    )
    assert f" {expected} " in launched


def test_a_student_is_not_trained_on_labels_of_another_teacher(tmp_path: Path) -> None:
    """With two --expdir, or another --teacher_exp, two students can have one directory of labels."""
    (tmp_path / "mix.json").write_text('{"teacher": "exp/\\u00e9"}')
    stubs = f"""
error() {{ echo "error: $*"; exit 1; }}
python={sys.executable} mixed={tmp_path}
. utils/unlabelled.sh
find_labeller() {{ dir=$owner/pseudo_label_tag; }}
"""
    same, other = (
        sh(TEMPLATE, "bash", "-c", f"{stubs}owner={owner}; check_labels; echo trains").stdout
        for owner in ("exp/\u00e9", "exp/b")
    )
    assert same == "trains\n"
    assert other.startswith(f"error: {tmp_path} has labels of exp/\u00e9, not of exp/b: run stage 8 again")


def test_transcripts_of_unlabelled_speech_drop_no_utterance(tmp_path: Path) -> None:
    """They only measure the pseudo-labels, and an utterance without words may have an empty one."""
    for name in ("with", "without"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data/with/text").touch()
    stubs = f"""
set -eu
need() {{ :; }}
compute() {{ echo "$6 $7 ${{*: -1}}"; }}
. utils/unlabelled.sh
cd {tmp_path}
unlabelled=(with without) train=train raw=raw python=python fs=16k train_cmd=run
min_wav_duration=0 max_wav_duration=1
filter_unlabelled
"""
    found = sh(TEMPLATE, "bash", "-c", stubs).stdout.splitlines()
    assert found == ["lengths --keep_empty raw/with", "lengths --unlabelled raw/without"]


def test_copies_of_unlabelled_speech_do_not_replace_those_of_the_training_set() -> None:
    """With other speeds stage 2 would write data/train_sp again, and the training lose copies silently."""
    stubs = """
set -eu
need() { :; }
error() { echo "error: $*"; exit 1; }
compute() { echo "${*: -1}"; }
. utils/unlabelled.sh
unlabelled_names=(train more) train=train_sp speed_perturb_factors="0.9 1.0" train_cmd=run python=python
unlabelled_speeds="0.9 1.0"; perturb_unlabelled
unlabelled_speeds="1.0"; perturb_unlabelled
"""
    same, other = sh(TEMPLATE, "bash", "-c", stubs).stdout.splitlines()
    assert same == "data/more_sp" and other.startswith("error: --unlabelled_speeds '1.0' would replace")


def needs_dump(directory: Path, factors: str, sets: str) -> subprocess.CompletedProcess[str]:
    """Check the dumps of these sets before stage 6, and that of the training set once more."""
    stubs = f"""
set -euo pipefail
log() {{ echo "$*"; }}
. utils/files.sh
cd {directory}
raw=dump/raw sp=_sp train=train_sp train_set=train valid_set=dev number=6 speed_perturb_factors="{factors}"
needs_dump {sets}
needs_dump train_sp
"""
    return sh(TEMPLATE, "bash", "-c", stubs)


def test_data_that_were_made_again_without_what_follows_are_named(tmp_path: Path) -> None:
    """Stage 1 and then stage 6: the training would take the old transcripts without a word."""

    def write(second: int, place: str, text: str) -> None:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for name in ("wav.scp", "text"):
            (tmp_path / place / name).write_text(text)
            os.utime(tmp_path / place / name, (second, second))

    both = "sp0.9-u A\nu A\n"
    write(0, "data/train", "u A\n")
    for second, place in enumerate(("data/train_sp", "dump/raw/org/train_sp", "dump/raw/train_sp"), 1):
        write(second, place, both)
    write(1, "data/test", "t B\n")
    write(2, "dump/raw/test", "t B\n")

    def warnings() -> list[str]:
        result = needs_dump(tmp_path, "0.9 1.0", "train_sp test")
        assert result.returncode == 0, result.stderr
        return [line.split(": ")[1] for line in result.stderr.splitlines()]

    why = "and has other transcripts"
    write(9, "data/train", "u A\n")
    write(9, "data/test", "t B\n")
    assert warnings() == []  # made again, but the same
    write(9, "data/train", "u AA\n")
    assert warnings() == [f"data/train_sp is older than data/train/text {why}"]
    write(10, "data/train_sp", both.replace("A", "AA"))
    assert warnings() == [f"dump/raw/org/train_sp is older than data/train_sp/text {why}"]
    write(10, "data/test", "t BB\n")
    assert warnings()[-1] == f"dump/raw/test is older than data/test/text {why}"


@pytest.mark.parametrize(
    ("factors", "right"), [("0.90 1.0  1.1", True), ("0.9 1", False), ("0.8 1 1.2", False)]
)
def test_copies_at_other_speeds_than_those_of_the_command_are_named(
    tmp_path: Path, factors: str, right: bool
) -> None:
    """With --stage 3 or 6 and other speeds the training would take the old copies without a word."""
    for place in ("data/train_sp", "dump/raw/train_sp"):
        (tmp_path / place).mkdir(parents=True)
        for name in ("wav.scp", "text"):
            (tmp_path / place / name).touch()
    (tmp_path / "data/train_sp/utt2speed").write_text("sp0.9-u 0.9\nsp1.1-u 1.1\n")
    result = needs_dump(tmp_path, factors, "train_sp")
    assert result.returncode == 0
    warning = (
        "warning: the copies in data/train_sp are at the speeds 0.9 1.1, not as --speed_perturb_factors "
        f"'{factors}' has them: run stage 2 and those behind it\n"
    )
    assert result.stderr == ("" if right else warning)


def test_utterances_that_are_trained_on_and_tested_are_counted(tmp_path: Path) -> None:
    for name, ids in {"train_sp": "abc", "dev": "xy", "test": "bcz", "more": "yz"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "wav.scp").write_text("".join(f"{u} {u}.flac\n" for u in ids))
    stubs = f"""
set -euo pipefail
log() {{ echo "$*"; }}
. utils/files.sh
raw={tmp_path} train=train_sp evaluated=(dev test gone)
unlabelled=()
warn_of_overlap
unlabelled=(more test)
warn_of_overlap
"""
    result = sh(TEMPLATE, "bash", "-c", stubs)
    what = ", which is trained on, has too"
    counts = [line.split(".")[0].replace(what, "").split(" of ")[1] for line in result.stderr.splitlines()]
    of_train = "test that train_sp: 2"
    assert counts == [of_train, "dev that more: 1", of_train, "test that more: 1"]


@pytest.mark.parametrize(
    ("teacher", "written"),
    [("exp: espnet/owsm", True), ("hf: openai/whisper-tiny", True), ("my_kind: a", True), (None, False)],
)
def test_stage_8_writes_the_targets_of_a_teacher_that_only_the_configuration_names(
    tmp_path: Path, teacher: str | None, written: bool
) -> None:
    (tmp_path / "kd.yaml").write_text(f"teacher:\n    {teacher}\n    store: s\n" if teacher else "seed: 1\n")
    words = """
set -euo pipefail
eval "$(sed -n '/^stage_8()/,/^}/p' kd.sh)"
needs_teachers() { :; }; needs_dump() { :; }; log() { :; }; teachers_together() { :; }
write_targets() { echo written; }
teachers=() valid_set=dev mixed=
"""
    result = sh(TEMPLATE, "bash", "-c", f"{words}\nkd_configs=({tmp_path}/kd.yaml)\nstage_8")
    assert result.stdout == "written\n" * written, result.stderr
