"""Pictures of the groups of a recipe's experiments."""

from pathlib import Path

import pytest
from fabricated import config, distilled, write_checkpoint, write_experiment, write_recipe, write_score

from espnet_kd.report import group_plots, look, plots
from espnet_kd.report.groups import RunGroup, make_groups
from espnet_kd.report.run import find_runs

SETS = ["test", "dev"]


def read(exp: Path) -> list[RunGroup]:
    return make_groups(find_runs(list(exp.iterdir()), SETS, []))


def add(exp: Path, name: str, settings: dict, wrong: int) -> None:
    directory = write_experiment(exp / name, settings, {"role": "student"})
    write_checkpoint(directory, 50, cer_ctc=0.5)
    for of_set in SETS:
        write_score(directory, of_set, wrong)


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    write_recipe(tmp_path / "exp")
    return tmp_path / "exp"


def test_rows_are_those_of_the_table(exp: Path) -> None:
    rows = group_plots.rows(read(exp), "test")
    assert [(row.name, row.kind) for row in rows] == [
        ("teacher", "teacher"),
        ("student", "alone"),
        ("student, trained longer (2 x)", "alone"),
        ("distilled: ctc", "method"),
    ]
    taught = rows[-1]  # 10 and 12 of 80 words
    assert taught.mean == 13.75 and list(taught.dots) == [12.5, 15.0] and taught.low < 13.75 < taught.high


def test_learning_curves_are_of_the_baselines_and_the_best(exp: Path) -> None:
    for weight in range(1, 8):  # the lower, the better
        add(exp, f"taught_{weight}", distilled(weight_decay=weight), wrong=weight)
    chosen = group_plots.headline(read(exp), "dev")
    assert [group.name for group in chosen] == ["teacher", "student", *(f"taught_{i}" for i in range(1, 6))]
    assert len(chosen) == look.LINES + 1


def test_a_picture_for_each_architecture(exp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is compared with the baseline of its own architecture."""
    small = {"encoder_conf": {"output_size": 4}}
    add(exp, "small", config(**small), wrong=38)
    add(exp, "small_taught", distilled(**small), wrong=33)
    drawn = []
    monkeypatch.setattr(plots, "rate_rows", lambda panels, path, unit, colours: drawn.append(panels))
    captions = group_plots.draw_rates(read(exp), SETS, Path("images"))
    assert list(captions.values()) == [Path("images/wer.png"), Path("images/wer_2.png")]
    assert [caption[-9:] for caption in captions] == [" (1 of 2)", " (2 of 2)"]
    counts = [[(row.kind, round(row.mean)) for row in panels["dev"]] for panels in drawn]
    assert sorted(counts, key=len) == [
        [("teacher", 5), ("alone", 48), ("method", 41)],
        [("teacher", 5), ("alone", 39), ("alone", 38), ("method", 14)],
    ]


def test_no_curves_no_picture(exp: Path, tmp_path: Path) -> None:
    groups = read(exp)
    assert list(group_plots.draw_curves(groups, SETS, tmp_path).values()) == [
        tmp_path / "learning_curves.png"
    ]
    (tmp_path / "learning_curves.png").unlink()
    for run in (run for group in groups for run in group.runs):
        run.history.epochs.clear()
    assert group_plots.draw_curves(groups, SETS, tmp_path) == {}
    assert not (tmp_path / "learning_curves.png").exists()
