"""Runs of a plan, in a recipe whose trainings do nothing."""

import fcntl
import json
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_recipe import calls, experiments, record_file, start, trained, until, write_recipe

from espnet_kd.errors import UserError
from espnet_kd.experiments.command import main
from espnet_kd.experiments.runner import visible_gpus
from espnet_kd.experiments.trials import State

ALL = """
    teacher_seed1 alone_1x_seed1 kl-weight-1_1x_seed1 kl-weight-10_1x_seed1 alone_2x_seed1
    kl-weight-1_2x_seed1 alone_1x_seed2 kl-weight-1_1x_seed2 alone_2x_seed2 kl-weight-1_2x_seed2
""".split()
SOME = ("--only", "KL, weight 1", "alone, 1x", "--seeds", "1")  # and what they need: three trainings

STATUS = """\
                   seed 1  seed 2
Teacher            50.0
alone, 1x          50.0    to do
alone, 2x          50.0    to do
KL, weight 1, 1x   50.0
KL, weight 10, 1x  failed
KL, 1x             waits   waits
KL, 2x             waits   waits

numbers are WER in per cent on the validation set; 4.0 core-hours of training so far
waiting: KL, 1x; KL, 2x for KL, weight 10, 1x
failed: KL, weight 10, 1x, seed 1: it went wrong; log exp/two/kl-weight-10_1x_seed1.log
"""


@pytest.fixture()
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with a plan, of which nothing has run; it is the current directory."""
    root = write_recipe(tmp_path / "kd1")
    monkeypatch.chdir(root)
    return root


def run(*options: str, status: int = 0) -> None:
    """Run the plan in this process."""
    try:
        main(["plans/two.yaml", *options])
    except SystemExit as e:
        assert e.code == status
    else:
        assert status == 0


def test_a_plan_is_run_data_first_and_first_seeds_first(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe / "wrong_kl-weight-10_1x_seed1").write_text("3")
    run("--jobs", "1", "--data_options", "--corpus 'a b'")
    assert trained(recipe) == ALL
    data, train = calls(recipe)[:2], calls(recipe)[2:]
    given = ["--stage", "1", "--stop_stage", "5", "--corpus", "a b"]
    assert data == [["./run.sh", "--speed_perturb_factors", factors, *given] for factors in ("0.9 1.0", "")]
    assert train[2] == [
        "./run.sh", "--nj", "1", "--inference_nj", "1", "--inference_tag", "decode", "--expdir", "exp/two",
        "--speed_perturb_factors", "", "--student_config", "conf/student.yaml", "--kd_config", "conf/kd.yaml",
        "--student_alone", "false", "--teacher_config", "", "--teacher_exp", "exp/two/teacher_seed1",
        "--student_exp", "exp/two/kl-weight-1_1x_seed1",
        "--student_args", "--seed 1 --max_epoch 18 --criteria ctc.weight=1",
        "--stage", "6", "--stop_stage", "11", "--results_md", "",
    ]  # fmt: skip
    output = capsys.readouterr().out
    assert "KL, weight 1, 2x, seed 2: WER 50.0 % on test, 50.0 % on dev; 10 of 10 trainings done" in output
    assert output.splitlines()[-1] == "plans/two.yaml: everything is done"
    run()
    assert len(calls(recipe)) == 12, "something was done again"


def test_several_trainings_run_at_a_time(recipe: Path) -> None:
    (recipe / "hold").touch()
    process = start(recipe, *SOME, "--jobs", "2")
    until(lambda: all((recipe / f"exp/two/{name}/train.log").exists() for name in ALL[:2]))
    (recipe / "hold").unlink()
    assert process.wait(60) == 0
    assert set(trained(recipe)) == {"teacher_seed1", "alone_1x_seed1", "kl-weight-1_1x_seed1"}


def test_every_training_has_a_gpu_of_its_own(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7a")
    assert visible_gpus() == ["2", "GPU-7a"]
    (recipe / "hold").touch()
    process = start(recipe, "--only", "alone, 1x", "--seeds", "1", "2")
    until(lambda: len(list((recipe / "exp/two").glob("*/train.log"))) == 2)
    (recipe / "hold").unlink()
    assert process.wait(60) == 0
    assert set((recipe / "gpus").read_text().split()) == {"2", "GPU-7a"}
    (recipe / "gpus").unlink()
    run("--only", "alone, 2x", "--jobs", "1")
    assert (recipe / "gpus").read_text().split() == ["2", "2"]


def test_gpus_are_listed_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert visible_gpus() == []
    smi = tmp_path / "nvidia-smi"
    lines = "GPU 0: A (UUID: GPU-1)", "  MIG x", "GPU 1: A (UUID: GPU-2)"
    smi.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    smi.chmod(0o755)
    assert visible_gpus() == ["0", "1"]


def test_a_killed_runner_is_continued_and_its_trainings_are_waited_for(recipe: Path, tmp_path: Path) -> None:
    (recipe / "hold").touch()
    first = start(recipe, *SOME, "--jobs", "2")
    until(lambda: (recipe / "exp/two/teacher_seed1/train.log").exists())
    first.kill()
    first.wait()
    second = start(recipe, *SOME, "--jobs", "2")
    until(lambda: "starts" in second.stdout.readline())
    (recipe / "hold").unlink()
    assert second.wait(60) == 0
    assert sorted(trained(recipe)) == ["alone_1x_seed1", "kl-weight-1_1x_seed1", "teacher_seed1"]
    whole = write_recipe(tmp_path / "whole")
    experiments(whole, *SOME)
    assert record_file(recipe) == record_file(whole)


def with_store(record: Any) -> Any:
    def found(*args: Any, **kwargs: Any) -> Any:
        return (one := record(*args, **kwargs)) and replace(one, targets_cpu_seconds=1800.0)

    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_trainings(recipe: Path, number: int) -> None:
    (recipe / "hold").touch()
    process = start(recipe, *SOME, "--jobs", "2")
    until(lambda: (recipe / "exp/two/teacher_seed1/train.log").exists())
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and output.endswith("interrupted; the same command continues\n")
    with (recipe / "exp/two/teacher_seed1.log").open() as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no process has it open any more
    (recipe / "hold").unlink()
    assert trained(recipe) == []
    run(*SOME)
    assert len(trained(recipe)) == 3


def test_a_failure_stops_only_what_needs_it(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipe / "fail_kl-weight-10_1x_seed1").touch()
    run("--seeds", "1", "--jobs", "2", status=1)
    assert set(trained(recipe)) == set(ALL[:3]) | {"alone_2x_seed1"}
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "KL, weight 10, 1x, seed 1: failed: it went wrong; log exp/two/kl-weight-10_1x_seed1.log",
        "not run, as they need what has failed: KL, 1x, seed 1; KL, 2x, seed 1",
    ]
    main(["plans/two.yaml", "--status"])
    assert capsys.readouterr().out.splitlines() == STATUS.splitlines()
    with monkeypatch.context() as patch:  # half an hour of a store for each of four trainings
        patch.setattr(State, "record", with_store(State.record))
        main(["plans/two.yaml", "--status"])
    assert "6.0 core-hours of training and the target stores that it reads so" in capsys.readouterr().out
    (recipe / "fail_kl-weight-10_1x_seed1").unlink()
    run("--seeds", "1")
    assert len(trained(recipe)) == len(set(trained(recipe))) == 6


def test_a_teacher_that_fails_and_data_that_fail(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe / "fail_teacher_seed1").touch()
    run(*SOME, status=1)
    assert trained(recipe) == ["alone_1x_seed1"]
    (recipe / "fail_data").touch()
    shutil.rmtree(recipe / "dump")
    run(*SOME, status=1)
    output = capsys.readouterr().out
    assert "data of Teacher, seed 1: failed: there is no corpus; log exp/two/data_" in output
    assert trained(recipe) == ["alone_1x_seed1"]


def test_two_runners_of_a_plan_exclude_each_other(recipe: Path) -> None:
    (recipe / "hold").touch()
    first = start(recipe, *SOME)
    until(lambda: (recipe / "exp/two/teacher_seed1/train.log").exists())
    with pytest.raises(UserError, match="another `espnet-kd experiments plans/two.yaml` runs here"):
        main(["plans/two.yaml"])
    (recipe / "hold").unlink()
    assert first.wait(60) == 0


def test_records_replace_experiments_that_are_gone(recipe: Path) -> None:
    run(*SOME)
    before = record_file(recipe)
    shutil.rmtree(recipe / "exp")
    run(*SOME)
    assert len(trained(recipe)) == 3, "what is on record was trained again"
    run("--only", "KL, weight 10", "--seeds", "1")
    assert trained(recipe)[3:] == ["teacher_seed1", "kl-weight-10_1x_seed1"]
    lines = record_file(recipe).splitlines()
    assert set(before.splitlines()) < set(lines) and len(lines) == len(before.splitlines()) + 2
    (teacher,) = [json.loads(line) for line in lines if '"elsewhere":true' in line]
    assert teacher["row"] == "Teacher", "what taught here is not hidden behind its record"
    run("--only", "KL, weight 10", "--seeds", "1")
    assert record_file(recipe).splitlines() == lines
    (record,) = [json.loads(line) for line in lines if '"row":"KL, weight 10"' in line]
    assert record["teacher_rows"] == [["Teacher", 1, None]]
    assert record["command"] == shlex.join(calls(recipe)[-1])


def test_a_teacher_that_was_trained_again_when_the_runner_was_killed_is_recorded(recipe: Path) -> None:
    run(*SOME)
    shutil.rmtree(recipe / "exp")
    (recipe / "hold").touch()
    process = start(recipe, "--only", "KL, weight 10", "--seeds", "1")
    until(lambda: (recipe / "exp/two/teacher_seed1/train.log").exists())
    process.kill()
    process.wait()
    (recipe / "hold").unlink()
    until(lambda: len(trained(recipe)) == 4)
    for _ in range(2):
        run("--only", "KL, weight 10", "--seeds", "1")
    (teacher,) = [line for line in record_file(recipe).splitlines() if '"elsewhere":true' in line]
    assert '"row":"Teacher"' in teacher


def test_a_row_is_trained_again_elsewhere(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*SOME)
    before = record_file(recipe).splitlines()
    run("--only", "Teacher", "--again")
    assert record_file(recipe).splitlines() == before, "no training is its own repetition"
    assert "Teacher, seed 1: exp/two/teacher_seed1 has it: remove this directory" in capsys.readouterr().out
    shutil.rmtree(recipe / "exp")
    for _ in range(2):  # once: the second run finds it
        run("--only", "KL, weight 1", "--seeds", "1", "--again")
    assert trained(recipe)[3:] == ["teacher_seed1", "kl-weight-1_1x_seed1"]
    added = [line for line in record_file(recipe).splitlines() if line not in before]
    assert len(added) == 2 and all('"elsewhere":true' in line for line in added)
    assert set(before) < set(record_file(recipe).splitlines())
    now = record_file(recipe)
    run("--only", "Teacher", "--again")  # what else is here is not recorded as its repetition
    assert record_file(recipe) == now
    (recipe / "plans/results/two.jsonl").write_text("".join(f"{line}\n" for line in before))
    run("--only", "Teacher", "--again")
    added = [line for line in record_file(recipe).splitlines() if line not in before]
    assert ['"row":"Teacher"' in line for line in added] == [True]
    shutil.rmtree(recipe / "exp")
    run("--only", "Teacher", "--again")
    assert trained(recipe)[5:] == ["teacher_seed1"], "a repetition on record is none of this directory"
    lines = [line for line in record_file(recipe).splitlines() if line not in before]
    assert len(lines) == 1 and lines != added, "in one environment the last repetition counts"


def test_experiments_replace_records_that_are_gone(recipe: Path) -> None:
    run()
    before = record_file(recipe)
    (recipe / "plans/results/two.jsonl").unlink()
    run()
    assert record_file(recipe) == before and len(trained(recipe)) == len(ALL)


def test_another_plan_trains_again(recipe: Path) -> None:
    run(*SOME)
    plan = recipe / "plans/two.yaml"
    plan.write_text(plan.read_text().replace("max_epoch: 18", "max_epoch: 20"))
    run(*SOME)  # kd.sh would refuse to go on in these directories; this run.sh does not
    assert sorted(trained(recipe)[3:]) == ["alone_1x_seed1", "kl-weight-1_1x_seed1"]


def test_a_change_of_a_configuration_or_of_a_teacher_is_noticed(recipe: Path) -> None:
    for name in ("teacher", "student", "kd"):
        (recipe / f"conf/{name}.yaml").write_text("max_epoch: 1  # short\n")
    run(*SOME)
    (recipe / "conf/kd.yaml").write_text("max_epoch: 1\n")
    run(*SOME)
    assert len(trained(recipe)) == 3, "a comment changes no training"
    (recipe / "conf/teacher.yaml").write_text("max_epoch: 2\n")
    run(*SOME)  # kd.sh would refuse to go on in these directories; this run.sh does not
    assert trained(recipe)[3:] == ["teacher_seed1", "kl-weight-1_1x_seed1"]
    shutil.rmtree(recipe / "exp")
    run(*SOME)
    assert len(trained(recipe)) == 5
    (recipe / "conf/student.yaml").write_text("max_epoch: 2\n")
    run(*SOME)
    assert sorted(trained(recipe)[5:]) == ["alone_1x_seed1", "kl-weight-1_1x_seed1", "teacher_seed1"]
    run(*SOME)
    assert len(trained(recipe)) == 8


def test_a_run_that_leaves_no_scores_has_failed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe / "run.sh").write_text("#!/bin/sh\n")
    run("--only", "Teacher", status=1)
    assert "Teacher, seed 1: failed after 0 s: exp/two/teacher_seed1 has no scores of test and dev" in (
        capsys.readouterr().out
    )


def test_graphs_count_for_a_row_but_a_teacher_need_not_have_any(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*SOME)
    plan = recipe / "plans/two.yaml"
    plan.write_text(plan.read_text().replace("{expdir: exp/two,", "{expdir: exp/two, export_formats: int8,"))
    with (recipe / "run.sh").open("a") as f:
        f.write("""
case ${name} in
    teacher*) echo "log: warning: ${exp} has no row for int8: its WER moves" ;;
    *) mkdir -p "${exp}/onnx_int8"; cp -r "${exp}/${option[inference_tag]}" "${exp}/onnx_int8" ;;
esac
""")
    run(*SOME)
    assert sorted(trained(recipe)[3:]) == ["alone_1x_seed1", "kl-weight-1_1x_seed1"]
    assert record_file(recipe).count('"test (int8)":{') == 2
    plan.write_text(plan.read_text().replace("export_formats: int8", 'export_formats: int8, export_args: x'))
    run(*SOME)  # other graphs: the scores that are there are not theirs
    assert sorted(trained(recipe)[5:]) == ["alone_1x_seed1", "kl-weight-1_1x_seed1"]
    capsys.readouterr()
    run("--only", "Teacher", status=1)
    assert "has no scores of test (int8), exp/two/teacher_seed1 has no row for int8: its WER moves" in (
        capsys.readouterr().out
    )


def test_damaged_files(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--only", "Teacher")
    (recipe / "exp/two/teacher_seed1/decode/test/score.json").write_text("{")
    (recipe / "plans/results/two.jsonl").unlink()
    run("--only", "Teacher", status=1)
    assert "failed: its results cannot be read: exp/two/teacher_seed1/decode/test/score.json is damaged" in (
        capsys.readouterr().out
    )
    (recipe / "exp/two/teacher_seed1/run.json").write_text("{")
    run("--only", "Teacher")
    assert trained(recipe) == ["teacher_seed1"] * 2
    (recipe / "plans/results/two.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="two.jsonl:1: not a record of a training"):
        main(["plans/two.yaml"])


@pytest.mark.slow(seconds=10)
def test_trainings_on_a_cluster(recipe: Path) -> None:
    (recipe / "cluster.yaml").write_text("{type: local, workers: 2, options: {processes: false}}\n")
    output = experiments(recipe, *SOME, "--cluster", "cluster.yaml")
    assert len(trained(recipe)) == 3 and output.endswith("everything is done\n")
    (recipe / "hold").touch()
    process = start(recipe, "--only", "KL, weight 10", "--cluster", "cluster.yaml")
    until(lambda: (recipe / "exp/two/kl-weight-10_1x_seed1/train.log").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    with (recipe / "exp/two/kl-weight-10_1x_seed1.log").open() as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_was_trained_by_hand_is_taken_if_run_sh_accepts_it(recipe: Path) -> None:
    run("--only", "Teacher")
    record = recipe / "exp/two/teacher_seed1/run.json"
    record.write_text(record.read_text().replace("--nj 1", "--corpus there"))
    (recipe / "plans/results/two.jsonl").unlink()
    (recipe / "exp/two/teacher_seed1.log").unlink()
    (recipe / "run.sh").write_text("#!/bin/sh\necho exp/two/teacher_seed1: already trained\n")
    run("--only", "Teacher")
    run("--only", "Teacher")
    assert (recipe / "exp/two/teacher_seed1.log").read_text().count("already trained") == 1
    assert '"row":"Teacher"' in record_file(recipe)
