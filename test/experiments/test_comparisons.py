"""What trainings cost, and what is compared: cases that give no error, and must not give a wrong number."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_tables import HERE, PLAN, record, rows, text_of, trained

from espnet_kd.experiments.plan_file import read_plan
from espnet_kd.experiments.records import Record

Report = Callable[..., str]
GPU = "H200"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Return a function that gives the report of some records, of a plan with texts replaced."""

    def made(records: list[Record], *replaced: tuple[str, str]) -> str:
        text = PLAN
        for before, after in replaced:
            assert before in text
            text = text.replace(before, after, 1)
        path = tmp_path / "plans/small.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return text_of(read_plan(path), records)

    return made


def hours(text: str, *start: str) -> str:
    return rows(text, *start)[0][2]


def test_a_resumption_on_another_machine_makes_no_update_of_the_row_cheaper(report: Report) -> None:
    """Seed 2 of 2x began on a machine that needs a tenth, and ended on that of the others."""
    slow, fast = {**HERE, "cpu": "slow"}, {**HERE, "cpu": "fast"}
    found = [replace(r, environment=slow) for r in trained()]
    both: dict[str, Any] = {"environment": {**slow, "earlier": [fast]}}
    keys = ("alone", "2x", 2)
    found = [
        replace(r, **both, cpu_seconds=(r.cpu_seconds or 0) / 4) if (r.row, r.length, r.seed) == keys else r
        for r in found
    ]
    assert [hours(report(found), f"alone, {n}x", f"{n}00") for n in (1, 2, 4)] == ["1.00", "2.00", "4.00"]
    again = {**slow, "torch": "1.0"}  # the same machine
    known = [replace(r, environment={**slow, "earlier": [again]}) for r in trained()]
    assert hours(report(known), "alone, 4x", "400") == "4.00"


@pytest.mark.parametrize("gpus", [[GPU], []])
def test_the_cost_after_a_resumption_on_other_gpus_is_unknown(report: Report, gpus: list[str]) -> None:
    """Three quarters of an hour on four GPUs and one on what is left are not an hour of that."""
    environment = {**HERE, "gpus": gpus, "earlier": [{**HERE, "gpus": 4 * [GPU]}]}
    text = report([replace(r, environment=environment, seconds=6300.0) for r in trained()])
    assert "17 of 17 trainings are done; they took an unknown time." in text
    assert hours(text, "alone, 4x", "400") == ""


def test_lengths_of_other_batches_have_their_own_cost_of_an_update(report: Report) -> None:
    found = [replace(r, updates=100) if r.length == "2x" else r for r in trained()]
    larger = ("2x: {max_epoch: 2}", "2x: {max_epoch: 1, batch_bins: 200}")
    assert [hours(report(found, larger), f"alone, {n}x") for n in (1, 2)] == ["100", "100"]
    assert [rows(report(found, larger), f"alone, {n}x")[0][3] for n in (1, 2)] == ["1.00", "2.00"]


def test_the_teacher_of_what_a_row_reads_is_paid(report: Report) -> None:
    """The hypotheses of n-best lists are of the teacher of the row that made them."""
    added = "  hard: {teacher: Teacher, lengths: [1x]}\n  lists: {after: hard, lengths: [1x]}\n"
    known = [record("hard", s, "1x", 50, 1.2, teacher_rows=(("Teacher", 1, None),)) for s in (1, 2, 3)]
    known += [record("lists", s, "1x", 50, 1.2) for s in (1, 2, 3)]
    text = report(
        trained() + known, ("rows:\n", f"rows:\n{added}"), ("methods: [KL]", "methods: [hard, lists]")
    )
    for name in ("hard", "lists"):
        assert rows(text, f"{name}, 1x", "100")[0][2:4] == ["1.20", "6.20"]
        assert rows(text, f"{name}, 1x", "paid")[0][2] == "4x, cheaper: 4.00 of 6.20"


@pytest.mark.parametrize("options", ["unlabelled_sets: speech, labeller: hf", "kd_config: conf/whisper.yaml"])
def test_what_a_teacher_outside_the_plan_has_cost_is_unknown(
    report: Report, tmp_path: Path, options: str
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/whisper.yaml").write_text("teacher: {hf: downloads/whisper}\n")
    added = f"rows:\n  labels: {{options: {{{options}}}, lengths: [1x]}}\n"
    known = [record("labels", seed, "1x", 50, 1.2) for seed in (1, 2, 3)]
    text = report(trained() + known, ("rows:\n", added), ("methods: [KL]", "methods: [labels]"))
    assert rows(text, "labels, 1x", "100")[0][2:4] == ["1.20", ""]
    assert rows(text, "labels, 1x", "free")[0][2] == "2x"
    assert rows(text, "labels, 1x", "paid")[0][2:] == ["cost unknown", "", "", ""]


def test_a_method_without_a_teacher_is_no_student_alone(report: Report) -> None:
    added = "rows:\n  two views: {options: {kd_config: conf/c.yaml}, lengths: [1x, 2x]}\n"
    known = [record("two views", seed, "2x", 50, 2.4, updates=200) for seed in (1, 2, 3)]
    text = report(trained() + known, ("rows:\n", added), ("\nagainst: [", "\nagainst: [two views, "))
    found = {line[1]: line[-1] for line in rows(text, "KL, 2x") if "equal compute" in line[2]}
    assert found == {"two views, 2x": "", "alone, 4x": "pays"}


def test_updates_that_are_unknown_are_not_called_equal(report: Report) -> None:
    text = report([replace(r, updates=None) for r in trained()])
    assert rows(text, "KL, 1x", "alone, 1x")[0][2] == "same length"


def test_tables_of_the_frontier_name_the_seeds_that_are_compared(report: Report) -> None:
    """Seed 3 of 4x is missing: the mean beside it is over other seeds than the difference."""
    text = report([r for r in trained() if (r.row, r.length, r.seed) != ("alone", "4x", 3)])
    assert rows(text, "KL, 2x", "free")[0][2] == "4x, seed 1 2"
    assert rows(text, "KL, 1x", "free")[0][2] == "2x"
    (line,) = (line for line in text.splitlines() if line.startswith("From 2x to 4x"))
    assert line.endswith(", seed 1 2.")


def test_a_training_whose_seed_the_plan_has_no_more_is_named(report: Report) -> None:
    text = report(trained(), ("seeds: [1, 2, 3]", "seeds: [1, 2]"))
    left = "Left out, their rows, lengths, seeds or sets are not in the plan any more: alone, 1x (seed 3); "
    assert left in text
    assert "Left out" not in report(trained())


def test_a_teacher_that_was_chosen_is_compared_with_all_seeds_of_a_student(report: Report) -> None:
    chosen = "rows:\n  small: {seeds: [1]}\n  large: {seeds: [1]}\n"
    teacher = "Teacher: {best_of: [small, large], seeds: [1]}"
    known = [record("small", 1, None, 40), record("large", 1, None, 30)]
    taught = [replace(r, teacher_rows=(("large", 1, None),)) for r in trained() if r.row != "Teacher"]
    text = report(taught + known, ("rows:\n", chosen), ("Teacher: {seeds: [1]}", teacher))
    # (40 + 41 + 42) / 900 - 30 / 300
    assert rows(text, "KL, 2x", "Teacher")[0][2:4] == rows(report(trained()), "KL, 2x", "Teacher")[0][2:4]
