"""Plots of error rates, a row for each model, and of learning curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from espnet_kd.report import look
from espnet_kd.report.look import Kind

# Title of a panel -> names of statistics, of which the first that an epoch has is shown. The "loss" of a
# distilled student includes the criteria, so its "loss_task" is compared with the loss of others.
CURVES: Mapping[str, tuple[str, ...]] = {
    "CTC character error rate": ("cer_ctc",),
    "transducer character error rate": ("cer_transducer",),
    "decoder accuracy (teacher forcing)": ("acc",),
    "task loss (nats)": ("loss_task", "loss"),
}
ROWS = 12  # at most in a picture
ROW_INCHES = 0.4  # height of a row
NAME_WIDTH = 34  # characters of a line of a name
# As many as there are lines in a plot.
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.2, 1, 1.2)), (0, (9, 2.5)), (0, (3, 1, 1, 1, 1, 1)))
HEADROOM = 1.2  # top of a panel of learning curves, relative to the highest value of models without a teacher


@dataclass(frozen=True)
class RateRow:
    """One row of a picture of error rates, in per cent.

    Attributes:
        name: what a person calls it.
        kind: "alone" for a student without a teacher.
        mean: over the seeds.
        low: lower end of its 95 % interval; NaN if there is none.
        high: upper end.
        dots: error rate of each seed.
    """

    name: str
    kind: Kind
    mean: float
    low: float
    high: float
    dots: Sequence[float]


@dataclass(frozen=True)
class LearningCurve:
    """One statistic of one model: for each seed, epoch -> value."""

    name: str
    kind: Kind
    seeds: Sequence[Mapping[int, float]]


def rate_rows(
    panels: Mapping[str, Sequence[RateRow]],
    path: Path,
    unit: str = "word",
    colours: Mapping[str, str] | None = None,
    baseline: str | None = None,
) -> None:
    """Plot a panel for each set: a row for each model, its mean, interval and a dot for each seed.

    Args:
        panels: name of a set -> at most 12 rows in the order of the table; a set may lack some of them.
        path: the PNG.
        unit: of the errors, "word" or "character".
        colours: name of a row -> colour, see `look.method_colours`; None colours the methods of this picture.
        baseline: name of the row of a student alone that a line marks; None for the first.

    Raises:
        ValueError: more than 12 rows, or none.
    """
    kinds = {row.name: row.kind for rows in panels.values() for row in rows}
    if not 0 < len(kinds) <= ROWS:
        raise ValueError(f"{len(kinds)} rows: a picture shows 1 to {ROWS}; `pages` divides more of them")
    if colours is None:
        colours = look.method_colours(name for name, kind in kinds.items() if kind == "method")
    names = [look.wrap_label(name, NAME_WIDTH) for name in kinds]
    heights = [1 + 0.5 * name.count("\n") for name in names]  # of a row; a single line has 1
    centres = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
    places = dict(zip(kinds, centres, strict=True))
    rates = {name: [x for row in rows for x in (row.mean, *row.dots)] for name, rows in panels.items()}
    is_log = look.are_far_apart(rates.values())
    with look.picture(path, 3.4 + 3.6 * len(panels), 1.2 + ROW_INCHES * sum(heights)) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (name, rows) in zip(axes, panels.items(), strict=True):
            for row in rows:
                _draw_row(ax, places[row.name], row, colours)
            for kind in ("alone", "teacher"):
                marked = [row for row in rows if row.kind == kind]
                for row in [row for row in marked if row.name == baseline][:1] or marked[:1]:
                    style = look.line_style(row.name, row.kind, colours)
                    ax.axvline(row.mean, **style | {"marker": None, "linewidth": 1.3, "zorder": 1.5})
            ax.set(title=look.plain_text(name), xlabel=f"{unit} error rate (%)")
            ax.margins(x=0.06)
            look.scale_rates(ax, rates[name], is_log, "x")
            ax.grid(axis="y", visible=False)
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
        axes[0].set_yticks(centres, names)
        axes[0].set_ylim(sum(heights) + 0.1, -0.1)  # all panels share it; the first row is on top


def _draw_row(ax: Any, y: float, row: RateRow, colours: Mapping[str, str]) -> None:
    style = look.line_style(row.name, row.kind, colours)
    colour = style["color"]
    ax.hlines(y, row.low, row.high, color=colour, linewidth=3, alpha=0.45, zorder=2.5)
    ax.plot(row.mean, y, marker=style.get("marker", "o"), color=colour, markersize=8, zorder=3)
    if len(row.dots) > 1:
        below = [y + 0.28] * len(row.dots)
        ax.plot(row.dots, below, "o", color="white", mec=colour, mew=0.9, markersize=3.5, zorder=4)
    ax.text(1.01, y, f"{row.mean:.1f}", va="center", fontsize=10, transform=ax.get_yaxis_transform())


def pages(panels: Mapping[str, Sequence[RateRow]]) -> list[dict[str, list[RateRow]]]:
    """Divide the rows of all panels among pictures that `rate_rows` can draw; the baseline is in each."""
    kinds = {row.name: row.kind for rows in panels.values() for row in rows}
    names = list(kinds)
    baseline = next(([name] for name, kind in kinds.items() if kind == "alone"), [])
    parts = [names[:ROWS]]
    parts += [baseline + names[i : i + ROWS - 1] for i in range(ROWS, len(names), ROWS - 1)]
    return [
        {title: [row for name in part for row in rows if row.name == name] for title, rows in panels.items()}
        for part in parts
    ]


def draw_learning_curves(
    panels: Mapping[str, Sequence[LearningCurve]], path: Path, colours: Mapping[str, str] | None = None
) -> None:
    """Plot a panel for each statistic; the mean over seeds is bold, each seed is thin.

    Args:
        panels: title of a panel -> curves, at most six and those of teachers.
        path: the PNG.
        colours: name of a method -> colour, see `look.method_colours`; methods without one get those that
            are free.

    Raises:
        ValueError: more than six curves, or no panel.
    """
    kinds = {curve.name: curve.kind for curves in panels.values() for curve in curves}
    look.check_lines([name for name, kind in kinds.items() if kind != "teacher"], "learning curves")
    if not kinds:
        raise ValueError("learning curves: there are none")
    colours = look.method_colours((name for name, kind in kinds.items() if kind == "method"), colours)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    styles = _line_styles(kinds, colours)
    labels = [look.wrap_label(name, 44) for name in kinds]
    room = rows * columns > len(panels)  # for the legend
    height = 3.4 * rows + (0 if room else 0.3 + 0.22 * sum(1 + text.count("\n") for text in labels) / columns)
    with look.picture(path, 5.2 * columns, height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, (title, curves) in zip(grid, panels.items(), strict=False):
            for curve in curves:
                _draw_curve(ax, curve, styles[curve.name])
            _limit_height(ax, [seed for curve in curves if curve.kind != "method" for seed in curve.seeds])
            ax.set(title=f"{title}, validation set", xlabel="epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [Line2D([], [], **style) for style in styles.values()]
        if room:
            grid[-1].axis("off")
            grid[-1].legend(handles, labels, loc="center left")
        else:
            figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _line_styles(kinds: Mapping[str, Kind], colours: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return name -> style of the line; those that share a colour differ in the dashes."""
    styles: dict[str, dict[str, Any]] = {}
    for name, kind in kinds.items():
        style = look.line_style(name, kind, colours) | {"marker": None}
        same = sum(other["color"] == style["color"] for other in styles.values())
        if kind != "teacher" or same:
            style["linestyle"] = DASHES[same % len(DASHES)]
        styles[name] = style
    return styles


def _draw_curve(ax: Any, curve: LearningCurve, style: dict[str, Any]) -> None:
    """Draw the seeds, and their mean over the epochs that all of them have."""
    if len(curve.seeds) > 1:
        for seed in curve.seeds:
            ax.plot(list(seed), list(seed.values()), **style | {"linewidth": 0.7, "alpha": 0.4})
    epochs = sorted(set.intersection(*(set(seed) for seed in curve.seeds)))
    mean = [sum(seed[e] for seed in curve.seeds) / len(curve.seeds) for e in epochs]
    ax.plot(epochs, mean, **style | ({"marker": "o"} if len(epochs) == 1 else {}))


def _limit_height(ax: Any, undistilled: Sequence[Mapping[int, float]]) -> None:
    """Cut values far above the curves of all undistilled models, as of outputs that are not trained yet."""
    values = [value for curve in undistilled for value in curve.values() if math.isfinite(value)]
    top = HEADROOM * max([1.0, *values])
    if values and ax.dataLim.ymax > top:
        ax.set_ylim(ax.dataLim.ymin - 0.05 * (top - ax.dataLim.ymin), top)
