"""`espnet-kd experiments PLAN --check`: mistakes of rows that are found before any row is trained."""

from pathlib import Path

import pytest

from espnet_kd.experiments.command import main

pytestmark = pytest.mark.slow(seconds=8)

CONF = Path(__file__).parents[2] / "egs/an4/kd1/conf"
PLAN = f"""
options: {{student_config: {CONF}/student_conformer.yaml}}
seeds: [1, 2]
lengths: {{1x: {{max_epoch: 2}}}}
rows:
  teacher: {{options: {{student_config: {CONF}/teacher_conformer.yaml}}}}
  alone: {{lengths: [1x]}}
  KL: {{teacher: teacher, options: {{kd_config: {CONF}/kd_ctc_kl.yaml}}, lengths: [1x]}}
  light: {{like: KL, args: {{criteria: ctc.weight=0.1}}}}
  best: {{best_of: [KL, light], lengths: [1x]}}
  two trainings: {{like: KL, options: {{kd_config: "{CONF}/kd_kl_hidden.yaml {CONF}/kd_ctc_kl.yaml"}}}}
  of the best: {{like: alone, teacher: teachers, options: {{kd_config: encoder.yaml}}}}
  other teacher: {{like: teacher, args: {{max_epoch: 3}}}}
  teachers: {{best_of: [teacher, other teacher]}}
  labelled: {{teacher: teacher, options: {{unlabelled_sets: train}}}}
  lists: {{after: labelled, options: {{kd_config: lists.yaml}}, args: {{nbest: records=exp/labelled}}}}
"""
WRONG = """
  wrong key: {like: KL, args: {criteria: ctc.wieght=0.1}}
  wrong layer: {like: alone, options: {kd_config: mutual.yaml}}
  wrong option: {args: {max_epochs: 3}}
  wrong value: {args: {max_epoch: many}}
"""


def check(root: Path, monkeypatch: pytest.MonkeyPatch, plan: str) -> int | str | None:
    """Run it in a recipe with the plan; return the exit status."""
    (root / "plans").mkdir()
    (root / "plans/mini.yaml").write_text(plan)
    (root / "run.sh").touch()
    (root / "mutual.yaml").write_text("mutual: {peers: 2, criteria: {a: {type: kl, tap: ctc.none}}}")
    # The student has no encoder.encoders.3, its teachers have.
    layers = "student_tap: encoder.encoders.1, teacher_tap: encoder.encoders.3"
    (root / "encoder.yaml").write_text(f"criteria: {{h: {{type: hidden, {layers}}}}}")
    (root / "lists.yaml").write_text("nbest: {weight: 1.0}")
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as exit_:
        main(["plans/mini.yaml", "--check"])
    return exit_.value.code


def test_rows_that_can_be_trained_pass(tmp_path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, monkeypatch, PLAN) == 0, capsys.readouterr().out
    assert capsys.readouterr().out == "plans/mini.yaml: the options of all rows can be used\n"


def test_each_row_with_a_mistake_is_named(tmp_path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, monkeypatch, PLAN + WRONG) == 1
    found = capsys.readouterr().out.splitlines()
    begin = [
        "'wrong key, 1x': criteria: ctc: criterion kl has no option wieght;",
        "'wrong layer, 1x': mutual: peer 1 has no layer 'ctc.none' to tap;",
        "'wrong option': unrecognized arguments: --max_epochs",
        "'wrong value': argument --max_epoch: invalid int value: 'many'",
    ]
    assert len(found) == len(begin), found
    for line, expected in zip(found, begin, strict=True):
        assert line.startswith(f"plans/mini.yaml, row {expected}"), line
