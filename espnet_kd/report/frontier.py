"""Plot the error rate against the compute of the training: what each way of training gives for what it costs."""

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
PER_CENT = 2.0  # least height of the axis of error rates
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
) -> None:
    """Plot a panel for each set: error rate against core-hours, a line for each way of training.

    Args:
        panels: name of a set -> curves, at most six and the teachers' lines.
        path: the PNG.
        unit: of the errors, "word" or "character".
        colours: name of a method -> colour, as `look.method_colours` gives for all pictures of a report;
            None colours the methods of this picture.

    Raises:
        ValueError: no set, more than six curves in one, or a curve without points or with a cost of 0.
    """
    _check(panels)
    if colours is None:
        names = (curve.name for curves in panels.values() for curve in curves if curve.kind == "method")
        colours = look.method_colours(names)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with look.picture(path, 5.5 * columns, 4.2 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        drawn = []
        for ax, (name, curves) in zip(grid, panels.items(), strict=False):
            paid = " (dotted: the teacher's included)" if any(curve.paid for curve in curves) else ""
            ax.set(title=look.plain_text(name), ylabel=f"{unit} error rate (%)")
            ax.set_xlabel(f"core-hours of training{paid}")
            drawn.append((ax, curves, _draw_panel(ax, curves, colours)))
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
            for point in () if curve.kind == "teacher" else (*curve.points, *curve.paid):
                if not point.core_hours > 0:
                    raise ValueError(f"frontier, {name}: {curve.name}, {point.label}: a cost of {point.core_hours}")


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
        if curve.paid:
            x, mean, _, _ = _columns(curve.paid)
            ax.plot(x, mean, **style | {"linestyle": (0, (1, 1.6)), "markerfacecolor": "white"})
    _scale(ax)
    return [
        ax.text(
            SAMPLE[1] + 0.02, _end(curve)[1], look.wrap_label(curve.name, LABEL_WIDTH), va="center", fontsize=10,
            linespacing=1.0, transform=ax.get_yaxis_transform(),
        )
        for curve in curves
    ]  # fmt: skip


def _columns(points: Sequence[Point]) -> list[list[float]]:
    """Return core-hours, means, and lower and upper ends of the intervals of sorted points."""
    ordered = sorted(points, key=lambda point: point.core_hours)
    return [[getattr(point, key) for point in ordered] for key in ("core_hours", "mean", "low", "high")]


def _end(curve: Curve) -> tuple[float, float]:
    """Return core-hours and error rate of the right end of a curve."""
    last = max((*curve.points, *curve.paid), key=lambda point: point.core_hours)
    return last.core_hours, last.mean


def _scale(ax: Any) -> None:
    """Make the axis of core-hours logarithmic, with plain numbers; show no differences larger than they are."""
    ax.set_xscale("log", base=2)
    low, high = (math.log2(x) for x in ax.get_xlim())
    missing = max(0.0, OCTAVES - (high - low)) / 2
    low, high = low - missing, high + missing
    bottom, top = ax.get_ylim()
    lacking = max(0.0, PER_CENT - (top - bottom)) / 2
    ax.set(xlim=(2**low, 2**high), ylim=(bottom - lacking, top + lacking))
    ax.xaxis.set_major_locator(FixedLocator([2.0**e for e in range(math.ceil(low), math.floor(high) + 1)]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _place_labels(
    ax: Any, curves: Sequence[Curve], labels: list[Any], colours: Mapping[str, str]
) -> None:
    """Move the labels apart, and connect each with the end of its curve."""
    box = ax.get_window_extent()
    heights = [label.get_window_extent().height + GAP for label in labels]
    ends = [_end(curve) for curve in curves]
    pixels = ax.transData.transform(ends)
    centres = spread(pixels[:, 1].tolist(), heights, box.y0, box.y1)
    for curve, label, pixel, centre in zip(curves, labels, pixels, centres, strict=True):
        y = (centre - box.y0) / box.height
        label.set(y=y, transform=ax.transAxes)
        style = look.line_style(curve.name, curve.kind, colours)
        beside = {"transform": ax.transAxes, "clip_on": False}
        ax.plot([*SAMPLE], [y, y], **style | beside | {"marker": None})
        if curve.kind != "teacher":
            middle = sum(SAMPLE) / 2
            ax.plot(middle, y, **style | beside)
        start = ax.transAxes.inverted().transform(pixel)
        if curve.kind == "teacher":
            start[0] = 1
        ax.plot(
            [start[0], SAMPLE[0]], [start[1], y], color=style["color"], linewidth=0.8, alpha=0.6, **beside
        )


def spread(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Return centres of labels that do not overlap, each as close as possible to where it should be.

    Args:
        wanted: where the centres should be.
        heights: of the labels, in the same unit.
        low: where the lowest label may begin.
        high: where the highest may end; if all of them do not fit, they go beyond it.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[list[int], float]] = []  # labels that touch each other, and where they begin
    for i in order:
        members, start = [i], wanted[i] - heights[i] / 2
        while True:
            size = sum(heights[m] for m in members)
            start = max(min(start, high - size), low)
            if not blocks or blocks[-1][1] + sum(heights[m] for m in blocks[-1][0]) <= start:
                break
            members = blocks.pop()[0] + members
            offsets = np.cumsum([0, *(heights[m] for m in members[:-1])])
            start = float(np.mean([wanted[m] - heights[m] / 2 - o for m, o in zip(members, offsets, strict=True)]))
        blocks.append((members, start))
    centres = [0.0] * len(wanted)
    for members, start in blocks:
        for m in members:
            centres[m] = start + heights[m] / 2
            start += heights[m]
    return centres


def _mark_lengths(ax: Any, curves: Sequence[Curve]) -> None:
    """Write the lengths beside the points, where they cover neither points nor each other.

    Points of one length that are one above the other have one label, above the highest of them.
    """
    points = [point for curve in curves if curve.kind != "teacher" for point in curve.points]
    pixels = ax.transData.transform([(point.core_hours, point.mean) for point in points])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in pixels]
    for point, (x, y) in sorted(zip(points, pixels.tolist(), strict=True), key=lambda found: -found[1][1]):
        octaves = [math.log2(point.core_hours / p.core_hours) for p in points if p.label == point.label and p.mean > point.mean]
        if any(abs(distance) <= TOGETHER for distance in octaves):
            continue
        text = ax.annotate(
            look.plain_text(point.label), (point.core_hours, point.mean), xytext=(0, 0), ha="center", va="center",
            textcoords="offset points", fontsize=10, zorder=5,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
        for place in ((0, 11), (10, 9), (-10, 9), (0, -12), (-14, 0), (14, 0)):
            text.xyann = place
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
        else:
            text.remove()
