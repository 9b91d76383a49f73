"""Plot the error rate against the compute of the training, for each way of training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from espnet_kd.report import look
from espnet_kd.report.look import Kind

LABEL_WIDTH = 17  # characters of a line of a label
SAMPLE = (1.03, 1.09)  # where the line is repeated beside its label, in widths of a panel
GAP = 6.0  # between labels, in pixels
OCTAVES = 2.1  # least width of the axis of core-hours
TICKS = 6  # about so many numbers fit on it
CENTRED: Mapping[str, Any] = {
    "xytext": (0, 0),
    "textcoords": "offset points",
    "ha": "center",
    "va": "center",
    "fontsize": 10,
}
PLACES = ((0, 11), (10, 9), (-10, 9), (0, -12), (-14, 0), (14, 0))  # of a length, from its point, in points
TOGETHER = 0.2  # octaves: points of one length that are closer have one label


@dataclass(frozen=True)
class Point:
    """Trainings of one length.

    Attributes:
        core_hours: what one of them costs, > 0.
        mean: error rate in per cent, mean over the seeds.
        low: lower end of its 95 % interval; NaN if there is none.
        high: upper end.
        label: the length, such as "2x".
    """

    core_hours: float
    mean: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Curve:
    """One way of training, at several lengths.

    Attributes:
        name: what a person calls it.
        kind: "alone" for the student without a teacher; the first point of a "teacher" is its error rate.
        points: in any order.
        paid: the same trainings, with the teacher's cost in their core-hours; empty if it is not shown.
    """

    name: str
    kind: Kind
    points: Sequence[Point]
    paid: Sequence[Point] = field(default=())


def frontier(
    panels: Mapping[str, Sequence[Curve]],
    path: Path,
    unit: str = "word",
    colours: Mapping[str, str] | None = None,
    hours: str = "core-hours",
) -> None:
    """Plot a panel for each set: error rate against core-hours, a line for each way of training.

    Args:
        panels: name of a set -> curves, at most six and the teachers' lines.
        path: the PNG.
        unit: of the errors, "word" or "character".
        colours: name of a method -> colour, as `look.method_colours` gives for all pictures of a report;
            methods without one get those that are free.
        hours: what `core_hours` of the points are, for the label of the axis.

    Raises:
        ValueError: no set, more than six curves in one, or a curve without points or with a cost of 0.
    """
    _check(panels)
    names = (curve.name for curves in panels.values() for curve in curves if curve.kind == "method")
    colours = look.method_colours(names, colours)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    rates = {name: [p.mean for c in curves for p in (*c.points, *c.paid)] for name, curves in panels.items()}
    is_log = look.are_far_apart(rates.values())
    with look.picture(path, 5.5 * columns, 4.2 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        drawn = []
        for ax, (name, curves) in zip(grid, panels.items(), strict=False):
            paid = " (dotted: the teacher's included)" if any(curve.paid for curve in curves) else ""
            ax.set(title=look.plain_text(name), ylabel=f"{unit} error rate (%)")
            ax.set_xlabel(f"{hours} of training{paid}")
            labels = _draw_panel(ax, curves, colours)
            look.scale_rates(ax, rates[name], is_log)
            drawn.append((ax, curves, labels))
        for ax in grid[len(panels) :]:
            ax.remove()
        figure.draw_without_rendering()  # the layout makes room for the labels
        figure.set_layout_engine("none")
        for ax, curves, labels in drawn:
            _place_labels(ax, curves, labels, colours)
            _mark_lengths(ax, curves)


def _check(panels: Mapping[str, Sequence[Curve]]) -> None:
    if not panels:
        raise ValueError("frontier: there is no set to show")
    for name, curves in panels.items():
        look.check_lines([curve.name for curve in curves if curve.kind != "teacher"], f"frontier, {name}")
        for curve in curves:
            if not curve.points:
                raise ValueError(f"frontier, {name}: {curve.name} has no points")
            costs = () if curve.kind == "teacher" else (*curve.points, *curve.paid)
            if not all(point.core_hours > 0 for point in costs):
                raise ValueError(f"frontier, {name}: {curve.name} has a cost that is not above 0")


def _draw_panel(ax: Any, curves: Sequence[Curve], colours: Mapping[str, str]) -> list[Any]:
    """Draw the curves; return their labels, which are beside their last points until they are placed."""
    for curve in curves:
        style = look.line_style(curve.name, curve.kind, colours)
        if curve.kind == "teacher":
            ax.axhline(curve.points[0].mean, **style)
            continue
        x, mean, low, high = _columns(curve.points)
        ax.plot(x, mean, **style)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
        if len(x) == 1:  # a band has no width
            ax.vlines(x, low, high, color=style["color"], alpha=0.45, linewidth=3)
        if curve.paid:
            x, mean, _, _ = _columns(curve.paid)
            ax.plot(x, mean, **style | {"linestyle": (0, (1, 1.6)), "markerfacecolor": "white"})
    _scale(ax)
    beside = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 10, "linespacing": 1.0}
    placed = [(SAMPLE[1] + 0.02, _end(curve)[1], curve.name) for curve in curves]
    return [ax.text(x, y, look.wrap_label(name, LABEL_WIDTH), **beside) for x, y, name in placed]


def _columns(points: Sequence[Point]) -> list[list[float]]:
    """Return core-hours, means, and lower and upper ends of the intervals of sorted points."""
    ordered = sorted(points, key=lambda point: point.core_hours)
    return [[getattr(point, key) for point in ordered] for key in ("core_hours", "mean", "low", "high")]


def _end(curve: Curve) -> tuple[float, float]:
    """Return core-hours and error rate of the right end of a curve."""
    last = max((*curve.points, *curve.paid), key=lambda point: point.core_hours)
    return last.core_hours, last.mean


def _scale(ax: Any) -> None:
    """Make the axis of core-hours logarithmic, with plain numbers, and long enough to be read."""
    ax.set_xscale("log", base=2)
    low, high = (math.log2(x) for x in ax.get_xlim())
    missing = max(0.0, OCTAVES - (high - low)) / 2
    low, high = low - missing, high + missing
    ax.set_xlim(2**low, 2**high)
    step = math.ceil((high - low) / TICKS)
    exponents = [e for e in range(math.ceil(low), math.floor(high) + 1) if e % step == 0]
    ax.xaxis.set_major_locator(FixedLocator([2.0**exponent for exponent in exponents]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}" if x > 1 else f"{x:.2g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _place_labels(
    ax: Any, curves: Sequence[Curve], labels: Sequence[Any], colours: Mapping[str, str]
) -> None:
    """Move the labels apart, repeat the line beside each, and connect it with the end of its curve."""
    box, to_axes = ax.get_window_extent(), ax.transAxes.inverted()
    ends = ax.transData.transform([_end(curve) for curve in curves])
    heights = [label.get_window_extent().height + GAP for label in labels]
    centres = spread(ends[:, 1].tolist(), heights, box.y0, box.y1)
    for curve, label, end, centre in zip(curves, labels, ends, centres, strict=True):
        y = (centre - box.y0) / box.height
        label.set(y=y, transform=ax.transAxes)
        style = look.line_style(curve.name, curve.kind, colours)
        style |= {"transform": ax.transAxes, "clip_on": False}
        ax.plot([SAMPLE[0], sum(SAMPLE) / 2, SAMPLE[1]], [y, y, y], **style, markevery=[1])
        x_end, y_end = to_axes.transform(end)
        thin = {"marker": None, "linestyle": "-", "linewidth": 0.8, "alpha": 0.6}
        ax.plot([1 if curve.kind == "teacher" else x_end, SAMPLE[0]], [y_end, y], **style | thin)


def spread(ideal: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Return centres of labels that do not overlap, each close to where it should be.

    Args:
        ideal: where the centres should be.
        heights: of the labels, in the same unit.
        low: where the lowest label may begin.
        high: where the highest may end; if all of them do not fit, they go beyond it.
    """
    blocks: list[list[int]] = []  # labels that touch each other, from below
    starts: list[float] = []  # where each block begins
    for label in sorted(range(len(ideal)), key=lambda i: ideal[i]):
        block = [label]
        while True:
            below = np.cumsum([0.0, *(heights[i] for i in block)])  # what the others of the block take
            begin = np.mean([ideal[i] - heights[i] / 2 - b for i, b in zip(block, below, strict=False)])
            begin = max(min(float(begin), high - below[-1]), low)
            if not blocks or starts[-1] + sum(heights[i] for i in blocks[-1]) <= begin:
                break
            starts.pop()
            block = blocks.pop() + block
        blocks.append(block)
        starts.append(begin)
    centres = [0.0] * len(ideal)
    for block, begin in zip(blocks, starts, strict=True):
        for i in block:
            centres[i] = begin + heights[i] / 2
            begin += heights[i]
    return centres


def _mark_lengths(ax: Any, curves: Sequence[Curve]) -> None:
    """Write the lengths beside the points, where they cover neither points nor each other."""
    points = [point for curve in curves if curve.kind != "teacher" for point in curve.points]
    pixels = ax.transData.transform([(point.core_hours, point.mean) for point in points])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in pixels]
    white = [withStroke(linewidth=3, foreground="white")]
    marked: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.mean, point.core_hours)):
        if any(_same_length(point, above) for above in marked):
            continue  # one label serves both
        where = (point.core_hours, point.mean)
        text = ax.annotate(look.plain_text(point.label), where, **CENTRED, path_effects=white, zorder=5)
        for place in PLACES:
            text.xyann = place
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                marked.append(point)
                break
        else:
            text.remove()


def _same_length(a: Point, b: Point) -> bool:
    """Return whether two points are of one length and at about the same cost."""
    return a.label == b.label and abs(math.log2(a.core_hours / b.core_hours)) <= TOGETHER
