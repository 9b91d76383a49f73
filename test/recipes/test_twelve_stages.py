"""All stages on a miniature corpus, and what a second run of them does."""

import fcntl
import json
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from miniature import contents
from shell import Finished, environment, failure, run, sh
from source import ROOT

pytestmark = pytest.mark.slow(seconds=65)

TEACHER = Path("exp/asr_teacher_raw_char_sp")
STUDENT = Path("exp/asr_student_kl_raw_char_sp")
TAG = "decode_asr_model_valid.acc.ave"
KD = ("--kd_config", "conf/kl.yaml")


@pytest.fixture()
def again(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished recipe, to run stages in."""
    return Path(shutil.copytree(finished.root, tmp_path / "kd1", symlinks=True))


def keys(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


def test_every_stage_says_what_it_does_and_how_long_it_took(finished: Finished) -> None:
    lines = finished.output.splitlines()
    heads = [line for line in lines if line.startswith("stage ")]
    assert [h.split(":")[0] for h in heads] == [f"stage {n}" for n in range(1, 13) for _ in range(2)]
    assert "stage 3: format audio into dump/" in heads
    assert all(": took " in line for line in heads[1::2])


def test_statistics_are_those_of_asr_sh(finished: Finished) -> None:
    stats = finished.root / "exp/asr_stats_raw_char_sp"
    vocabulary = (finished.root / "data/token_list/char/tokens.txt").read_text().count("\n")
    for part, data in (("train", "train_sp"), ("valid", "dev")):
        expected = keys(finished.root / f"dump/raw/{data}/wav.scp")
        assert keys(stats / part / "speech_shape") == expected
        assert keys(stats / part / "text_shape.char") == expected
        assert all(
            line.endswith(f",{vocabulary}")
            for line in (stats / part / "text_shape.char").read_text().splitlines()
        )
    assert (stats / "train/feats_stats.npz").exists()
    assert not list((finished.root / "exp").glob("*.partial"))


def test_statistics_do_not_depend_on_the_number_of_jobs(again: Path) -> None:
    """Sums of float32 in other parts have other last digits, and with them every weight of a training."""
    before = contents(again / "exp/asr_stats_raw_char_sp")
    shutil.rmtree(again / "exp/asr_stats_raw_char_sp")
    run(again, "--stage", "6", "--stop_stage", "6", "--nj", "3")
    after = contents(again / "exp/asr_stats_raw_char_sp")
    names = [f"{part}/{file}" for part in ("train", "valid") for file in ("speech_shape", "feats_stats.npz")]
    assert [after[name] for name in names] == [before[name] for name in names]


def test_statistics_get_another_name_if_one_front_end_waited_for_another(again: Path) -> None:
    """Two first runs choose the same name; the second one gets it only when it is taken."""
    stats = again / "exp/asr_stats_raw_char_sp"
    of_first = stats.rename(again / "first")
    log = again / "log"
    args = "--student_args '--frontend_conf n_fft=256'"
    command = f"./run.sh --stage 6 --stop_stage 6 --teacher_config '' {args} > log 2>&1"
    with (again / "exp/.asr_stats_raw_char_sp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(["bash", "-c", command], cwd=again, env=environment())
        while not log.exists() or "waiting for another run" not in log.read_text():
            assert waiting.poll() is None, log.read_text()
            time.sleep(0.1)
        of_first.rename(stats)
    assert waiting.wait(timeout=300) == 0, log.read_text()
    others = list((again / "exp").glob("asr_stats_raw_char_sp_*/train/feats_stats.npz"))
    assert len(others) == 1


@pytest.mark.parametrize(
    ("lines", "parts"), [((12, 4), 1), ((846, 102), 2), ((1001, 400), 3), ((900, 1), 1), ((99999, 99), 32)]
)
def test_the_number_of_parts_of_statistics_depends_on_the_data(
    tmp_path: Path, lines: tuple[int, int], parts: int
) -> None:
    """One for 500 utterances, no more than 32; each part needs an utterance of both sets."""
    for name, count in zip(("train", "valid"), lines, strict=True):
        (tmp_path / name).write_text("line\n" * count)
    assert shell_function(tmp_path, "statistics_parts train valid") == f"{parts}\n"


def test_statistics_know_their_front_end_without_their_logs(again: Path) -> None:
    shutil.rmtree(again / "exp/asr_stats_raw_char_sp/logdir")
    assert "exp/asr_stats_raw_char_sp: already there" in run(again, "--stage", "6", "--stop_stage", "6")


def test_tables_of_large_training_sets_are_divided(tmp_path: Path) -> None:
    for count, parts in ((12, 1), (300_000, 1), (300_001, 2), (900_001, 4)):
        (tmp_path / "wav.scp").write_text("a b\n" * count)
        assert shell_function(tmp_path, "splits_of wav.scp") == f"{parts}\n"
    assert shell_function(tmp_path, "splits_of wav.scp --share_per_batch true") == "1\n"


def test_language_models_are_trained_on_text_with_plain_spaces(tmp_path: Path) -> None:
    """Of characters ESPnet makes the unknown token of any other space."""
    (tmp_path / "text").write_text("u1 ONE\u00a0TWO  THREE\u3000FOUR\nu2\nu3 \u3000\r\n")
    (tmp_path / "text_more").write_text("\ufeffu1\tFIVE\r\n")
    command = "join_texts ./text ./text_more"
    found = shell_function(tmp_path, command, file="language_model.sh", python="python3")
    assert found == "u1 ONE TWO THREE FOUR\nu1_more FIVE\n"


def shell_function(cwd: Path, command: str, file: str = "training.sh", **variables: str) -> str:
    """What a function of utils/ prints."""
    name, steps = command.partition(" ")[0], ROOT / "egs/TEMPLATE/kd1/utils" / file
    script = f"eval \"$(sed -n '/^{name}()/,/^}}/p' {steps})\"; {command}"
    return sh(cwd, "bash", "-c", script, **variables).stdout


def test_both_models_are_trained_and_on_record(finished: Finished) -> None:
    teacher, student = (json.loads((finished.root / d / "run.json").read_text()) for d in (TEACHER, STUDENT))
    assert (teacher["role"], teacher["configs"], teacher["teachers"]) == (
        "teacher",
        ["conf/teacher.yaml"],
        [],
    )
    assert student["role"] == "student" and student["teachers"] == [str(TEACHER)]
    assert student["configs"] == ["conf/student.yaml", "conf/kl.yaml"]
    assert teacher["command"].startswith("./run.sh --kd_config conf/kl.yaml ")
    assert teacher["done"] and student["done"] and teacher["started"] < teacher["ended"] <= student["started"]
    assert (finished.root / TEACHER / "valid.acc.ave.pth").exists()
    assert "loss_kd_ctc" in (finished.root / STUDENT / "train.log").read_text()


@pytest.mark.parametrize("model", [TEACHER, STUDENT])
@pytest.mark.parametrize("data", ["dev", "test"])
def test_every_model_decodes_and_scores_every_set(finished: Finished, model: Path, data: str) -> None:
    directory = finished.root / model / TAG / data
    for file in ("text", "token", "score"):
        assert keys(directory / file) == keys(finished.root / f"dump/raw/{data}/wav.scp")
    for file in ("score.json", "score_wer/result.txt", "score_cer/result.txt"):
        assert (directory / file).exists()


def test_table_plots_and_zip(finished: Finished) -> None:
    table = (finished.root / "RESULTS.md").read_text()
    assert "./run.sh --kd_config conf/kl.yaml" in table and "## test" in table
    assert (finished.root / "images/wer.png").exists()
    with zipfile.ZipFile(finished.root / STUDENT / f"{STUDENT.name}_valid.acc.ave.zip") as packed:
        names = set(packed.namelist())
    assert {"meta.yaml", f"{STUDENT}/config.yaml", "exp/asr_stats_raw_char_sp/train/feats_stats.npz"} <= names


def test_a_second_run_does_nothing_again(again: Path) -> None:
    files = {
        p: p.stat().st_mtime_ns
        for p in (again / "exp").rglob("*")
        if p.suffix in (".pth", ".npz") or p.name == "text"
    }
    with (again / "conf/decode.yaml").open("a") as f:
        f.write("# a comment does not change a configuration\n")
    output = run(again, *KD, "--stop_stage", "10")
    assert output.count("already trained") == 2
    assert output.count("already decoded") == 5  # dev by the teacher in stages 8 and 10
    assert output.count("already there") == 2
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_other_options_of_decoding_decode_again(again: Path) -> None:
    with (again / "conf/decode.yaml").open("a") as f:
        f.write("nbest: 1\n")
    output = run(again, *KD, "--stage", "8", "--stop_stage", "8")
    assert f"{TEACHER}/{TAG}/dev: decoded by 1 jobs" in output


def test_another_configuration_under_the_same_name_is_refused(again: Path) -> None:
    with (again / "conf/student.yaml").open("a") as f:
        f.write("patience: 3\n")
    errors = failure(again, *KD, "--stage", "9", "--stop_stage", "9")
    assert errors.startswith(
        f"espnet-kd: error: {STUDENT} was trained with another configuration than conf/student.yaml + "
    )
    assert "--student_tag" in errors and errors.count("\n") == 1


def test_training_options_make_another_name_as_in_asr_sh(again: Path) -> None:
    error = "which stage 9 makes\n"
    errors = failure(again, "--stage", "12", "--student_args", "--seed 2 --optim_conf lr=0.1")
    assert errors.endswith(f"exp/asr_student_raw_char_seed2_optim_conflr0.1_sp/config.yaml, {error}")
    errors = failure(
        again, "--stage", "10", "--lang", "en", "--token_type", "bpe", "--nbpe", "40", "--teacher_config", ""
    )
    assert errors.endswith(f"exp/asr_student_raw_en_bpe40_sp/config.yaml, {error}")


def test_a_failed_training_says_why_in_one_line(again: Path) -> None:
    (again / "conf/wrong.yaml").write_text("criteria: {ctc: {type: no_such, tap: ctc.ctc_lo}}\n")
    errors = failure(again, "--kd_config", "conf/wrong.yaml", "--stage", "9", "--stop_stage", "9")
    assert errors.splitlines()[0].startswith("espnet-kd: error: ") and "no_such" in errors.splitlines()[0]
    log = "exp/asr_student_wrong_raw_char_sp/train.log"
    assert errors.splitlines()[1:] == [f"kd.sh: error: the training failed; its log is {log}"]


def test_an_ensemble_is_decoded(again: Path) -> None:
    twice = ("--teacher_exp", f"{TEACHER} {TEACHER}", "--decode_ensemble", "true")
    output = run(again, *twice, "--stage", "8", "--stop_stage", "8")
    assert "ensemble_of_2:\ndev  WER " in output


def test_a_streaming_student_with_attention_is_decoded_block_by_block(again: Path) -> None:
    config = yaml.safe_load((again / "conf/student.yaml").read_text())
    blocks = {"block_size": 20, "hop_size": 8, "look_ahead": 8, "init_average": True, "ctx_pos_enc": True}
    config["encoder"] = "contextual_block_transformer"
    config["encoder_conf"] |= blocks
    (again / "conf/streaming.yaml").write_text(yaml.safe_dump(config))
    options = (*KD, "--student_config", "conf/streaming.yaml", "--use_streaming", "true", "--stage", "9")
    run(again, *options, "--stop_stage", "11")
    student = again / "exp/asr_streaming_kl_raw_char_sp"
    log = (student / TAG / "test/logdir/asr_inference.1.log").read_text()
    assert "BatchBeamSearchOnline" in log, "ESPnet searches block by block"
    assert keys(student / TAG / "test/text") == keys(again / "dump/raw/test/wav.scp")
    assert json.loads((student / TAG / "test/score.json").read_text())


def test_a_teacher_of_another_recipe_is_decoded_here_and_left_alone(again: Path, finished: Finished) -> None:
    theirs = finished.root / TEACHER
    before = {p: p.stat().st_mtime_ns for p in theirs.rglob("*")}
    shutil.rmtree(again / "exp")
    output = run(again, "--teacher_exp", str(theirs), "--stage", "8", "--stop_stage", "8")
    assert f"{TEACHER}/{TAG}/dev: decoded by 1 jobs" in output and "dev  WER " in output
    assert (again / TEACHER / TAG / "dev/text").read_text() == (theirs / TAG / "dev/text").read_text()
    assert {p: p.stat().st_mtime_ns for p in theirs.rglob("*")} == before


def test_directories_with_spaces_and_names_by_tags(again: Path) -> None:
    (again / "exp").rename(again / "my exp")
    (again / "exp").symlink_to("my exp")  # where the teacher's configuration looks for its statistics
    tags = ("--student_tag", "small", "--inference_tag", "greedy", "--student_args", "--seed 2")
    checkpoint = ("--inference_asr_model", "valid.acc.best.pth")
    output = run(again, "--expdir", "my exp", *KD, "--stage", "6", *tags, *checkpoint)
    assert "packed: my exp/asr_small_seed2/asr_small_seed2_valid.acc.best.zip" in output
    assert (again / "my exp/asr_small_seed2/greedy/test/text").exists()
    results = (again / "RESULTS.md").read_text()
    assert "\n| small |" in results  # the row of the table
    (row,) = [line for line in results.splitlines() if line.startswith("| `asr_small_seed2` | small | 2 |")]
    assert row.endswith("| valid.acc.best.pth |")


def test_a_student_in_a_directory_that_the_caller_names(again: Path) -> None:
    results = (again / "RESULTS.md").read_bytes()
    (again / "exp/plan").mkdir()
    (again / "exp/plan/mine_phase1").symlink_to(f"../../{STUDENT}")
    phases = ("--kd_config", "conf/kl.yaml", "conf/kl.yaml", "--student_exp", "exp/plan/mine/")
    stages = ("--stage", "9", "--stop_stage", "11", "--results_md", "")
    output = run(again, *phases, *stages)
    assert "exp/plan/mine_phase1: already trained" in output and "stage 11: score\n" in output
    record = json.loads((again / "exp/plan/mine/run.json").read_text())
    assert (record["tag"], record["previous"]) == ("", "exp/plan/mine_phase1") and record["done"]
    for data in ("dev", "test"):
        assert (again / "exp/plan/mine" / TAG / data / "score.json").exists()
    assert (again / "RESULTS.md").read_bytes() == results, "stage 11 wrote a table"
    errors = failure(again, *phases, *stages, "--student_args", "--seed 2")  # the name does not contain them
    assert errors.startswith(
        "espnet-kd: error: exp/plan/mine_phase1 was trained with the options '', not '--seed 2'"
    )
    errors = failure(again, *phases, "--student_tag", "mine")
    assert "--student_tag is a part of the directory's name: leave it out beside --student_exp" in errors


def test_the_second_generation_of_a_student_in_a_directory_that_the_caller_names(again: Path) -> None:
    (again / "exp/mine").symlink_to(STUDENT.name)
    stage = ("--stage", "10", "--stop_stage", "10", "--generation", "2", "--student_exp", "exp/mine")
    assert "stage 10 needs exp/mine_gen2/config.yaml" in failure(again, *KD, *stage)
