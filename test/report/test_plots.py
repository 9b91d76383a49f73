from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import write_recipe

from espnet_kd.report import plots
from espnet_kd.report.groups import Group, make_groups
from espnet_kd.report.run import find_runs


@pytest.fixture
def groups(tmp_path: Path) -> list[Group]:
    write_recipe(tmp_path / "exp")
    return make_groups(find_runs(list((tmp_path / "exp").iterdir()), ["test", "dev"], []))


def picture(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def has_colour(path: Path, colour: str) -> bool:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(picture(path) - rgb).max(axis=-1) < 0.02).any())


def test_curves_of_every_group_are_drawn(groups: list[Group], tmp_path: Path) -> None:
    assert plots.learning_curves(groups, tmp_path / "c.png")
    for colour in plots.colours(groups).values():
        assert has_colour(tmp_path / "c.png", colour)
    height, width, _ = picture(tmp_path / "c.png").shape
    assert width > 3 * 400 and height > 400  # three panels: cer_ctc, acc, loss


def test_outputs_that_are_not_trained_yet_do_not_squeeze_the_others(
    groups: list[Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CER of 0.5 and 20 nats are the highest of models that learned the task from the start."""
    panels: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: panels.extend(figure.axes))
    taught = groups[-1].runs[0]
    taught.history.epochs[1]["valid"].update(cer_ctc=4.0, acc=1.0, loss_task=160.0)
    plots.learning_curves(groups, tmp_path / "c.png")
    assert [ax.get_ylim()[1] for ax in panels] == pytest.approx([1.2, 1.04, 24.0], rel=0.02)
    assert all(ax.get_ylim()[0] > -0.1 for ax in panels)


def test_no_curves_no_picture(groups: list[Group], tmp_path: Path) -> None:
    for run in (run for group in groups for run in group.runs):
        run.history.epochs.clear()
    assert not plots.learning_curves(groups, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_bars_have_a_panel_for_each_set(groups: list[Group], tmp_path: Path) -> None:
    plots.rate_bars(groups, ["test"], tmp_path / "one.png")
    plots.rate_bars(groups, ["test", "dev"], tmp_path / "two.png")
    one, two = picture(tmp_path / "one.png"), picture(tmp_path / "two.png")
    assert two.shape[1] > 1.3 * one.shape[1]
    assert len(np.unique(one.reshape(-1, 3), axis=0)) > 20
    assert has_colour(tmp_path / "one.png", "#000000")  # the intervals


def test_characters_that_no_font_has_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.suptitle("\ue000\ue001")  # for private use: nobody draws them
    plots.save(figure, tmp_path / "a.png")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "a.png: 2 characters are drawn as boxes: install a font" in err


def test_fonts_for_japanese_are_taken_where_there_are_any() -> None:
    assert plots.fallback_fonts(["DejaVu Sans", "IPAexGothic", "Noto Sans CJK JP"]) == [
        "Noto Sans CJK JP",
        "IPAexGothic",
    ]


def test_the_mean_of_seeds_is_over_the_epochs_that_all_have() -> None:
    from matplotlib.figure import Figure

    line = plots._curve(Figure().subplots(), [{1: 2.0, 2: 4.0, 3: 1.0}, {1: 4.0, 2: 0.0}], "#000000")
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata().tolist() == [3, 2]


def test_a_long_label_has_several_lines() -> None:
    assert plots.wrap_label("distilled: ctc (a_bc)", width=12) == "distilled: \nctc (a_bc)"
    assert plots.wrap_label("teacher_of_many", width=4) == "teacher_\nof_\nmany"
    assert plots.wrap_label("student", width=56) == "student"
