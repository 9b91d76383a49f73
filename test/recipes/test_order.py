"""A stage that runs before its predecessor names the missing file and the stage that makes it."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from fork_server import QUICK_PYTHON
from shell import LOG_PLACE, TEMPLATE, failure, run, script, sh

KD = ("--kd_config", "conf/kl.yaml")
TEACHER = "exp/asr_teacher_raw_char_sp"


@pytest.mark.parametrize(
    ("stage", "options", "file", "maker"),
    [
        (2, (), "data/train/wav.scp", 1),
        (3, (), "data/train_sp/wav.scp", 2),
        (3, ("--speed_perturb_factors", ""), "data/train/wav.scp", 1),
        (4, (), "dump/raw/org/train_sp/wav.scp", 3),
        (5, (), "data/train/text", 1),
        (6, ("--use_lm", "true", "--lm_exp", "exp/lm", "--inference_args", "--lm_weight 0.3"),
         "dump/raw/train_sp/wav.scp", 4),
        (6, (), "dump/raw/train_sp/wav.scp", 4),
        (7, (), "exp/asr_stats_raw_char_sp/train/speech_shape", 6),
        (8, (), f"{TEACHER}/config.yaml", 7),
        (9, KD, f"{TEACHER}/config.yaml", 7),
        (9, (), "exp/asr_stats_raw_char_sp/train/speech_shape", 6),
        (10, ("--teacher_config", ""), "exp/asr_student_raw_char_sp/config.yaml", 9),
        (11, (), "dump/raw/dev/wav.scp", 4),
        (12, KD, "exp/asr_student_kl_raw_char_sp/config.yaml", 9),
    ],
)
def test_one_line_says_what_is_missing(
    recipe: Path, stage: int, options: tuple[str, ...], file: str, maker: int
) -> None:
    errors = failure(recipe, "--stage", str(stage), "--stop-stage", str(stage), *options)
    assert errors == f"kd.sh: error: stage {stage} needs {file}, which stage {maker} makes\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tecaher_config", "x"), "unknown option --tecaher_config; did you mean --teacher_config?"),
        (("--corpsu", "x"), "unknown option --corpsu; did you mean --corpus?"),
        (("--nj", "many"), "--nj 'many' is not a number from 1 up"),
        (("--inference_nj", "0"), "--inference_nj '0' is not a number from 1 up"),
        (("--generation", "2"), "--generation 2 needs --kd_config or --unlabelled_sets: without"),
        (("--valid_set", ""), "--valid_set is required"),
        (("--skip_eval", "yes"), "--skip_eval 'yes' is neither true nor false"),
        (("--detach", "yes"), "--detach 'yes' is neither true nor false"),
        (("--detach", "true"), "--detach true needs cmd_backend=slurm; elsewhere use nohup, tmux or"),
        (("--gpu_inference", "1"), "--gpu_inference '1' is neither true nor false"),
        (("--skip_stages", "3", "13"), "--skip_stages '13' is not a stage: they are 1 to 12"),
        (("--student_tag", "a/b"), "the tag 'a/b' is not the name of a directory"),
        (("--inference_tag", "../x"), "the tag '../x' is not the name of a directory"),
        (("--teacher_tag", "one", "two"), "--teacher_tag has another number of words (2) than"),
        (("--teacher_tag", "one", "--teacher_exp", "exp/t"), "--teacher_tag is for teachers that are"),
        (("--teacher_tag", "one", "--student_tag", "one"), "the tag 'one' is given to two models"),
        (("--teacher_tag", "../one"), "the tag '../one' is not the name of a directory"),
        (("--skip_stages", "*"), "--skip_stages '*' is not a stage"),
        (("--token_from", "exp/.."), "--token_from 'exp/..': '..' is not the name of a model"),
        (("--skip_data_prep", ""), "--skip_data_prep '' is neither true nor false"),
        (("--skip_train", "True"), "--skip_train 'True' is neither true nor false"),
        (("--skip_packing", "no"), "--skip_packing 'no' is neither true nor false"),
        (("--student_alone", "1"), "--student_alone '1' is neither true nor false"),
        (("--config_ngpu", "four"), "--config_ngpu 'four' is not a number from 0 up"),
        (("--ngpu", "99"), "--ngpu 99, but this machine has "),
        (("--use_lm", "yes"), "--use_lm 'yes' is neither true nor false"),
        (("--use_lm", "true"), "--use_lm true needs --lm_config, or the --lm_exp of a trained"),
        (("--use_lm", "true", "--lm_config", "conf/x.yaml"), "--lm_config conf/x.yaml does not exist"),
        (("--use_lm", "true", "--lm_exp", "exp/lm"), "--use_lm true: conf/decode.yaml has no lm_weight, and"),
        (("--num_splits_asr", "0"), "--num_splits_asr '0' is not a number from 1 up"),
        (("--num_splits_asr", "2", "--unlabelled_share", "0.5"), "--num_splits_asr 2: batches with an"),
        (("--feats_type", "fbank"), "--feats_type fbank is not raw or raw_copy"),
        (("--feats_type", "raw_copy", "--audio_format", "wav.ark"), "--feats_type raw_copy leaves single"),
        (("--feats_normalize", "cmvn"), "--feats_normalize cmvn is not global_mvn, utterance_mvn or none"),
        (("--hf_repo", "name"), "--hf_repo 'name' is not a repository of Hugging Face, USER/NAME"),
        (("--download_model", "a/b", "--teacher_exp", "exp/t"), "--download_model and --teacher_exp both"),
        (("--labeller", "hf"), "--labeller hf needs --labeller_model"),
        (("--metric", "ser"), "--metric ser is neither wer nor cer"),
        (("--token_type", "phn"), "--token_type phn is not char, bpe or word"),
        (("--python", "no-such-python"), "no-such-python does not run or has no ESPnet"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(
    recipe: Path, options: tuple[str, ...], message: str
) -> None:
    errors = failure(recipe, *options)
    assert errors.splitlines()[-1].startswith(f"kd.sh: error: {message}")
    assert not (recipe / "data").exists()


def test_help_shows_the_options_of_template_and_recipe_with_the_defaults_in_force(recipe: Path) -> None:
    text = run(recipe, "--nj", "3", "--help")
    words = [line.split() for line in text.splitlines()]
    assert any(w[:1] == ["--nj"] and w[-1] == '"3")' for w in words)
    assert any(w[:1] == ["--corpus"] for w in words)
    declared = [
        line
        for line in (recipe / "kd.sh").read_text().split("# end of options")[0].splitlines()
        if "=" in line
    ]
    assert (
        text.count("\n  --") == len([line for line in declared if line[0].islower() and "  # " in line]) + 1
    )


def test_the_recipes_own_option_reaches_local_data_sh_whole(recipe: Path) -> None:
    script(recipe / "local" / "data.sh", '#!/usr/bin/env bash\nprintf "%s|" "${corpus}" "$@" > seen\n')
    options = ("--corpus", "/with a space/'quote'", "--local_data_opts", "--fast 1")
    assert run(recipe, *options, "--stop_stage", "1").startswith("stage 1: prepare data/\nstage 1: took ")
    assert (recipe / "seen").read_text() == "/with a space/'quote'|--fast|1|"


def test_options_that_do_nothing_without_others_are_named(recipe: Path) -> None:
    options = ("--export_args", "-a", "--unlabelled_share", "0.9", "--measure_args", "x", "--lm_exp", "lm")
    errors = LOG_PLACE.sub("", failure(recipe, "--stage", "2", *options)).splitlines()[:-1]
    assert errors == [
        "warning: --export_args does nothing without --export_formats",
        "warning: --unlabelled_share does nothing without --unlabelled_sets",
        "warning: --measure_args does nothing without --measure true",
        "warning: --lm_config and --lm_exp do nothing without --use_lm true",
    ]


@pytest.mark.parametrize(("first", "last"), [("13", "12"), ("5", "3"), ("0", "0")])
def test_stages_that_do_not_exist_are_named(recipe: Path, first: str, last: str) -> None:
    assert run(recipe, "--stage", first, "--stop_stage", last) == (
        f"nothing to do: there is no stage from --stage {first} to --stop_stage {last}; they are 1 to 12\n"
    )


def test_statistics_that_cannot_be_added_up_are_named(recipe: Path, tmp_path: Path) -> None:
    fails = 'case "$*" in *aggregate_stats_dirs*) echo "OSError: No space left" >&2; exit 1 ;; esac'
    python = script(tmp_path / "python", f'#!/bin/sh\n{fails}\nexec "{QUICK_PYTHON}" "$@"\n')
    run(recipe, "--stop_stage", "5")
    partial = "exp/asr_stats_raw_char_sp.partial"
    assert failure(recipe, "--stage", "6", "--stop_stage", "6", "--python", str(python)) == (
        f"kd.sh: error: the statistics of {partial} cannot be added up: OSError: No space left; "
        f"see {partial}/logdir/aggregate.log\n"
    )


RUN_SH = sorted(TEMPLATE.parents[1].glob("*/kd1/run.sh"))


@pytest.mark.parametrize("run_sh", RUN_SH, ids=lambda path: path.parts[-3])
def test_a_recipe_runs_in_its_own_directory_alone(tmp_path: Path, run_sh: Path) -> None:
    relative = os.path.relpath(run_sh, TEMPLATE)  # which has a kd.sh, too
    for place, command in ((TEMPLATE, relative), (tmp_path, str(run_sh))):
        result = sh(place, command, "--help")
        assert result.returncode == 1
        home = os.path.dirname(command)
        assert result.stderr == f"run.sh: error: run it in its directory: cd '{home}' && ./run.sh\n"
    submitted = shutil.copy(run_sh, tmp_path / "slurm_script")
    for command in ("./run.sh", str(run_sh), str(submitted)):
        assert sh(run_sh.parent, command, "--help").stdout.startswith("usage: ./kd.sh [--option value]...")


def test_a_failing_stage_ends_the_run(recipe: Path) -> None:
    script(recipe / "local" / "data.sh", "#!/usr/bin/env bash\necho broken >&2\nexit 3\n")
    assert failure(recipe, "--stop_stage", "2") == "broken\n"


LOGS_ITS_NAME = """#!/usr/bin/env bash
echo data
"""


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        (("--skip_stages", "2 3"), [1]),
        (("--skip_stages", "1", "3"), [2]),
        (("--skip_data_prep", "true"), []),
        (("--skip_train", "true", "--skip_stages", "3"), [1, 2]),
    ],
)
def test_stages_are_left_out(recipe: Path, options: tuple[str, ...], stages: list[int]) -> None:
    script(recipe / "local" / "data.sh", "#!/usr/bin/env bash\ncp -r \"${corpus}\" data\n")
    if 1 not in stages:
        run(recipe, "--stop_stage", "1")
    output = run(recipe, "--stop_stage", "3", *options)
    assert [int(line.split()[1][:-1]) for line in output.splitlines() if ": took " in line] == stages
    left_out = [str(stage) for stage in (1, 2, 3) if stage not in stages]
    assert f"skipped stages: {' '.join(left_out)}\n" in output


@pytest.mark.parametrize(
    ("option", "first"),
    [("skip_data_prep", 6), ("skip_train", 10), ("skip_eval", 12), ("skip_packing", None)],
)
def test_a_group_of_stages_is_left_out(recipe: Path, option: str, first: int | None) -> None:
    """What comes after the group runs; here it names what the group would have made."""
    options = {"skip_data_prep": 1, "skip_train": 6, "skip_eval": 10, "skip_packing": 12}
    words = ("--stage", str(options[option]), f"--{option}", "true")
    if first is None:
        assert run(recipe, *words) == "skipped stages: 12\n"
    else:
        assert failure(recipe, *words).startswith(f"kd.sh: error: stage {first} needs ")


def test_lines_of_the_log_have_time_and_place(recipe: Path) -> None:
    script(recipe / "local" / "data.sh", LOGS_ITS_NAME)
    lines = sh(recipe, "./run.sh", "--stop_stage", "1").stdout.splitlines()
    assert len(lines) == 3 and lines[1] == "data"
    for line in (lines[0], lines[2]):
        assert LOG_PLACE.match(line) and "(kd.sh:" in line and ":run_stages) stage 1: " in line


def test_a_tag_names_the_experiment(recipe: Path) -> None:
    tags = ("--teacher_tag", "big", "--student_tag", "small", "--student_args", "--seed 2", *KD)
    errors = failure(recipe, "--stage", "12", *tags)
    assert "stage 12 needs exp/asr_small_seed2/config.yaml, which stage 9 makes" in errors
    errors = failure(recipe, "--stage", "9", *tags)
    assert "stage 9 needs exp/asr_big/config.yaml, which stage 7 makes" in errors


def test_a_model_that_was_chosen_by_something_else_is_named(recipe: Path) -> None:
    """To train it again, which the message about a missing file proposes, would change nothing."""
    exp = recipe / "exp/asr_small"
    exp.mkdir(parents=True)
    for name in ("config.yaml", "valid.cer_ctc.ave.pth"):
        (exp / name).touch()
    for stage in ("10", "12"):
        assert (
            failure(recipe, "--stage", stage, "--student_tag", "small", "--teacher_config", "")
            == "kd.sh: error: exp/asr_small has no valid.acc.ave.pth, but valid.cer_ctc.ave.pth, "
            "by its best_model_criterion: give --inference_asr_model\n"
        )


def test_an_unknown_backend_is_refused(recipe: Path) -> None:
    assert (
        failure(recipe, cmd_backend="cloud")
        == "cmd.sh: error: cmd_backend=cloud is not local, slurm, sge, pbs or ssh\n"
    )


def test_jobs_are_as_many_as_processors_whatever_a_job_may_use(recipe: Path) -> None:
    limits = {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}
    for line in sh(recipe, "./kd.sh", "--help", **limits).stdout.splitlines():
        if line.split()[:1] in (["--nj"], ["--inference_nj"]):
            assert line.endswith(f'(default: "{len(os.sched_getaffinity(0))}")')


def test_a_student_takes_the_tokens_of_a_teacher(recipe: Path) -> None:
    """They do not replace the tokens that the recipe makes of text, whatever the teacher's name is."""
    teacher, tokens = recipe / "exp" / "char", ["<blank>", "<unk>", "B", "A", "<sos/eos>"]
    teacher.mkdir(parents=True)
    (teacher / "config.yaml").write_text(yaml.safe_dump({"token_list": tokens, "token_type": "char"}))
    run(recipe, "--stage", "5", "--stop_stage", "5", "--token_from", "exp/char")
    lists = recipe / "data/token_list"
    assert (lists / "from_char_char/tokens.txt").read_text().split() == tokens
    assert not (lists / "char").exists()
    (recipe / "data/train").mkdir()
    (recipe / "data/train/text").write_text("u1 ab\n")
    error = failure(recipe, "--stage", "5", "--stop_stage", "5", "--token_from", "exp/char")
    assert "data/train/text: 2 of 2 tokens (a b) are not in the list" in error
    (recipe / "other").write_text("u1 AB\n")
    error = failure(recipe, "--stage", "5", "--stop_stage", "5", "--bpe_train_text", "other")
    assert "data/train/text: 2 of 2 tokens (a b) are not in the list" in error
