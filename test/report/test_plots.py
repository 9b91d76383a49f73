"""Pictures of error rates, a row for each model, and of learning curves."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from espnet_kd.report import look, plots
from espnet_kd.report.plots import LearningCurve, RateRow, draw_learning_curves, pages, rate_rows


def row(name: str, kind: Any, mean: float, dots: tuple[float, ...] = ()) -> RateRow:
    return RateRow(name, kind, mean, mean - 1, mean + 1, dots or (mean,))


TEACHER = row("teacher", "teacher", 13.1)
ALONE = row("student alone", "alone", 21.7, (21.2, 22.2))
KL = row("KL", "method", 19.8, (19.3, 19.9, 20.2))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    found: list[Figure] = []
    monkeypatch.setattr(look, "save", lambda figure, path: found.append(figure))
    return found


def means(ax: Any) -> dict[float, str]:
    """Error rate -> colour of the markers of means, which are the large ones."""
    return {line.get_xdata()[0]: line.get_color() for line in ax.lines if line.get_markersize() == 8}


def test_a_row_has_a_mean_an_interval_and_its_seeds(figures: list[Figure]) -> None:
    rate_rows({"test": [TEACHER, ALONE, KL]}, Path("wer.png"))
    (ax,) = figures[0].axes
    assert means(ax) == {13.1: look.INK, 21.7: look.GREY, 19.8: look.METHODS[0]}
    assert [bar.get_segments()[0][:, 0].tolist() for bar in ax.collections] == [
        [12.1, 14.1],
        [20.7, 22.7],
        [18.8, 20.8],
    ]
    seeds = [list(line.get_xdata()) for line in ax.lines if line.get_markersize() == 3.5]
    assert seeds == [[21.2, 22.2], [19.3, 19.9, 20.2]]  # a single seed is the mean
    assert [text.get_text() for text in ax.texts] == ["13.1", "21.7", "19.8"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["teacher", "student alone", "KL"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is on top


def test_lines_mark_the_baseline_and_the_teacher(figures: list[Figure]) -> None:
    longer = row("student alone, 2x", "alone", 19.5)
    rate_rows({"test": [TEACHER, ALONE, longer, KL]}, Path("wer.png"))
    (ax,) = figures[0].axes
    upright = [line for line in ax.lines if line.get_transform() == ax.get_xaxis_transform()]
    found = {line.get_color(): (list(line.get_xdata()), line.is_dashed()) for line in upright}
    assert found == {look.GREY: ([21.7, 21.7], False), look.INK: ([13.1, 13.1], True)}


def test_another_student_alone_may_be_the_baseline(figures: list[Figure]) -> None:
    longer = row("student alone, 2x", "alone", 19.5)
    rate_rows({"test": [ALONE, longer, KL]}, Path("wer.png"), baseline=longer.name)
    (ax,) = figures[0].axes
    upright = [line for line in ax.lines if line.get_transform() == ax.get_xaxis_transform()]
    assert [list(line.get_xdata()) for line in upright] == [[19.5, 19.5]]


def test_a_bad_row_or_a_wide_interval_does_not_squeeze_the_others(figures: list[Figure]) -> None:
    wide = RateRow("one seed of two failed", "alone", 71.0, 0.0, 300.0, [50.0, 92.0])
    rate_rows({"test": [ALONE, wide, KL]}, Path("wer.png"))
    (ax,) = figures[0].axes
    assert ax.get_xscale() == "log" and ax.get_xlim() == pytest.approx((19.3 / 1.4, 92 * 1.3))
    rate_rows({"test": [ALONE, replace(wide, mean=25.0, dots=[24.0, 26.0]), KL]}, Path("wer.png"))
    (ax,) = figures[1].axes
    assert ax.get_xscale() == "linear" and ax.get_xlim()[1] == pytest.approx(26 + look.BESIDE)
    rate_rows({"test": [ALONE, KL], "dev": [ALONE, row("KL", "method", 2.0)]}, Path("wer.png"))
    assert [ax.get_xscale() for ax in figures[2].axes] == ["log", "log"], "one scale for all panels"


def test_a_row_keeps_its_place_and_colour_in_every_panel(figures: list[Figure]) -> None:
    essence = row("essence", "method", 18.0)
    rate_rows({"test": [ALONE, KL, essence], "dev": [ALONE, essence]}, Path("wer.png"))
    test, dev = figures[0].axes
    assert [text.get_position()[1] for text in test.texts] == [0.5, 1.5, 2.5]
    assert [text.get_position()[1] for text in dev.texts] == [0.5, 2.5]
    assert means(dev)[18.0] == means(test)[18.0] == look.METHODS[1]
    rate_rows({"test": [ALONE, essence]}, Path("a.png"), colours=look.method_colours(["KL", "essence"]))
    assert means(figures[1].axes[0])[18.0] == look.METHODS[1]


def test_a_row_without_an_interval_and_long_names(figures: list[Figure]) -> None:
    name = "a name that has so many words that it does not fit on one line of the picture"
    bare = RateRow(name, "method", 20.0, math.nan, math.nan, [20.0])
    rate_rows({"test": [bare, KL]}, Path("wer.png"), unit="character")
    (ax,) = figures[0].axes
    assert 20.0 in means(ax) and ax.get_xlabel() == "character error rate (%)"
    figures[0].draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert not boxes[0].overlaps(boxes[1]) and boxes[0].x0 >= 0


def test_more_than_twelve_rows_are_several_pictures() -> None:
    rows = [TEACHER, ALONE, *(row(f"method {i}", "method", 20.0) for i in range(25))]
    with pytest.raises(ValueError, match="27 rows: a picture shows 1 to 12; `pages` divides more of them"):
        rate_rows({"test": rows}, Path("wer.png"))
    with pytest.raises(ValueError, match="0 rows"):
        rate_rows({"test": []}, Path("wer.png"))
    parts = pages({"test": rows, "dev": rows[:3]})
    assert [len(part["test"]) for part in parts] == [12, 12, 5]
    assert [part["test"][0].name for part in parts] == ["teacher", "student alone", "student alone"]
    shown = [found.name for part in parts for found in part["test"] if found is not ALONE]
    assert shown == [found.name for found in rows if found is not ALONE]
    assert [len(part["dev"]) for part in parts] == [3, 1, 1]
    assert pages({"test": rows[:12]}) == [{"test": rows[:12]}]


def seeds(*values: list[float]) -> list[dict[int, float]]:
    return [dict(enumerate(of_seed, 1)) for of_seed in values]


def test_the_mean_of_seeds_is_over_the_epochs_that_all_have(figures: list[Figure]) -> None:
    curve = LearningCurve("KL", "method", seeds([2.0, 4.0, 1.0], [4.0, 0.0]))
    draw_learning_curves({"task loss (nats)": [curve]}, Path("c.png"))
    *thin, mean = figures[0].axes[0].lines
    assert [list(line.get_ydata()) for line in thin] == [[2, 4, 1], [4, 0]]
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([1, 2], [3, 2])
    assert mean.get_linewidth() > 2 * thin[0].get_linewidth()


def test_lines_of_one_colour_differ_in_the_dashes(figures: list[Figure]) -> None:
    kinds = {"teacher": "teacher", "alone, 1x": "alone", "alone, 2x": "alone", "KL": "method"}
    curves = [LearningCurve(name, kind, seeds([1.0, 0.5])) for name, kind in kinds.items()]
    draw_learning_curves({"task loss (nats)": curves, "other": curves[:2]}, Path("c.png"))
    loss, _other = figures[0].axes
    assert [(line.get_color(), line.is_dashed()) for line in loss.lines] == [
        (look.INK, True),
        (look.GREY, False),
        (look.GREY, True),
        (look.METHODS[0], False),
    ]
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == list(kinds)
    assert [to_hex(line.get_color()) for line in legend.get_lines()] == [
        line.get_color() for line in loss.lines
    ]


def test_outputs_that_are_not_trained_yet_do_not_squeeze_the_others(figures: list[Figure]) -> None:
    """20 nats are the highest of models that learned the task from the start."""
    alone = LearningCurve("student alone", "alone", seeds([20.0, 5.0]))
    distilled = LearningCurve("KL", "method", seeds([160.0, 4.0]))
    draw_learning_curves({"task loss (nats)": [alone, distilled]}, Path("c.png"))
    bottom, top = figures[0].axes[0].get_ylim()
    assert top == pytest.approx(1.2 * 20) and 0 < bottom < 4


def test_more_than_six_learning_curves_are_refused() -> None:
    curves = [LearningCurve(f"method {i}", "method", seeds([1.0])) for i in range(7)]
    with pytest.raises(ValueError, match="learning curves: 7 curves, but a plot shows at most 6: method 0, "):
        draw_learning_curves({"task loss (nats)": curves}, Path("c.png"))
    with pytest.raises(ValueError, match="there are none"):
        draw_learning_curves({}, Path("c.png"))


def test_every_picture_is_a_file_of_the_same_bytes_every_time(tmp_path: Path) -> None:
    curve = LearningCurve("KL", "method", seeds([1.0, 0.5]))
    for name in ("a", "b"):
        rate_rows({"test": [ALONE, KL], "dev": [KL]}, tmp_path / f"{name}.png")
        draw_learning_curves(dict.fromkeys(list(plots.CURVES)[:3], [curve]), tmp_path / f"{name}c.png")
    for kind in ("", "c"):
        assert (tmp_path / f"a{kind}.png").read_bytes() == (tmp_path / f"b{kind}.png").read_bytes()
