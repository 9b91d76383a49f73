"""Plans: what their rows train, and the mistakes that are refused."""

from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.experiments.plan import Plan, Trial, Variant, chosen
from espnet_kd.experiments.plan_file import PLAN_KEYS, ROW_KEYS, read_plan

TEXT = """
title: Two students
options: {inference_config: conf/decode_ctc.yaml, speed_perturb_factors: "", expdir: exp/two}
seeds: [1, 2]
lengths:
  1x: {max_epoch: 18, scheduler_conf: max_steps=100}
  2x: {max_epoch: 36, scheduler_conf: max_steps=200}
rows:
  Teacher:
    options: {student_config: conf/teacher.yaml, speed_perturb_factors: "0.9 1.0 1.1"}
    seeds: [1]
  alone: {options: {student_config: conf/student.yaml}, lengths: [1x, 2x]}
  "KL, weight 1":
    like: alone
    teacher: Teacher
    options: {kd_config: conf/kd.yaml}
    args: {criteria: [ctc.weight=1, att.weight=1]}
    seeds: [1]
    lengths: [1x]
  "KL, weight 10": {like: "KL, weight 1", args: {criteria: ctc.weight=10}}
  KL: {best_of: ["KL, weight 1", "KL, weight 10"], lengths: [1x, 2x]}
against: [alone, Teacher]
groups:
- {title: Headline, rows: [Teacher, alone, "KL, 2x"], text: Look at the last.}
frontier: [{title: Small, alone: alone, methods: [KL]}]
not_run: {GPT: it does not exist}
"""


def plan_of(tmp_path: Path, text: str = TEXT) -> Plan:
    path = tmp_path / "two.yaml"
    path.write_text(text)
    return read_plan(path)


def test_a_row_has_the_options_of_the_plan_and_its_own(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    teacher = plan.rows["Teacher"]
    assert teacher.options["speed_perturb_factors"] == "0.9 1.0 1.1"
    assert plan.rows["alone"].options == {
        "inference_config": "conf/decode_ctc.yaml",
        "speed_perturb_factors": "",
        "expdir": "exp/two",
        "student_config": "conf/student.yaml",
    }
    assert teacher.seeds == (1,) and plan.rows["alone"].seeds == (1, 2)


def test_a_row_starts_from_the_row_that_it_is_like(tmp_path: Path) -> None:
    row = plan_of(tmp_path).rows["KL, weight 10"]
    assert row.options["student_config"] == "conf/student.yaml"
    assert row.options["kd_config"] == "conf/kd.yaml"
    assert row.args == {"criteria": "ctc.weight=10"}
    assert [teacher.row for teacher in row.teachers] == ["Teacher"]
    assert (row.seeds, row.lengths) == ((1,), {"1x": {}})


def test_a_training_has_the_schedule_of_its_length_and_a_directory(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    trial = Trial(Variant(plan.rows["KL, weight 1"], "1x"), 2)
    assert (
        trial.args(plan.lengths)
        == (
            "--seed 2 --max_epoch 18 --scheduler_conf max_steps=100 "
            "--criteria ctc.weight=1 --criteria att.weight=1"
        ).split()
    )
    assert trial.directory == Path("exp/two/kl-weight-1_1x_seed2")
    assert trial.name == "KL, weight 1, 1x, seed 2"
    assert plan.teacher_trials(trial) == [Trial(Variant(plan.rows["Teacher"]), 1)]


def test_a_row_may_have_options_of_its_own_at_a_length(tmp_path: Path) -> None:
    text = TEXT.replace("    lengths: [1x]", "    lengths: {1x: {accum_grad: 2, max_epoch: 9}, 2x: }", 1)
    plan = plan_of(tmp_path, text)
    row = plan.rows["KL, weight 10"]
    assert Trial(Variant(row, "1x"), 1).args(plan.lengths)[2:] == (
        "--max_epoch 9 --scheduler_conf max_steps=100 --criteria ctc.weight=10 --accum_grad 2".split()
    )
    assert "36" in Trial(Variant(row, "2x"), 1).args(plan.lengths)
    text = text.replace("args: {criteria: ctc.weight=10}", "lengths: {2x: }")
    assert list(plan_of(tmp_path, text).rows["KL, weight 10"].lengths) == ["2x"]


def test_trials_are_in_order_of_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    names = [trial.name for trial in plan.trials(plan.rows["alone"])]
    assert names == ["alone, 1x, seed 1", "alone, 2x, seed 1", "alone, 1x, seed 2", "alone, 2x, seed 2"]


def test_the_best_row_is_trained_with_the_seeds_and_lengths_of_the_row_that_chose_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    row = chosen(plan.rows["KL"], plan.rows["KL, weight 10"])
    assert (row.name, row.seeds, list(row.lengths)) == ("KL, weight 10", (1, 2), ["1x", "2x"])


def test_groups_and_frontiers_have_variants_and_rows(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (group,) = plan.groups
    assert [v.name for v in group.variants] == ["Teacher", "alone, 1x", "alone, 2x", "KL, 2x"]
    assert plan.frontier[0].methods == (plan.rows["KL"],)
    assert plan.rows["alone"].against == ("Teacher",)


def test_a_row_is_compared_with_what_the_row_is_that_it_is_like(tmp_path: Path) -> None:
    text = TEXT.replace("    teacher: Teacher\n", "    teacher: Teacher\n    against: [alone]\n", 1)
    plan = plan_of(tmp_path, text)
    assert plan.rows["KL, weight 1"].against == plan.rows["KL, weight 10"].against == ("alone",)
    assert plan.rows["KL"].against == ("alone", "Teacher")


def test_a_seed_chooses_the_fold_and_its_teacher(tmp_path: Path) -> None:
    text = TEXT.replace('speed_perturb_factors: "", ', 'train_set: "train_fold{seed}", ')
    text = text.replace("expdir: exp/two", 'expdir: "exp/fold{seed}"')
    text = text.replace("    seeds: [1]\n  alone", "    seeds: [1, 2]\n  alone")
    plan = plan_of(tmp_path, text)
    trial = Trial(Variant(plan.rows["KL, weight 1"], "1x"), 2)
    assert trial.options["train_set"] == "train_fold2"
    assert trial.directory == Path("exp/fold2/kl-weight-1_1x_seed2")
    assert [t.name for t in plan.teacher_trials(trial)] == ["Teacher, seed 2"]


def test_an_ensemble_has_several_teachers(tmp_path: Path) -> None:
    text = TEXT.replace("    seeds: [1]\n  alone", "  alone").replace(
        "teacher: Teacher", "teacher: {row: Teacher, seeds: [1, 2]}"
    )
    plan = plan_of(tmp_path, text)
    trial = Trial(Variant(plan.rows["KL, weight 1"], "1x"), 1)
    assert [t.name for t in plan.teacher_trials(trial)] == ["Teacher, seed 1", "Teacher, seed 2"]


def test_sets_are_those_of_the_row(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TEXT.replace("student.yaml}", 'student.yaml, test_sets: "a b", valid_set: v}'))
    assert plan.sets(Trial(Variant(plan.rows["alone"], "1x"), 1)) == ["a", "b", "v"]
    assert plan.sets(Trial(Variant(plan.rows["Teacher"]), 1)) == ["test", "dev"]
    folds = plan_of(tmp_path, 'test_sets: "test_fold{seed}"\nvalid_set: "dev_fold{seed}"' + TEXT)
    assert folds.sets(Trial(Variant(folds.rows["Teacher"]), 1)) == ["test_fold1", "dev_fold1"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", "unknown key titel; known: title,"),
        ("like: alone", "lik: alone", "unknown key lik; known: like,"),
        ("teacher: Teacher", "teacher: teacher", "there is no row 'teacher'; rows: Teacher; alone;"),
        ("like: alone", 'like: "KL, weight 10"', "is a circle"),
        ('lengths: [1x, 2x]}\n  "KL', 'lengths: [3x]}\n  "KL', "there is no length '3x'; lengths: 1x; 2x"),
        ('[Teacher, alone, "KL, 2x"]', "[nobody]", "there is no row 'nobody'"),
        (
            "  KL: {",
            '  "KL weight 1": {best_of: [alone, Teacher]}\n  KL: {',
            "have the directory name 'kl-weight-1'",
        ),
        ("seeds: [1, 2]", "seeds: [1, one]", "is not a list of whole numbers"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "has a seed twice"),
        ("{kd_config: conf/kd.yaml}", "{stage: 9}", "--stage is set for every training by the plan"),
        ("alone: alone", "alone: Teacher", "'Teacher' has no lengths, so it has no curve"),
        ('best_of: ["KL, weight 1", ', "best_of: [KL, ", "rows need each other in a circle: KL -> KL"),
        ("teacher: Teacher", "after: [alone]", "after: there is no row \"['alone']\""),
        ("teacher: Teacher", "after: KL", "after: 'KL' has best_of: name one of its rows"),
        ("teacher: Teacher", 'after: "KL, weight 1"', "in a circle: KL, weight 1 -> KL, weight 1"),
        ("teacher: Teacher", "teacher: {row: Teacher, seeds: [7]}", "the teacher 'Teacher' has no seed 7"),
        ("rows: [Teacher, alone,", "rows: [alone, alone, alone, alone,", "the headline table has at most 8"),
        ("title: Two students", "metric: per", "metric: per is not one of wer, cer"),
        ("rows:\n", "rows: []\nlist:\n", "unknown key list"),
        ("args: {criteria: ctc.weight=10}", "args: ctc.weight=10", "'ctc.weight=10' is not a mapping"),
        ("args: {criteria: ctc.weight=10}", "args: {seed: 5}", "--seed is set for every training"),
        ("1x: {max_epoch: 18,", "1x: {seed: 5, max_epoch: 18,", "--seed is set for every training"),
        ("lengths:\n", "lengths: [1x]\nmetric:\n", "['1x'] is not a mapping"),
        ("{kd_config: conf/kd.yaml}", "{test_sets: [a, b]}", "is not a single text: write several words as"),
        ("title: Two students", "test_sets: [a, b]", "is not a single text: write several words as"),
        ("seeds: [1, 2]", "seeds: [1, 4294967296]", "is not a list of whole numbers"),
        ("title: Two students", "title: [a]", "title: ['a'] is not a single text"),
        ("  2x: {max", "  2/x: {max", "the length '2/x' is a part of directories"),
        ("  alone: {", '  "a\\nb": {}\n  alone: {', "the name of the row 'a\\nb' has a line break"),
        ("[alone, Teacher]\n", "[alone, nobody]\n", "two.yaml: against: there is no row 'nobody'"),
        ("teacher: Teacher", "teacher: {seeds: [1]}", "teacher: `row` is missing"),
        ("title: Headline, ", "", "groups: `title` is missing"),
        ("alone: alone, ", "", "frontier: `alone` is missing"),
        ("lengths: [1x, 2x]}\nagainst", "args: {lr: 1}}\nagainst", "as it is: leave out `args`"),
        ('1", args', '1", options: {valid_set: dev2}, args', "several validation sets: dev, dev2"),
        ("lengths: [1x, 2x]}\nagainst", "lengths: {1x: {lr: 1}, 2x: }}\nagainst", "give them to that row"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(UserError) as error:
        plan_of(tmp_path, TEXT.replace(old, new, 1))
    assert message in str(error.value)
    assert str(tmp_path / "two.yaml") in str(error.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ('speed_perturb_factors: "0.8 1.2"', r"speed_perturb_factors \(0.9 1.0 1.1, 0.8 1.2\): give"),
        ("max_wav_duration: 10", r"max_wav_duration \(default, 10\): give one another --dumpdir and --lang"),
        ("max_wav_duration: 10, train_set: train_20", r"max_wav_duration \(default, 10\): give"),
        ("cleaner: tacotron", r"cleaner \(default, tacotron\): give one another --lang"),
    ],
)
def test_rows_do_not_prepare_the_same_directories_differently(
    tmp_path: Path, option: str, message: str
) -> None:
    """The data that are prepared last would serve both."""
    speeds = "" if "speed" in option else 'speed_perturb_factors: "0.9 1.0 1.1", '
    row = f"  other: {{options: {{student_config: conf/t.yaml, {speeds}{option}}}, seeds: [1]}}\nagainst"
    with pytest.raises(UserError, match=f"'Teacher' and 'other' would prepare .* another {message}"):
        plan_of(tmp_path, TEXT.replace("against", row, 1))
    apart = row.replace(option, f"{option}, lang: other, dumpdir: dump/other")
    plan_of(tmp_path, TEXT.replace("against", apart, 1))


@pytest.mark.parametrize(
    "options",
    [
        "valid_set: other, max_wav_duration: 10",  # test sets keep all utterances
        "post_process_local_data_opts: --other",  # of the training set
        "test_sets: 2000, unlabelled_sets: null",
    ],
)
def test_rows_prepare_sets_of_the_same_name_equally(tmp_path: Path, options: str) -> None:
    options = f"student_config: conf/t.yaml, train_set: t, lang: t, {options}"
    row = f"  other: {{options: {{{options}}}, seeds: [1]}}\n"
    assert "other" in plan_of(tmp_path, TEXT.replace("against", f"{row}against", 1)).rows


def test_rows_do_not_copy_unlabelled_speech_at_other_speeds(tmp_path: Path) -> None:
    options = 'student_config: conf/t.yaml, unlabelled_sets: u, unlabelled_speeds: "{}"'
    speeds = ("0.9", "0.8", "")
    rows = "".join(f"  at {s}: {{options: {{{options.format(s)}}}, seeds: [1]}}\n" for s in speeds)
    text = TEXT.replace("against", f"{rows}against", 1)
    with pytest.raises(UserError, match=r"'at 0.9' and 'at 0.8' would .* unlabelled_speeds \(0.9, 0.8\)"):
        plan_of(tmp_path, text)
    plan_of(tmp_path, text.replace('"0.8"', '"0.9"', 1))


def test_lengths_of_a_row_are_in_the_order_of_the_plan(tmp_path: Path) -> None:
    text = TEXT.replace("student.yaml}, lengths: [1x, 2x]", "student.yaml}, lengths: [2x, 1x]")
    plan = plan_of(tmp_path, text)
    assert list(plan.rows["alone"].lengths) == ["1x", "2x"]


def test_a_choice_has_no_seed_without_a_teacher(tmp_path: Path) -> None:
    text = TEXT.replace("    seeds: [1]\n  alone", "    seeds: [1, 2]\n  alone")
    text = text.replace("lengths: [1x, 2x]}\nagainst", "seeds: [1, 2, 3], lengths: [1x, 2x]}\nagainst")
    with pytest.raises(UserError, match="row 'KL': the teacher 'Teacher' has several seeds, but not 3"):
        plan_of(tmp_path, text)


def test_a_plan_needs_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no rows"):
        plan_of(tmp_path, "title: empty\n")


def test_the_documentation_has_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs/experiments.md").read_text()
    for heading, keys in (("plan", PLAN_KEYS), ("row", ROW_KEYS)):
        table = page.partition(f"| key of a {heading} |")[2].partition("\n\n")[0]
        cells = [line.split("|")[1] for line in table.splitlines()[2:]]
        assert {name.strip(" `") for cell in cells for name in cell.split(",")} == set(keys)
