"""The picture of error rates against compute."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from espnet_kd.report import look
from espnet_kd.report.frontier import Curve, Point, frontier, spread


def curve(name: str, kind: Any, means: Sequence[float], hours: float = 0.25, teacher: float = 0.0) -> Curve:
    """A curve at 1x, 2x, ...; the interval is half a point to each side."""
    labels = ("1x", "2x", "4x", "8x")
    cells = [(hours * 2**i, mean, label) for i, (mean, label) in enumerate(zip(means, labels, strict=False))]
    points = [Point(x, mean, mean - 0.5, mean + 0.5, label) for x, mean, label in cells]
    paid = [Point(p.core_hours + teacher, p.mean, p.low, p.high, p.label) for p in points] if teacher else []
    return Curve(name, kind, points, paid)


ALONE = curve("student alone", "alone", [21.7, 19.5, 14.6, 13.3])
KL = curve("KL", "method", [19.8, 16.4, 13.5], 0.24)
TEACHER = curve("Jasper teacher", "teacher", [13.1])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    found: list[Figure] = []
    monkeypatch.setattr(look, "save", lambda figure, path: found.append(figure))
    return found


def draw(figures: list[Figure], *curves: Curve, **options: Any) -> Any:
    frontier({"test": curves}, Path("frontier.png"), **options)
    return figures[-1].axes[0]


def lines(ax: Any, colour: str) -> list[Any]:
    """The lines of a colour over data; not those beside the labels."""
    return [line for line in ax.lines if line.get_color() == colour and line.get_transform() == ax.transData]


def test_a_line_for_each_way_of_training(figures: list[Figure]) -> None:
    ax = draw(figures, ALONE, KL, TEACHER)
    (alone,), (kl,) = lines(ax, look.GREY), lines(ax, look.METHODS[0])
    assert alone.get_xdata().tolist() == [0.25, 0.5, 1, 2] and alone.get_ydata().tolist() == [
        21.7,
        19.5,
        14.6,
        13.3,
    ]
    assert kl.get_xdata().tolist() == [0.24, 0.48, 0.96]
    (teacher,) = [line for line in ax.lines if line.get_transform() == ax.get_yaxis_transform()]
    assert list(teacher.get_ydata()) == [13.1, 13.1] and teacher.is_dashed()
    assert [to_hex(band.get_facecolor()[0]) for band in ax.collections] == [look.GREY, look.METHODS[0]]
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.x0, band.x1, band.y0, band.y1) == (0.25, 2, 12.8, 22.2)


def test_the_axis_of_compute_doubles_and_has_plain_numbers(figures: list[Figure]) -> None:
    ax = draw(figures, ALONE, KL)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.25", "0.5", "1", "2"]
    assert ax.get_xscale() == "log" and ax.get_yscale() == "linear"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("core-hours of training", "word error rate (%)")
    dear = curve("KL", "method", [20.0, 16.0, 13.0], 0.02, teacher=9.0)  # 9 octaves
    ticks = draw(figures, curve("student alone", "alone", [20.0, 16.0], 0.02), dear).get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["0.016", "0.062", "0.25", "1", "4"]
    ax = draw(figures, curve("student alone", "alone", [20.0]), unit="character")  # a single length
    assert len(ax.get_xticklabels()) >= 2 and ax.get_ylabel() == "character error rate (%)"


def test_one_bad_start_does_not_flatten_the_rest(figures: list[Figure]) -> None:
    ax = draw(figures, curve("student alone", "alone", [87.2, 16.8, 11.6, 9.0]), KL, TEACHER)
    assert ax.get_yscale() == "log"
    low, high = ax.get_ylim()
    assert low < 9.0 and high > 87.2
    shown = [label.get_text() for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert shown == ["7", "10", "15", "20", "30", "50", "70", "100"]


def test_intervals_of_few_seeds_do_not_flatten_the_curves(figures: list[Figure]) -> None:
    cells = [(0.25, 40.0, 200.0, "1x"), (0.5, 24.0, 3.0, "2x")]
    points = [Point(cost, mean, mean - wide, mean + wide, length) for cost, mean, wide, length in cells]
    ax = draw(figures, Curve("student alone", "alone", points), KL)
    # means from 13.5 to 40: a quarter of the range, 6.625, is beside them
    assert ax.get_ylim() == pytest.approx((6.875, 46.625)) and ax.get_yscale() == "linear"


def test_each_curve_is_named_and_each_length_once(figures: list[Figure]) -> None:
    ax = draw(figures, ALONE, KL, TEACHER)
    texts = [text.get_text() for text in ax.texts]
    assert sorted(texts) == sorted(["student alone", "KL", "Jasper teacher", "1x", "2x", "4x", "8x"])
    dear = curve("two peers", "method", [20.0, 18.0], 0.6)  # 1x of it costs more than 2x alone
    texts = [text.get_text() for text in draw(figures, ALONE, dear).texts]
    assert (texts.count("1x"), texts.count("2x"), texts.count("4x")) == (2, 2, 1)


def test_labels_do_not_overlap(figures: list[Figure]) -> None:
    """The curves end at almost the same error rate, and their names need several lines."""
    long = [
        curve(f"method {i} with a name that is long", "method", [20.0, 16.0, 13.0 + i / 50], 0.25 + i / 100)
        for i in range(5)
    ]
    ax = draw(figures, ALONE, *long, TEACHER)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) >= 7 + 3
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    page = figures[-1].bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 for box in boxes)


def test_the_cost_of_the_teacher_is_a_dotted_line_of_the_same_colour(figures: list[Figure]) -> None:
    ax = draw(figures, ALONE, curve("KL", "method", [19.8, 16.4], teacher=2.0))
    free, paid = lines(ax, look.METHODS[0])
    assert paid.get_xdata().tolist() == [2.25, 2.5] and paid.get_ydata().tolist() == free.get_ydata().tolist()
    assert paid.is_dashed() and not free.is_dashed()
    assert "dotted: the teacher's included" in ax.get_xlabel()


def test_colours_may_be_given_for_all_pictures_of_a_report(figures: list[Figure]) -> None:
    colours = look.method_colours(["essence", "KL"])
    ax = draw(figures, ALONE, KL, colours=colours)
    assert lines(ax, look.METHODS[1]) and not lines(ax, look.METHODS[0])


def test_panels_are_in_two_columns(figures: list[Figure], tmp_path: Path) -> None:
    for sets, size in ((["test"], (1, 1)), (["test", "dev"], (2, 1)), (["a", "b", "c"], (2, 2))):
        frontier(dict.fromkeys(sets, [ALONE, KL]), tmp_path / "f.png")
        assert [ax.get_title(loc="left") for ax in figures[-1].axes] == sets
        assert tuple(figures[-1].get_size_inches()) == (5.5 * size[0], 4.2 * size[1])


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        frontier({"test": [ALONE, KL, TEACHER], "dev": [ALONE, KL]}, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_cannot_be_read_is_refused() -> None:
    path = Path("frontier.png")
    methods = [curve(f"method {i}", "method", [20.0]) for i in range(6)]
    with pytest.raises(
        ValueError, match="frontier, test: 7 curves, but a plot shows at most 6: student alone, "
    ):
        frontier({"test": [ALONE, *methods, TEACHER]}, path)
    with pytest.raises(ValueError, match="frontier, test: KL has no points"):
        frontier({"test": [Curve("KL", "method", [])]}, path)
    for hours in (0.0, math.nan):
        with pytest.raises(ValueError, match="test: KL has a cost that is not above 0"):
            frontier({"test": [curve("KL", "method", [20.0], hours)]}, path)
    with pytest.raises(ValueError, match="there is no set to show"):
        frontier({}, path)


def test_labels_are_moved_as_little_as_needed() -> None:
    assert spread([10, 50], [4, 4], 0, 100) == [10, 50]
    # two labels of height 4 at 10 and 12 are 2 too close: each moves by 1
    assert spread([12, 10], [4, 4], 0, 100) == [13, 9]
    assert spread([0, 99], [4, 4], 0, 100) == [2, 98]  # within the panel
    # 97 is pushed down by the edge, and pushes the next
    assert spread([99, 97, 50], [4, 4, 4], 0, 100) == [98, 94, 50]
