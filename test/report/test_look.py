"""What all pictures have in common."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure

from espnet_kd.report import look

# What readers without one kind of cones see of linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
CONES = {
    "all": np.eye(3).tolist(),
    "no L": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "no M": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0475], [-0.0118, 0.0429, 0.9689]],
    "no S": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def cielab(colour: str, cones: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = XYZ @ np.clip(np.array(CONES[cones]) @ linear, 0, 1) / [0.9505, 1, 1.089]
    a, b, c = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * b - 16, 500 * (a - b), 200 * (b - c)])


@pytest.mark.parametrize("cones", CONES)
def test_colours_can_be_told_apart(cones: str) -> None:
    seen = [cielab(colour, cones) for colour in (look.GREY, *look.METHODS)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= 24


def test_a_method_has_one_colour_and_the_sixth_that_of_text() -> None:
    found = look.method_colours(["KL", "essence", "KL", "c", "d", "e", "f"])
    assert list(found) == ["KL", "essence", "c", "d", "e", "f"]
    assert list(found.values()) == [*look.METHODS, look.INK]
    kl, essence = (look.line_style(name, "method", found) for name in ("KL", "essence"))
    assert (kl["color"], essence["color"]) == look.METHODS[:2] and kl["marker"] != essence["marker"]
    # "c" keeps its colour, "KL" has the first of the others; two variants may share one
    given = {"c": look.METHODS[0], "c, 2x": look.METHODS[0], "f": look.INK}
    kept = look.method_colours(["KL", "c", "c, 2x", "f"], given)
    assert list(kept.values()) == [look.METHODS[i] for i in (1, 0, 0, 2)]
    assert look.line_style("KL", "alone", found)["color"] == look.GREY
    assert look.line_style("unknown", "method", found)["color"] == look.INK


def test_a_long_label_has_lines_of_about_the_same_length() -> None:
    assert (
        look.wrap_label("KL, half the updates, temperature 2", 34) == "KL, half the updates,\ntemperature 2"
    )
    assert look.wrap_label("teacher_of_many", 4) == "teacher_\nof_\nmany"
    assert look.wrap_label("student", 56) == "student"
    assert look.wrap_label("costs $1", 56) == r"costs \$1"


def test_the_look_does_not_depend_on_settings_of_the_user_and_does_not_change_them(tmp_path: Path) -> None:
    sizes = []
    for name, size in (("a.png", 5.0), ("b.png", 20.0)):
        rcParams["font.size"] = size
        with look.picture(tmp_path / name, 3, 2) as figure:
            sizes.append(figure.subplots().set_title("x").get_fontsize())
        assert rcParams["font.size"] == size
    rcParams["font.size"] = 10.0
    assert sizes[0] == sizes[1] == look.STYLE["axes.titlesize"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("rates", "numbers"),
    [((7.4, 37.5), [7, 10, 15, 20, 30]), ((3.0, 78.5), [5, 10, 20, 50, 100])],  # near, and far apart
)
def test_a_logarithmic_axis_has_enough_numbers_to_be_read(
    rates: tuple[float, ...], numbers: list[float]
) -> None:
    ax = Figure().subplots()
    look.scale_rates(ax, rates, is_log=True)
    low, high = ax.get_ylim()
    assert [tick for tick in ax.get_yticks() if low <= tick <= high] == pytest.approx(numbers)


def test_a_picture_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), look.picture(tmp_path / "a.png", 3, 2):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_characters_that_no_font_has_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with look.picture(tmp_path / "a.png", 3, 2) as figure:
        figure.suptitle("\ue000\ue001")  # for private use: nobody draws them
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "a.png: 2 characters are drawn as boxes: install a font" in err


def test_fonts_for_japanese_are_taken_where_there_are_any() -> None:
    assert look.fallback_fonts(["DejaVu Sans", "IPAexGothic", "Noto Sans CJK JP"]) == [
        "Noto Sans CJK JP",
        "IPAexGothic",
    ]
