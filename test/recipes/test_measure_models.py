"""--measure true and --export_formats: which models utils/decoding.sh measures and exports, and how."""

import hashlib
import os
import shutil
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
python=python decode_cmd=run raw=dump/raw tests=(test other) student=exp/student alone=exp/alone metric=wer
inference_asr_model=model.pth inference_config=conf/s.yaml inference_tag=s use_streaming=false
teacher_inference_config= teacher_inference_tag=t
lm_options=() inference_args="--beam_size 2" current_generation=1 formats=() measure_args=
"""
# An export that writes a file, and that fails for a model called bad.
EXPORT = """
formats=(onnx int8) export_args="--tolerance 1" valid_set=dev decode_cmd=runner python=python
lock() { :; }
unchanged() { [ ! -e "$1" ] || [ "$(< "$1")" = "$2" ]; }
runner() {
    [[ $* =~ --out\\ ([^ ]*) ]]
    echo "${*:2}" >> calls
    if [[ $* = *bad* ]]; then echo "espnet-kd: error: its encoder cannot be exported" > "$1"; return 1; fi
    mkdir -p "${BASH_REMATCH[1]}"
    touch "${BASH_REMATCH[1]}"/{tokens.txt,export.json}
    printf '%s\\n' "# python" "${BASH_REMATCH[1]}: 1 MB" "  torch  WER 1 %" "# ended with status 0" > "$1"
}
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
            "use_streaming=true lm_options=(--lm_file 'exp/l m') measure_args='--rounds 1'",
            ["none", "none", "conf/s.yaml", "conf/s.yaml"],
            ["t", "t", "s", "s"],
            [r"--beam_size 2 --lm_file exp/l\ m ", "--stream", "--rounds", "1"],
        ),
        (
            "metric=cer", ["none", "none", "conf/s.yaml", "conf/s.yaml"], ["t", "t", "s", "s"],
            ["--beam_size 2", "--metric", "cer"],
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


def test_a_student_alone_that_is_the_teacher_is_measured_once() -> None:
    change = "alone=exp/other inference_tag=t; "
    assert words(change)[:8] == [*COMMAND[:6], COMMAND[7], "--data"]
    assert words("alone=exp/other")[:7] == [*COMMAND[:6], "exp/other"]  # under a tag of its own


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
    for name in ("test_part", "test2"):
        (decoded.with_name(name)).mkdir()
        (decoded.with_name(name) / "score.json").touch()
    stubs = (
        f"raw={tmp_path} inference_nj=1 gpu_inference=false lm_name=; "
        "find_valid_parts() { :; }; to_decode() { echo test; }; fits_lm() { :; }; lock() { :; }; "
        "cksum() { :; }; wc() { echo 1; }; smallest() { echo 1; }; unchanged() { false; }; python=true; "
        "inference_config=; result_sets='test_part test_all test2'; "
        "split_keys() { exit 0; }"  # after which it decodes
    )
    (tmp_path / "test").mkdir()
    (tmp_path / "test/wav.scp").touch()
    result = sh(TEMPLATE, "bash", "-c", f"{SCRIPT}{stubs}\ndecode {tmp_path / 'exp'} test")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in decoded.iterdir()] == ["logdir"]
    left = [path.parent.name for path in decoded.parent.glob("*/score.json")]
    assert left == ["test2"]  # that of test_part, which the scorer of the corpus made, is of the old text


def test_another_experiment_that_cannot_be_scored_is_named(tmp_path: Path) -> None:
    """The first of its two sets fails; bash goes on after a failure that a caller handles."""
    for name in ("dev", "test"):
        (tmp_path / "exp/other/s" / name).mkdir(parents=True)
        (tmp_path / "exp/other/s" / name / "text").touch()
    stubs = "expdir=exp nlsyms_txt=none cleaner=none evaluated=(dev test); need() { :; }; python=fails; "
    stubs += 'fails() { [[ $* != *dev/text* ]] || return 1; }; cd "${place}"; score_others; echo goes on'
    result = sh(TEMPLATE, "bash", "-c", f"place={tmp_path}; {SCRIPT}{stubs}")
    assert result.stdout == "other:\ngoes on\n"
    assert result.stderr == "warning: exp/other/s could not be scored\n"


OTHERS = """
expdir=exp nlsyms_txt=none cleaner=none evaluated=(dev test) tests=(test)
need() { :; }
cd "${place}"
"""


def decoded(place: Path, *directories: str) -> None:
    """Sets that were decoded at the second 1 and scored at the second 3, by references of the second 2."""
    files = {f"dump/raw/{name}/text": 2 for name in ("dev", "test")}
    for directory in directories:
        for name in ("test",) if "onnx" in directory else ("dev", "test"):
            files |= {f"{directory}/{name}/text": 1, f"{directory}/{name}/score.json": 3}
    for name, seconds in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
        os.utime(place / name, (seconds, seconds))


def test_what_was_scored_by_older_references_is_scored_again(tmp_path: Path) -> None:
    """As after a correction of data/test/text: other students, teachers and graphs have rows, too."""
    decoded(tmp_path, "exp/other/s", "exp/a teacher/t", "exp/other/onnx/s", "exp/part/s")
    shutil.rmtree(tmp_path / "exp/part/s/dev")  # of which dev was not decoded
    (tmp_path / "exp/other/onnx/export.json").touch()
    stubs = OTHERS + 'score() { echo "$*"; }; python=true; write_results'
    script = f"place={tmp_path}; {SCRIPT}results_md=R.md dumpdir=dump metric=wer valid_set=dev; {stubs}"
    assert sh(TEMPLATE, "bash", "-c", script).stdout == ""
    os.utime(tmp_path / "dump/raw/test/text", (4, 4))
    found = sh(TEMPLATE, "bash", "-c", script)
    again = ["exp/other test", "exp/part test", "exp/other/onnx test", "exp/a teacher test"]
    assert found.stdout.splitlines() == again


def test_a_score_by_older_references_that_cannot_be_made_again_is_removed(tmp_path: Path) -> None:
    decoded(tmp_path, "exp/other/s")
    os.utime(tmp_path / "dump/raw/test/text", (4, 4))
    script = f"place={tmp_path}; {SCRIPT}{OTHERS}python=false; score_others"
    assert sh(TEMPLATE, "bash", "-c", script).returncode == 0
    assert [path.parent.name for path in tmp_path.glob("exp/*/s/*/score.json")] == ["dev"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two experiments and a development set, in a recipe with the functions of the template."""
    for name in ("exp/good", "exp/bad", "dump/raw/dev", "conf"):
        (tmp_path / name).mkdir(parents=True)
    files = ("exp/good/config.yaml", "exp/good/model.pth", "exp/bad/config.yaml", "exp/bad/model.pth")
    for name in (*files, "dump/raw/dev/wav.scp", "dump/raw/dev/text", "conf/s.yaml"):
        (tmp_path / name).write_text("a\n")
    (tmp_path / "utils").symlink_to(TEMPLATE / "utils")
    return tmp_path


def run(recipe: Path, words: str) -> tuple[str, str]:
    result = sh(recipe, "bash", "-c", f"{SCRIPT}{EXPORT}{words}")
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def test_a_model_is_exported_once_and_again_if_it_has_changed(recipe: Path) -> None:
    both = "export_model exp/good onnx; export_model exp/good int8"
    out, err = run(recipe, both)
    assert out == "".join(f"exp/good/{n}: 1 MB\n  torch  WER 1 %\n" for n in ("onnx", "onnx_int8"))
    assert not err
    common = "--check dump/raw/dev --inference_config conf/s.yaml"
    tail = "--inference_args=--beam_size 2 --tolerance 1"
    start = "python -m espnet_kd export exp/good --checkpoint model.pth --out exp/good"
    assert (recipe / "calls").read_text().splitlines() == [
        f"{start}/onnx {common} {tail}",
        f"{start}/onnx_int8 {common} --int8 {tail}",
    ]
    assert "exp/good/onnx: already exported" in run(recipe, both)[0]
    assert len((recipe / "calls").read_text().splitlines()) == 2
    (recipe / "conf/s.yaml").write_text("a  # a remark\n")
    run(recipe, "export_args='--tolerance 2'; " + both)
    (recipe / "exp/good/model.pth").write_text("b\n")
    run(recipe, both)
    assert len((recipe / "calls").read_text().splitlines()) == 6
    run(recipe, "metric=cer; " + both)
    last = (recipe / "calls").read_text().splitlines()[-2:]
    assert [" --metric cer " in line for line in last] == [True, True]


def test_a_model_that_cannot_be_exported_is_a_line_and_no_row(recipe: Path) -> None:
    (recipe / "exp/bad/onnx").mkdir()
    (recipe / "exp/bad/onnx/export.json").touch()  # of an earlier checkpoint
    out, err = run(recipe, "export_model exp/bad onnx; to_measure exp/bad exp/good; echo ${dirs[*]}")
    assert err == "warning: exp/bad has no row for onnx: its encoder cannot be exported\n"
    assert out == "exp/bad exp/good\n"


def test_a_kill_while_an_old_export_is_removed_does_not_stop_the_next(recipe: Path) -> None:
    again = "export_model exp/good onnx > /dev/null; touch exp/good/onnx/a.onnx; mkdir exp/good/onnx/tag"
    killed = "echo b > exp/good/model.pth; rm() { ls exp/good/onnx; exit; }; export_model exp/good onnx"
    assert run(recipe, f"{again}; {killed}")[0] == "export.json\n"
    assert "1 MB" in run(recipe, "export_model exp/good onnx")[0]


def test_what_the_check_has_refused_is_not_exported_again(recipe: Path) -> None:
    """Until something that it depends on changes; what only the machine lacked is tried again."""
    refused = "--tolerance 0.2 (3 texts differ): nothing is written"
    fails = 'runner() { echo "${*:2}" >> calls; echo "espnet-kd: error: $why" > "$1"; return 1; }; '
    fails += f'why="{refused}"'
    for word, calls in (("", 1), ("", 1), ("export_args=; ", 2), ("why='no space left'; ", 3)):
        err = run(recipe, f"{fails}; {word}export_model exp/good onnx")[1]
        assert len((recipe / "calls").read_text().splitlines()) == calls, word
        assert "warning: exp/good has no row for onnx" in err
    run(recipe, f"{fails}; why='no space left'; export_model exp/good onnx")
    assert len((recipe / "calls").read_text().splitlines()) == 4


def test_an_export_by_hand_stays(recipe: Path) -> None:
    out = recipe / "exp/good/onnx"
    out.mkdir()
    digest = hashlib.sha256((recipe / "exp/good/model.pth").read_bytes()).hexdigest()
    (out / "export.json").write_text(f'  "checkpoint_sha256": "{digest}",')
    (out / "tokens.txt").touch()
    assert "onnx: exported by hand, it stays" in run(recipe, "export_model exp/good onnx")[0]
    assert not (recipe / "calls").exists() and (out / "export.json").stat().st_size
    (recipe / "exp/good/model.pth").write_text("b\n")  # it is of an older checkpoint
    run(recipe, "export_model exp/good onnx")
    assert len((recipe / "calls").read_text().splitlines()) == 1


def test_what_is_exported_is_locked_until_it_is_scored(recipe: Path) -> None:
    stubs = (
        "lock() { echo lock $1; }; score() { echo score $1; }; find_valid_parts() { :; }; valid_parts=(); "
        "to_decode() { echo test; }; unchanged() { :; }; inference_nj=1 lm_name=; python=true; "
        "smallest() { echo 1; }; runner() { mkdir -p exp/good/onnx/s/test; : > $1; "
        "touch exp/good/onnx/{export.json,s/test/text}; }"
    )
    (recipe / "dump/raw/test").mkdir()
    for name in ("wav.scp", "utt2num_samples"):
        (recipe / "dump/raw/test" / name).touch()
    out = run(recipe, f"{stubs}; formats=(onnx); export_models exp/good")[0]
    assert out.splitlines() == [
        "lock exp/good/onnx",
        "exp/good/onnx/s/test: already decoded",
        "score exp/good/onnx",
    ]


@pytest.mark.parametrize(
    "change",
    ["runner() { return 130; }; export_model exp/good onnx", "compute() { return 130; }; measure_models"],
)
def test_ctrl_c_is_no_warning(recipe: Path, change: str) -> None:
    result = sh(recipe, "bash", "-c", f"{SCRIPT}{EXPORT}{change}; echo goes on")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_what_was_exported_is_measured_beside_its_model(recipe: Path) -> None:
    words = "to_measure exp/bad exp/good; echo ${dirs[*]}; echo ${configs[*]}; echo ${names[*]}"
    assert run(recipe, f"export_model exp/good onnx > /dev/null; {words}")[0].splitlines() == [
        "exp/bad exp/good exp/good/onnx",
        "conf/s.yaml conf/s.yaml none",
        "s s s",
    ]


def test_an_exported_model_decodes_by_transcribing(recipe: Path) -> None:
    (recipe / "exp/good/export.json").touch()
    assert run(recipe, "decoding_program exp/good test; echo ${program[*]}")[0] == (
        "transcribe exp/good --data dump/raw/test --key_file exp/good/s/test/logdir/keys.JOB.scp "
        "--out exp/good/s/test/logdir/output.JOB/1best_recog/text\n"
    )
