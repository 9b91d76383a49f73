"""What a plan would train, and what it would cost: ``--dry_run``, ``--status`` and ``--only``."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from experiment_recipe import PLAN, record_file, start, trained, until, write_recipe

from espnet_kd.errors import UserError
from espnet_kd.experiments.command import main
from espnet_kd.experiments.comparisons import Results
from espnet_kd.experiments.plan_file import RESERVED, read_plan
from espnet_kd.experiments.records import read_records
from espnet_kd.experiments.tables import render
from espnet_kd.experiments.trials import NOT_DATA, State, command, options_of, select

KD_SH = Path(__file__).parents[2] / "egs/TEMPLATE/kd1/kd.sh"


@pytest.fixture()
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with a plan, of which nothing has run; it is the current directory."""
    root = write_recipe(tmp_path / "kd1")
    monkeypatch.chdir(root)
    return root


def names(recipe: Path, *only: str, seeds: tuple[int, ...] = ()) -> list[str]:
    """Names of what is pending for a choice."""
    state = State.of(read_plan("plans/two.yaml"))
    return [t.name for t in state.pending(select(state.plan, list(only), list(seeds))(state.plan))]


def test_a_choice_has_all_that_it_needs(recipe: Path) -> None:
    assert names(recipe, "alone", seeds=(2,)) == ["alone, 1x, seed 2", "alone, 2x, seed 2"]
    assert names(recipe, "*, 2x", seeds=(1,)) == [
        "alone, 2x, seed 1", "Teacher, seed 1", "KL, weight 1, 1x, seed 1", "KL, weight 10, 1x, seed 1",
        "KL, 2x, seed 1",
    ]  # fmt: skip
    assert names(recipe, "KL, weight ?") == ["Teacher, seed 1", "KL, weight 1, 1x, seed 1"]
    assert len(names(recipe)) == 11


def test_a_name_or_seed_that_chooses_nothing(recipe: Path) -> None:
    with pytest.raises(UserError, match="no row is called 'kl'; rows: Teacher; alone; KL, weight 1;"):
        names(recipe, "KL", "kl")
    with pytest.raises(UserError, match="no row has the seed 3"):
        names(recipe, seeds=(3,))


def test_a_name_with_brackets(recipe: Path) -> None:
    plan = recipe / "plans/two.yaml"
    plan.write_text(f'{PLAN}  "alone [b]": {{like: alone, seeds: [1]}}\n')
    assert names(recipe, "alone [b]") == ["alone [b], 1x, seed 1", "alone [b], 2x, seed 1"]
    assert names(recipe, "* [b], 2x") == ["alone [b], 2x, seed 1"]


def test_a_choice_among_choices_and_a_chosen_teacher(recipe: Path) -> None:
    plan = recipe / "plans/two.yaml"
    best = "  best: {best_of: [KL, alone], lengths: [2x], seeds: [1]}\n"
    plan.write_text(f"{PLAN}{best}  after: {{like: alone, teacher: KL}}\n")
    pending = names(recipe, "after, 2x", "best", seeds=(1,))
    assert pending[-4:] == ["KL, 1x, seed 1", "best, 2x, seed 1", "KL, 2x, seed 1", "after, 2x, seed 1"]
    main([str(plan), "--jobs", "2"])
    assert "after_2x_seed2" in trained(recipe) and len(trained(recipe)) == len(set(trained(recipe)))
    after = [line for line in record_file(recipe).splitlines() if '"row":"after","seed":2' in line]
    assert len(after) == 2 and all('"teacher_rows":[["KL, weight 1",2,"2x"]]' in line for line in after)


def test_a_choice_among_choices_is_made_in_any_order_of_the_rows(recipe: Path) -> None:
    plan = recipe / "plans/two.yaml"
    best = "  best: {best_of: [KL, alone], lengths: [2x], seeds: [1]}\n"
    plan.write_text(PLAN.replace("rows:\n", f"rows:\n{best}"))
    main([str(plan), "--jobs", "2"])
    assert not any(row.best_of for row in State.of(read_plan(plan)).plan.rows.values())
    results = Results(read_plan(plan), read_records(recipe / "plans/results/two.jsonl"))
    assert results.choices.keys() == {"best", "KL"}


def test_a_dry_run_prints_commands_and_hours(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plans/two.yaml", "--dry_run", "--only", "KL", "--data_options", "--corpus there"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# data of Teacher, seed 1"
    assert lines[1].endswith("--stage 1 --stop_stage 5 --corpus there")
    candidates = "KL, weight 1, 1x, seed 1; KL, weight 10, 1x, seed 1"
    assert [line for line in lines if line.startswith("#")][2:] == [
        "# Teacher, seed 1: ? core-hours", "# KL, weight 1, 1x, seed 1: ? core-hours",
        "# KL, weight 10, 1x, seed 1: ? core-hours",
        *(
            f"# KL, {variant}: ? core-hours, the best row after {candidates}"
            # 1x, seed 1 is a training of the candidates
            for variant in ("2x, seed 1", "1x, seed 2", "2x, seed 2")
        ),
        "# 6 trainings, 0.0 core-hours and 6 of unknown length",
    ]  # fmt: skip
    assert not (recipe / "calls").exists() and not (recipe / "exp").exists()
    main(["plans/two.yaml", "--only", "KL, weight 1", "--seeds", "1"])
    capsys.readouterr()
    main(["plans/two.yaml", "--dry_run", "--seeds", "1"])
    lines = capsys.readouterr().out.splitlines()
    hours = [line for line in lines if line.startswith("# ")]
    # a training of 18 epochs took an hour of CPU time
    assert hours[0] == "# alone, 1x, seed 1: 1.0 core-hours"
    assert hours[2] == "# alone, 2x, seed 1: 2.0 core-hours"
    assert hours[-1] == "# 4 trainings, 6.0 core-hours"  # KL, 1x is one of its candidates
    main(["plans/two.yaml", "--dry_run", "--seeds", "1", "--only", "alone", "--again"])
    assert "# alone, 1x, seed 1: 1.0 core-hours" in capsys.readouterr().out.splitlines()


def test_what_reads_files_of_another_training_waits_for_it(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = """
  labels: {options: {unlabelled_sets: train}, teacher: Teacher}
  lists: {after: labels, args: {nbest: records=exp/two/teacher_seed1/labels}, seeds: [2]}
"""
    (recipe / "plans/two.yaml").write_text(PLAN.rstrip("\n") + rows)
    main(["plans/two.yaml", "--status"])
    assert "waiting: lists for labels; Teacher" in capsys.readouterr().out.splitlines()
    main(["plans/two.yaml", "--only", "lists"])
    assert trained(recipe) == ["teacher_seed1", "labels_seed1", "lists_seed2"]
    results = Results(read_plan("plans/two.yaml"), read_records(recipe / "plans/results/two.jsonl"))
    assert "Trained by another command" not in render(results, {})
    shutil.rmtree(recipe / "exp/two/teacher_seed1")
    capsys.readouterr()
    main(["plans/two.yaml", "--status"])  # the teacher is on record, but its files are gone
    assert "waiting: KL, weight 1, 1x; KL, weight 10, 1x; labels for Teacher" in capsys.readouterr().out


def test_the_status_of_a_training_that_runs(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe / "hold").touch()
    process = start(recipe, "--only", "Teacher")
    until(lambda: (recipe / "exp/two/teacher_seed1/train.log").exists())
    (recipe / "exp/two/teacher_seed1/train.log").write_text(
        "[host] 2026-01-01 00:00:00,000 (trainer:311) INFO: 3/18epoch started. Estimated time to finish: x\n"
    )
    main(["plans/two.yaml", "--status"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(maxsplit=1) == ["Teacher", "epoch 3/18"]
    process.terminate()
    assert process.wait(60) == 130
    main(["plans/two.yaml", "--status"])
    assert capsys.readouterr().out.splitlines()[1].split(maxsplit=1) == ["Teacher", "epoch 3/18, stopped"]


def test_what_decodes_in_another_way_has_a_directory_of_its_own(recipe: Path) -> None:
    other = 'teacher.yaml, inference_config: conf/a.yaml, inference_args: "--beam_size 5",'
    (recipe / "plans/two.yaml").write_text(PLAN.replace("teacher.yaml,", other))
    plan = read_plan("plans/two.yaml")
    trials = [plan.trials(plan.rows[name])[0] for name in ("Teacher", "alone")]
    tags = [options_of(command(plan, trial), ())["inference_tag"] for trial in trials]
    assert tags == ["a_-beam_size-5", "decode"]
    assert all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.,+=-]*", tag) for tag in tags)  # what kd.sh takes


@pytest.mark.parametrize("value", ["'a b'", "", "[a, {b: 1}]"])
def test_a_value_that_kd_sh_would_divide_is_refused(recipe: Path, value: str) -> None:
    plan = recipe / "plans/two.yaml"
    plan.write_text(PLAN.replace("ctc.weight=10", value))
    with pytest.raises(UserError, match="row 'KL, weight 10': .* is a single value for a training"):
        main([str(plan), "--dry_run"])


def test_a_value_that_looks_like_an_option_of_run_sh(recipe: Path) -> None:
    plan = recipe / "plans/two.yaml"
    plan.write_text(PLAN.replace("expdir: exp/two,", "expdir: exp/two, inference_args: --nj,"))
    state = State.of(read_plan(plan))
    words = command(state.plan, state.trials()[0])
    assert "--inference_args=--nj" in words
    options = options_of(words)
    assert options["inference_args"] == "--nj" and options_of(shlex.join(words)) == options


def test_every_option_of_kd_sh_belongs_to_the_data_or_not() -> None:
    block = KD_SH.read_text().partition("# options\n")[2].partition("# end of options")[0]
    sections = dict(re.findall(r"^# ([A-Z][\w ]+)\n((?:[a-z ].*\n)+)", block, re.MULTILINE))
    options = {title: set(re.findall(r"^([a-z]\w*)=", s, re.MULTILINE)) for title, s in sections.items()}
    assert set(options) == {"General", "Data", "Tokens", "Models", "Language model", "Decoding and results"}
    data = {"nj", "python", "dumpdir"} | options["Data"] | options["Tokens"] - {"unlabelled_share"}
    data |= {"use_lm", "lm_train_text"}  # some recipes make the text of a language model in stage 1
    everything = set().union(*options.values())
    assert everything - NOT_DATA - RESERVED == data - {"unlabelled_share", "labeller", "labeller_model"}
    assert NOT_DATA <= everything


def test_not_in_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(PLAN)
    with pytest.raises(UserError, match="there is no ./run.sh here: run this in the directory of a recipe"):
        main(["two.yaml"])
    with pytest.raises(UserError, match="the configuration plans/x.yaml does not exist"):
        main(["plans/x.yaml"])


def test_a_configuration_that_is_missing_is_named_before_data_are_prepared(recipe: Path) -> None:
    (recipe / "conf/kd.yaml").unlink()
    main(["plans/two.yaml", "--dry_run", "--only", "alone"])
    with pytest.raises(UserError, match="row 'KL, weight 1': kd_config: there is no file conf/kd.yaml"):
        main(["plans/two.yaml", "--only", "KL, weight 1"])
    assert not (recipe / "calls").exists()


def test_trainings_that_read_files_of_each_other_are_refused(recipe: Path) -> None:
    rows = "  a: {args: {x: exp/two/b_seed1}, seeds: [1]}\n  b: {args: {x: exp/two/a_seed1}, seeds: [1]}\n"
    (recipe / "plans/two.yaml").write_text(f"{PLAN}{rows}")
    with pytest.raises(UserError, match="in a circle: a, seed 1 -> b, seed 1 -> a, seed 1"):
        main(["plans/two.yaml", "--status"])


def test_no_jobs(recipe: Path) -> None:
    with pytest.raises(UserError, match="--jobs 0: give a number of at least 1"):
        main(["plans/two.yaml", "--jobs", "0"])


def test_a_file_of_another_training_is_waited_for(recipe: Path) -> None:
    plan = recipe / "plans/two.yaml"
    args = "{init_param: exp/two/kl-weight-1_1x_seed1/valid.acc.best.pth}"
    plan.write_text(f"{PLAN}  after: {{like: alone, args: {args}, seeds: [1]}}\n")
    assert names(recipe, "after") == [
        "Teacher, seed 1", "KL, weight 1, 1x, seed 1", "after, 1x, seed 1", "after, 2x, seed 1"
    ]  # fmt: skip


def test_a_row_is_chosen_by_its_name_though_it_has_signs_of_patterns(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text('rows: {"KL [k=1]": {}, "KL k": {}}')
    plan = read_plan(tmp_path / "p.yaml")
    assert [trial.name for trial in select(plan, ["KL [k=1]"], [])(plan)] == ["KL [k=1], seed 1"]


def test_what_was_trained_with_an_older_configuration_is_not_taken_for_the_row(recipe: Path) -> None:
    """It is finished, but not on record, as where the program was killed before it wrote that."""
    config = recipe / "conf/teacher.yaml"
    config.write_text("max_epoch: 18\nencoder_conf: {layers: 2}\n")
    main(["plans/two.yaml", "--only", "Teacher"])
    (recipe / "plans/results/two.jsonl").unlink()
    (recipe / "exp/two/teacher_seed1/train.yaml").write_text(config.read_text())  # as kd.sh leaves it
    assert names(recipe, "Teacher") == []
    config.write_text("max_epoch: 18\nencoder_conf: {layers: 3}\n")
    assert names(recipe, "Teacher") == ["Teacher, seed 1"]
    config.write_text("max_epoch: 18\n")
    (recipe / "exp/two/teacher_seed1/train.yaml").write_text("max_epoch: 18\nteacher: {exp: [a]}\n")
    assert names(recipe, "Teacher") == []


def test_a_change_of_a_phase_or_of_the_language_model_is_noticed(recipe: Path) -> None:
    """Commas part the phases of a distillation as well as spaces."""
    (recipe / "conf/first.yaml").write_text("max_epoch: 1\n")
    (recipe / "conf/lm.yaml").write_text("lm: transformer\n")
    options = '{kd_config: "conf/first.yaml,conf/kd.yaml", lm_config: conf/lm.yaml}'
    row = f"  phases: {{like: alone, seeds: [1], options: {options}}}\n"
    (recipe / "plans/two.yaml").write_text(PLAN + row)
    found = set()
    for name in ("kd", "first", "kd", "lm"):
        with (recipe / f"conf/{name}.yaml").open("a") as f:
            f.write(f"key{len(found)}: 1\n")
        state = State.of(read_plan("plans/two.yaml"))
        found.add(state.contents(state.plan.trials(state.plan.rows["phases"])[0]))
    assert len(found) == 4


def test_graphs_are_checked_by_the_error_rate_of_the_plan(recipe: Path) -> None:
    plan = read_plan("plans/two.yaml")
    assert "--metric" not in command(plan, plan.trials(plan.rows["alone"])[0])
    (recipe / "plans/two.yaml").write_text(f"{PLAN}metric: cer\n")
    plan = read_plan("plans/two.yaml")
    words = command(plan, plan.trials(plan.rows["alone"])[0])
    assert words[words.index("--metric") + 1] == "cer"
