"""Tables of a plan from fabricated records: what they show, compare and warn of."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from espnet_kd.errors import UserError
from espnet_kd.experiments import pictures
from espnet_kd.experiments.comparisons import CANNOT_TELL, DOES_NOT, PAYS, Results, at_least
from espnet_kd.experiments.plan import Plan, Variant
from espnet_kd.experiments.plan_file import read_plan
from espnet_kd.experiments.records import Record, records_path, write_records
from espnet_kd.experiments.tables import render
from espnet_kd.report.command import main

PLAN = """
title: Small students
seeds: [1, 2, 3]
lengths: {1x: {max_epoch: 1}, 2x: {max_epoch: 2}, 4x: {max_epoch: 4}}
rows:
  Teacher: {seeds: [1]}
  alone: {lengths: [1x, 2x, 4x]}
  "KL, weight 1": {teacher: Teacher, lengths: [1x], seeds: [1]}
  "KL, weight 9": {like: "KL, weight 1"}
  KL: {best_of: ["KL, weight 1", "KL, weight 9"], lengths: [1x, 2x]}
against: [alone, Teacher]
groups:
- {title: Headline, rows: [Teacher, alone, KL], text: Look at 2x.}
- {title: Weights, rows: ["KL, weight 1, 1x", "KL, weight 9, 1x"]}
frontier: [{title: Small, alone: alone, methods: [KL]}]
not_run: {GPT: it has *no* audio}
"""
BASES = ("alone, 1x", "alone, 2x", "alone, 4x", "Teacher")
UTTERANCES = 30  # of 10 words each
HERE = {"torch": "2.0", "threads": 1}


def record(row: str, seed: int, length: str | None, wrong: int, hours: float = 1.0, **fields: Any) -> Record:
    """A training with a number of wrong words on either set; of three in an utterance one is deleted."""
    errors = {}
    for place in range(UTTERANCES):
        own = wrong // UTTERANCES + (place < wrong % UTTERANCES)
        deleted = own // 3
        errors[f"u{place:02d}"] = (own, 10, own - deleted, deleted, 0)
    by_metric = {"wer": errors, "cer": errors}
    known: dict[str, Any] = {
        "command": "./run.sh", "commit": "c0ffee", "environment": HERE, "updates": 100,
        "cpu_seconds": 3600 * hours, "seconds": None, "parameters": 2_000_000, "targets_cpu_seconds": None,
        "teacher_rows": (("Teacher", 1, None),) if row.startswith("KL") else (),
        "errors": {"test": by_metric, "dev": by_metric}, "curve": {"cer_ctc": [0.9, 0.5]},
    }  # fmt: skip
    return Record(row, seed, length, **known | fields)


def trained() -> list[Record]:
    """All trainings of the plan: KL of weight 1 is the better one, and costs 1.2 of the student alone."""
    found = [record("Teacher", 1, None, 30, hours=5)]
    for seed in (1, 2, 3):
        for factor, wrong, same in ((1, 90, False), (2, 60, True), (4, 45, False)):
            more = 0 if same else seed - 1
            found.append(record("alone", seed, f"{factor}x", wrong + more, factor, updates=100 * factor))
        found.append(record("KL, weight 1", seed, "1x", 66, 1.2))
        found.append(record("KL, weight 1", seed, "2x", 40 + seed - 1, 2.4, updates=200))
    return [*found, record("KL, weight 9", 1, "1x", 80, 1.2)]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    Path("plans").mkdir()
    Path("plans/small.yaml").write_text(PLAN)
    return read_plan("plans/small.yaml")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on all trainings."""
    path = tmp_path_factory.mktemp("all") / "plans/small.yaml"
    path.parent.mkdir()
    path.write_text(PLAN)
    return text_of(read_plan(path), trained())


def text_of(plan: Plan, records: Iterable[Record]) -> str:
    return render(Results(plan, list(records)), {})


def rows(text: str, *start: str) -> list[list[str]]:
    """Cells of the lines of all tables that begin so."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {' | '.join(start)} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_headline_is_as_on_paper(text: str) -> None:
    # 30 of 300 words; 10 utterances each with ... one error: none deleted
    assert rows(text, "Teacher")[0] == ["Teacher", "2.00 M", "100", "5.00", "1", "10.0", "10.0", "30/0/0"]
    # 90, 91, 92 of 300: 30.3 +- 0.33; 3 errors an utterance, one of them deleted, the fourth one not
    line = rows(text, "alone, 1x")[0]
    assert line == ["alone, 1x", "2.00 M", "100", "1.00", "1 2 3", "30.3 ± 0.3", "30.3 ± 0.3", "183/90/0"]
    assert rows(text, "KL, 2x")[0][3:7] == ["2.40", "1 2 3", "13.7 ± 0.3", "13.7 ± 0.3"]
    # 1 teacher, 3 x 3 alone, 2 x 3 KL and the other weight; 5 + 3 (1 + 2 + 4) + 3 (1.2 + 2.4) + 1.2 hours
    assert '17 of 17 trainings are done; they took 38.0 core-hours. "KL" is "KL, weight 1", the best' in text
    # 1.2 hours each, seed 1 at 1x
    assert '"KL, weight 9"; the 2 trainings of this choice took 2.4 core-hours.' in text
    assert "| GPT | it has \\*no\\* audio |" in text
    assert "without its teachers, the decoding of pseudo-labels and of n-best lists, and the search" in text


def test_a_row_is_compared_at_equal_updates_and_at_equal_compute(text: str) -> None:
    found = {(line[1], line[2]): line[3:] for line in rows(text, "KL, 2x") if line[1] in BASES}
    assert set(found) == {
        ("alone, 2x", "equal updates"), ("alone, 4x", "equal compute, longest"), ("Teacher", "teacher")
    }  # fmt: skip
    # 41 of 300 against 46, in every seed 5 fewer: -1.67 points, 11 % of 15.3
    test, dev, verdict = found["alone, 4x", "equal compute, longest"]
    assert test == dev and test.startswith("-1.67 (-11 %), -") and verdict == PAYS
    assert found["alone, 2x", "equal updates"][2] == ""
    assert (
        found["Teacher", "teacher"][0].startswith("+3.67 (+37 %), +")
        and "\\*" in found["Teacher", "teacher"][0]
    )
    first = {(line[1], line[2]): line[3:] for line in rows(text, "KL, 1x") if line[1] in BASES}
    # at equal compute 66 of 300 against 60 of the student alone at 2x
    assert first["alone, 2x", "equal compute"][0].startswith("+2.00 (+10 %)")
    assert first["alone, 2x", "equal compute"][2] == DOES_NOT
    assert ("alone, 1x", "equal updates") in first and ("alone, 4x", "longest") in first
    assert len(rows(text, "alone, 1x", "Teacher")) == 0 and len(rows(text, "alone, 4x", "Teacher")) == 1


def test_the_frontier_shows_the_teacher_free_and_paid(plan: Plan, text: str) -> None:
    assert rows(text, "KL, 2x", "200")[0][2:5] == ["2.40", "7.40", "1 2 3"]
    assert rows(text, "KL, 2x", "free")[0][2] == "4x" and rows(text, "KL, 2x", "free")[0][-1] == PAYS
    assert rows(text, "KL, 2x", "paid")[0][2] == "4x, cheaper: 4.00 of 7.40"
    assert rows(text, "KL, 2x", "paid")[0][-1] == CANNOT_TELL  # better, but for more hours
    assert rows(text, "KL, 1x", "paid")[0][-1] == DOES_NOT  # worse, for more hours
    # the student alone: 46 after 60 of 300 words
    assert "From 2x to 4x, alone still improves on dev: -4.67 (-23 %), -" in text
    store = [replace(r, targets_cpu_seconds=7200.0 if r.row.startswith("KL") else None) for r in trained()]
    assert rows(text_of(plan, store), "KL, 2x", "200")[0][2:4] == ["4.40", "9.40"]  # 2.4 + 2 and 7.4 + 2


def test_what_else_runs_on_the_machine_does_not_decide_what_costs_the_same(plan: Plan) -> None:
    """A training that took 1.5 of the CPU time of its like is compared as it would be on an idle machine."""
    slow = [
        replace(r, cpu_seconds=1.5 * (r.cpu_seconds or 0))
        if (r.row, r.seed, r.length) == ("alone", 2, "2x")
        else r
        for r in trained()
    ]
    text = text_of(plan, slow)
    assert rows(text, "alone, 2x")[0][3] == rows(text_of(plan, trained()), "alone, 2x")[0][3] == "2.00"
    assert "they took 39.0 core-hours" in text  # 38, and 1 of these 2 hours


def test_hours_of_a_faster_machine_are_converted(plan: Plan) -> None:
    """A training of a row, and all of another row, ran on a machine that needs half of the time."""
    fast = {**HERE, "instructions": "avx512"}
    there = [
        replace(r, cpu_seconds=(r.cpu_seconds or 0) / 2, environment=fast)
        if r.row.startswith("KL") or (r.row, r.seed, r.length) == ("alone", 3, "2x")
        else r
        for r in trained()
    ]
    store = [replace(r, targets_cpu_seconds=3600.0) if r.row.startswith("KL") else r for r in there]
    found, plain = text_of(plan, store), text_of(plan, trained())
    assert rows(found, "alone, 2x")[0][3] == rows(plain, "alone, 2x")[0][3] == "2.00"
    assert rows(plain, "KL, 2x", "200")[0][2] == "2.40"
    assert rows(found, "KL, 2x", "200")[0][2] == "4.40"  # the hour of the store is two hours here


def test_costs_that_differ_by_noise_are_equal(plan: Plan) -> None:
    """2x of KL costs 1 % more than 2x of the student alone: that is its partner at equal compute."""
    dear = [
        replace(r, cpu_seconds=3636.0 * (r.updates or 0) / 100) if r.row.startswith("KL") else r
        for r in trained()
    ]
    found = {(line[1], line[2]) for line in rows(text_of(plan, dear), "KL, 2x") if line[1] in BASES}
    assert ("alone, 2x", "equal updates, equal compute") in found


def test_hours_of_cores_and_of_gpus_are_not_added_or_compared(plan: Plan) -> None:
    gpu = {"environment": {**HERE, "gpus": ["H200"]}, "seconds": 1800.0}
    text = text_of(plan, [replace(r, **gpu) if r.row == "Teacher" else r for r in trained()])
    assert "they took 0.5 GPU-hours and 33.0 core-hours." in text
    assert rows(text, "KL, 2x", "200")[0][2:4] == ["2.40", ""]
    assert rows(text, "KL, 2x", "paid")[0][2] == "cost unknown"
    text = text_of(plan, [replace(r, **gpu) if r.row.startswith("KL") else r for r in trained()])
    found = {line[1]: line[2] for line in rows(text, "KL, 2x") if line[1] in BASES}
    assert found == {"alone, 2x": "equal updates †", "alone, 4x": "longest †", "Teacher": "teacher †"}
    assert rows(text, "KL, 2x", "free")[0][2] == "alone has its cost in other hours"


def test_a_row_may_be_called_like_a_variant_of_another(plan: Plan) -> None:
    Path("plans/small.yaml").write_text(PLAN.replace("rows:\n", 'rows:\n  "alone, 2x": {}\n', 1))
    plan = read_plan("plans/small.yaml")
    results = Results(plan, [*trained(), *(record("alone, 2x", seed, None, 10) for seed in (1, 2, 3))])
    kl = results.line(Variant(plan.rows["KL"], "2x"))
    two = (Variant(plan.rows["alone"], "2x"), Variant(plan.rows["alone, 2x"]))
    values = [results.compare(kl, results.line(variant)).differences["test"].value for variant in two]
    assert values == pytest.approx([100 * (41 - 60) / 300, 100 * (41 - 10) / 300])


def test_a_row_is_not_compared_with_the_choice_that_it_is(plan: Plan) -> None:
    text = PLAN.replace("{teacher: Teacher, lengths", "{teacher: Teacher, against: [KL], lengths")
    Path("plans/small.yaml").write_text(text)
    shown = text_of(read_plan("plans/small.yaml"), trained())
    assert rows(shown, "KL, weight 1, 1x") and not rows(shown, "KL, weight 1, 1x", "KL, 1x")


def test_a_choice_among_choices_may_come_first(plan: Plan) -> None:
    first = "  Best: {best_of: [KL, alone], lengths: [1x]}\n  KL: {best_of"
    Path("plans/small.yaml").write_text(PLAN.replace("  KL: {best_of", first))
    results = Results(read_plan("plans/small.yaml"), trained())
    assert {name: row.name for name, row in results.choices.items()} == dict.fromkeys(
        ("Best", "KL"), "KL, weight 1"
    )


def test_lengths_are_in_the_order_of_the_plan(plan: Plan, text: str) -> None:
    Path("plans/small.yaml").write_text(PLAN.replace("[1x, 2x, 4x]", "[4x, 1x, 2x]"))
    assert text_of(read_plan("plans/small.yaml"), trained()) == text


def test_the_same_length_with_other_updates_is_called_so(plan: Plan) -> None:
    text = text_of(plan, [replace(r, updates=150) if r.row.startswith("KL") else r for r in trained()])
    assert rows(text, "KL, 1x", "alone, 1x")[0][2] == "same length"


def test_a_commit_with_changes_is_told_from_the_commit(plan: Plan) -> None:
    commits = ("0" * 40, "0" * 40 + "-dirty")
    text = text_of(plan, [replace(r, commit=commits[r.row == "alone"]) for r in trained()])
    assert "`000000000000` Teacher (seed 1)" in text and "`000000000000-dirty` alone, 1x" in text


def test_one_seed_cannot_tell(plan: Plan) -> None:
    text = text_of(plan, [r for r in trained() if r.seed == 1])
    assert rows(text, "KL, 2x", "free")[0][-1] == f"{CANNOT_TELL}: one seed"
    status = "`espnet-kd experiments plans/small.yaml --status`"
    assert f"- 10 trainings of these rows are not done yet; {status} lists them." in text


def test_only_common_seeds_are_compared(plan: Plan) -> None:
    left = [r for r in trained() if r.seed != 3 or r.row != "KL, weight 1"]
    results = Results(plan, left)
    kl, alone = (results.line(Variant(plan.rows[name], "2x")) for name in ("KL", "alone"))
    comparison = results.compare(kl, alone)
    assert comparison.seeds == (1, 2)
    assert comparison.differences["test"].value == pytest.approx(100 * (40.5 - 60) / 300)
    apart = Results(
        plan, [replace(r, seed=r.seed + 1) if r.row == "alone" else r for r in left if r.seed == 1]
    )
    assert apart.compare(kl, results.line(Variant(plan.rows["alone"], "2x"))).seeds == (1, 2)


def test_a_student_with_one_seed_that_teaches_another_row_is_compared_over_common_seeds(plan: Plan) -> None:
    results = Results(plan, [r for r in trained() if r.seed == 1 or r.row != "alone"])
    results.taught_by.add("alone")
    kl, alone = (results.line(Variant(plan.rows[name], "2x")) for name in ("KL", "alone"))
    assert results.compare(kl, alone).seeds == (1,)


def test_equal_compute_is_not_won_against_a_student_that_was_trained_for_too_long(plan: Plan) -> None:
    """4x of the student alone has 90 errors of 300, 2x has 60: who has hours for 4x takes 2x."""
    short, found = trained()[1], [r for r in trained() if r.length != "4x" or r.seed == 1]
    longer = [replace(r, errors=short.errors) if r.length == "4x" else r for r in found]
    assert [r.rate("dev", "wer") for r in longer if r.length == "4x"] == [30.0]
    text = text_of(plan, longer)
    pairs = {(line[1], line[2]) for line in rows(text, "KL, 2x") if line[1] in BASES}
    assert pairs >= {("alone, 2x", "equal updates, equal compute"), ("alone, 4x", "longest, seed 1")}
    assert rows(text, "KL, 2x", "free")[0][2] == "2x"
    assert rows(text, "KL, 2x", "paid")[0][2] == "2x, cheaper: 2.00 of 7.40"


def test_the_cheapest_that_costs_at_least_as_much(plan: Plan) -> None:
    lines = Results(plan, trained()).lines(plan.rows["alone"])
    named = [getattr(at_least(hours, lines), "name", None) for hours in (0.5, 1.0, 1.01, 1.05, 4.2, None)]
    assert named == ["alone, 1x"] * 3 + ["alone, 2x", None, None]  # 1 % is noise


def test_a_row_without_a_choice_has_no_trainings(plan: Plan) -> None:
    text = text_of(plan, [r for r in trained() if r.row != "KL, weight 9"])
    assert rows(text, "KL, 1x")[0] == ["KL, 1x", "", "", "", "none yet", "", "", ""]


def test_warnings_name_what_differs(plan: Plan) -> None:
    records = trained()
    records[1] = replace(records[1], updates=99, commit="beef", environment={"torch": "3.0", "threads": 1})
    text = text_of(plan, records)
    assert records[1].key == ("alone", 1, "1x")
    assert "- alone, 1x: updates differ between seeds: 99, 100." in text
    assert (
        "- † Trained in another environment than the other rows: alone, 1x (seed 1): torch 3.0, not 2.0."
        in text
    )
    assert rows(text, "KL, 1x", "alone, 1x")[0][2] == "equal updates †"
    assert rows(text, "KL, 1x", "alone, 2x")[0][2] == "equal compute"
    assert (
        "Trained at several commits, between which the code may differ: `c0ffee` Teacher (seed 1); alone"
        in text
    )


def test_what_the_plan_has_no_more_is_left_out(plan: Plan, text: str) -> None:
    gone = record("removed", 1, None, 5)
    unscored = record("Teacher", 2, None, 5)
    del unscored.errors["dev"]
    changed = text_of(plan, [*trained(), gone, unscored])
    note = "not in the plan any more: removed (seed 1); Teacher (seed 2)."
    assert note in changed and note not in text
    assert rows(changed, "Teacher")[0] == rows(text, "Teacher")[0]


def test_the_same_command_elsewhere_has_a_table(plan: Plan) -> None:
    there = record("Teacher", 1, None, 36, elsewhere=True, environment={"torch": "2.0", "threads": 8})
    text = text_of(plan, [*trained(), there])
    assert rows(text, "Teacher", "1")[0] == ["Teacher", "1", "10.0 / 12.0", "10.0 / 12.0", "threads 8, not 1"]
    assert rows(text, "Teacher")[0][5] == "10.0"  # the table of rows has the one from here


def test_folds_are_summed(plan: Plan) -> None:
    text = PLAN.replace(
        "title: Small students", "options: {test_sets: 'test_fold{seed}', valid_set: 'dev_fold{seed}'}"
    )
    Path("plans/small.yaml").write_text(text.replace("Teacher: {seeds: [1]}", "Teacher: {}"))
    records = []
    for r in [*trained(), record("Teacher", 2, None, 30), record("Teacher", 3, None, 60)]:
        errors = {}
        for name, by_metric in r.errors.items():
            own = {f"{r.seed}-{utt}": row for utt, row in by_metric["wer"].items()}
            errors[f"{name}_fold{r.seed}"] = {"wer": own, "cer": own}
        records.append(replace(r, errors=errors))
    plan = read_plan("plans/small.yaml")
    shown = text_of(plan, records)
    assert "WER % test_fold\\*" in shown and "one for each seed" in shown
    assert rows(shown, "Teacher")[0][5] == "13.3 ± 5.8"  # 10, 10 and 20 %
    for r in records:  # fold 3 has a third of its utterances
        if r.seed == 3:
            for by_metric in r.errors.values():
                for utt in list(by_metric["wer"])[10:]:
                    del by_metric["wer"][utt]
    # (30 + 30 + 20) / (300 + 300 + 100)
    assert rows(text_of(plan, records), "Teacher")[0][5] == "11.4 ± 5.8"
    # against the teacher of the same fold: (40 + 41 + 42 - 30 - 30 - 60) / 900
    assert rows(shown, "KL, 2x", "Teacher")[0][3].startswith("+0.33 (+2 %)")


def test_commands_are_in_one_block_that_is_closed(text: str) -> None:
    block = text[text.index("<summary>Command") : text.rindex("</details>")]
    assert "| `espnet-kd experiments plans/small.yaml --only alone --again` | `c0ffee` |" in block
    assert "--only 'KL, weight 1' --again` |" in block


def test_the_report_is_written_from_plan_and_records_alone(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError,
        match="plans/results/small.jsonl has no training of the plan's rows: run `espnet-kd experiments",
    ):
        main(["--plan", "plans/small.yaml"])
    write_records(records_path(plan), trained())
    main(["--plan", "plans/small.yaml"])
    assert capsys.readouterr().out == "tables: plans/results/small.md\n"
    text = Path("plans/results/small.md").read_text()
    links = ["small/frontier.png", "small/wer.png", "small/learning_curves.png"]
    assert [line.split("](")[1][:-1] for line in text.splitlines() if line.startswith("![")] == links
    assert all((Path("plans/results") / link).stat().st_size > 5000 for link in links)
    main(["--plan", "plans/small.yaml"])
    assert Path("plans/results/small.md").read_text() == text


def test_pictures_colour_methods_and_mark_the_student_that_is_to_be_beaten(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of a model that is no row of the plan are a method, too; of too many lines the shortest go."""
    labelled = "rows:\n  labels: {options: {unlabelled_sets: speech}, lengths: [1x, 2x, 4x]}\n"
    headline = PLAN.replace("rows:\n", labelled, 1).replace("rows: [Teacher,", "rows: [labels,", 1)
    Path("plans/small.yaml").write_text(headline)
    known = trained() + [record("labels", 1, f"{n}x", 50, n, updates=100 * n) for n in (1, 2, 4)]
    drawn: dict[str, Any] = {}
    for name in ("rate_rows", "draw_learning_curves", "frontier"):
        monkeypatch.setattr(pictures, name, lambda *args, name=name: drawn.update({name: args}))
    results = Results(read_plan("plans/small.yaml"), known)
    captions = pictures.draw(results, Path("small"))
    shown = drawn["rate_rows"]
    kinds = {row.name: row.kind for row in shown[0]["test"]}
    assert kinds["labels, 1x"] == kinds["KL, 1x"] == "method" and kinds["alone, 4x"] == "alone"
    assert shown[-1] == "alone, 4x"
    assert any("a dot is a seed; the grey line is alone, 4x;" in caption for caption in captions)
    (curves,) = drawn["draw_learning_curves"][0].values()
    # eight lines, of which six fit: all five of methods, and the longest of the student alone
    labels = [f"labels, {n}x" for n in (1, 2, 4)]
    assert [curve.name for curve in curves] == [*labels, "alone, 4x", "KL, 1x", "KL, 2x"]


def test_only_a_student_alone_decides_whether_a_method_pays(plan: Plan) -> None:
    row = "rows:\n  labels: {options: {unlabelled_sets: speech}, lengths: [1x, 2x]}\n"
    Path("plans/small.yaml").write_text(
        PLAN.replace("rows:\n", row, 1).replace("against: [", "against: [labels, ", 1)
    )
    known = trained() + [record("labels", s, "2x", 50, 2.4, updates=200) for s in (1, 2, 3)]
    text = render(Results(read_plan("plans/small.yaml"), known), {})
    found = {line[1]: line[-1] for line in rows(text, "KL, 2x") if "equal compute" in line[2]}
    assert found == {"labels, 2x": "", "alone, 4x": PAYS}
