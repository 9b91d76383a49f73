"""kill -9 in stages 3 and 10, then the same command: the files of an uninterrupted run."""

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
from miniature import contents
from shell import Finished, environment, failure, kill_when, run, write_corpus, write_recipe

pytestmark = [pytest.mark.slow(seconds=40), pytest.mark.long]

TEACHER = Path("exp/asr_teacher_raw_char_sp")
STUDENT = Path("exp/asr_student_kl_raw_char_sp")
TAG = "decode_asr_model_valid.acc.ave"


def test_formatting(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=40, dev=3, test=3)
    whole, interrupted = (write_recipe(tmp_path / name / "kd1", corpus) for name in ("whole", "interrupted"))
    run(whole, "--stop_stage", "3")
    run(interrupted, "--stop_stage", "2")
    audio = interrupted / "dump/raw/org/train_sp/data"
    kill_when(lambda: any(audio.rglob("*.flac")), interrupted, "--stage", "3", "--stop_stage", "3")
    assert not (interrupted / "dump/raw/org/train_sp/wav.scp").exists(), "it was killed too late"
    run(interrupted, "--stage", "3", "--stop_stage", "3")
    assert contents(interrupted / "dump") == contents(whole / "dump")


def test_decoding(finished: Finished, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "kd1", symlinks=True))
    directory = root / STUDENT / TAG / "dev"
    expected = contents(root / STUDENT / TAG)
    options = ("--stage", "10", "--stop_stage", "10", "--kd_config", "conf/kl.yaml", "--inference_nj", "2")
    shutil.rmtree(root / STUDENT / TAG)
    one_by_one = {"decode_cmd": "utils/run.sh --max_jobs_run 1"}
    first, second = (directory / "logdir" / f"done.{n}" for n in (1, 2))
    kill_when(first.exists, root, *options, "--teacher_config", "", **one_by_one)
    assert not second.exists() and not (directory / "text").exists()
    at = os.stat(first).st_mtime_ns
    run(root, *options, "--teacher_config", "", **one_by_one)
    assert os.stat(first).st_mtime_ns == at, "a finished job was done again"
    for data in ("dev", "test"):
        for file in ("text", "token", "token_int", "score"):
            assert (root / STUDENT / TAG / data / file).read_bytes() == expected[f"{data}/{file}"]


def test_a_training_does_not_go_on_over_other_data(finished: Finished, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "kd1", symlinks=True))
    record = json.loads((root / TEACHER / "run.json").read_text())
    (root / TEACHER / "run.json").write_text(json.dumps({**record, "ended": None, "done": False}))
    for text in (root / "dump/raw/train_sp/text", root / "data/train/text"):
        text.write_text(text.read_text().replace(" a", " e"))
    *of_tokens, warning, error = failure(root, "--stage", "5", "--stop_stage", "7").splitlines()
    assert "warning: data/train_sp is older than data/train/text and has other transcripts" in warning
    assert sorted(line.split(":")[:2] for line in of_tokens) == [
        ["warning", f" data/{name}/text"] for name in ("dev", "test")
    ]
    assert error.startswith("espnet-kd: error: exp/asr_teacher_raw_char_sp was trained on other data: its ")
    assert "token list (data/token_list/char/tokens.txt)" in error


def test_a_job_of_decoding_without_its_files_is_done_again(finished: Finished, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "kd1", symlinks=True))
    directory = root / TEACHER / TAG / "dev"
    expected = (directory / "text").read_bytes()
    (directory / "text").unlink()
    shutil.rmtree(directory / "logdir/output.1")
    run(root, "--stage", "8", "--stop_stage", "8")
    assert (directory / "text").read_bytes() == expected


def test_other_audio_of_equal_length_is_counted_and_decoded_again(finished: Finished, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "kd1", symlinks=True))
    audio = next((root / "dump/raw/org/dev/data").rglob("*.flac"))
    samples, rate = soundfile.read(audio, dtype="int16")
    soundfile.write(audio, samples[::-1], rate, "PCM_16")
    assert "_sp: made (parts: 1)" in run(root, "--stage", "6", "--stop_stage", "6")
    assert f"{TEACHER}/{TAG}/dev: decoded by 1 jobs" in run(root, "--stage", "8", "--stop_stage", "8")
    errors = failure(root, "--stage", "7", "--stop_stage", "7")
    assert "its development set (dump/raw/dev)" in errors and errors.count("\n") == 1


def test_two_runs_do_not_prepare_data_at_once(recipe: Path) -> None:
    with (recipe / ".data.lock").open("w") as lock:  # as a run whose kd.sh was killed, but not its children
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["./run.sh", "--stop_stage", "1"]
        second = subprocess.Popen(command, cwd=recipe, env=environment(), stdout=subprocess.PIPE, text=True)
        assert ") stage 1: " in second.stdout.readline()
        assert second.stdout.readline().endswith(":lock) waiting for another run that works in data\n")
        assert not (recipe / "data").exists()
    assert second.wait(60) == 0 and (recipe / "data/train/wav.scp").exists()
    second.stdout.close()
