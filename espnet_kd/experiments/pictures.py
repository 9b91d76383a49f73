"""Draw the pictures of a plan: error rates and learning curves of its headline, and the frontier."""

import math
from pathlib import Path

from espnet_kd.experiments.comparisons import CORE, Line, Results, unit_of
from espnet_kd.experiments.plan import SEED, Frontier
from espnet_kd.report import look
from espnet_kd.report.frontier import Curve, Point, frontier
from espnet_kd.report.look import Kind
from espnet_kd.report.plots import CURVES, ROWS, LearningCurve, RateRow, draw_learning_curves, rate_rows
from espnet_kd.scoring.alignment import UNITS
from espnet_kd.scoring.bootstrap import Interval, rate_interval


def draw(results: Results, directory: Path) -> dict[str, Path]:
    """Draw every picture for which there are records; return caption -> file in the directory."""
    plan = results.plan
    err, drawn = plan.metric.upper(), {}
    headline = results.all_lines(plan.groups[0].variants if plan.groups else plan.variants)
    headline = [line for line in headline if line.records]
    frontiers = [_curves(results, spec) for spec in plan.frontier]
    single = any(len(line.records) == 1 for line in headline)
    note = "; an interval of one seed says nothing of other seeds" if single else ""
    methods = [line.variant.row.name for line in headline if _kind(results, line) == "method"]
    colours = look.method_colours([*methods, *(row.name for spec in plan.frontier for row in spec.methods)])
    colours |= {line.name: colours[line.variant.row.name] for line in headline
                if _kind(results, line) == "method"}  # fmt: skip
    for number, panels in enumerate(frontiers, 1):
        if panels:
            path = directory / (f"frontier{number}.png" if number > 1 else "frontier.png")
            frontier(panels, path, UNITS[plan.metric], colours, _hours(results, plan.frontier[number - 1]))
            title = plan.frontier[number - 1].title
            drawn[
                f"{err} against compute, {title}: bands are 95 % intervals, dotted is with the teacher's cost"
                f"{note}"
            ] = path
    if headline:
        path = directory / f"{plan.metric}.png"
        baseline = _baseline(results, headline[:ROWS])
        rate_rows(_rows(results, headline[:ROWS]), path, UNITS[plan.metric], colours, baseline)
        grey = f"; the grey line is {baseline}" if baseline else ""
        drawn[f"{err} with 95 % intervals; a dot is a seed{grey}{note}"] = path
    panels_of_curves = _learning_curves(results, headline)
    if panels_of_curves:
        path = directory / "learning_curves.png"
        draw_learning_curves(panels_of_curves, path, colours)
        drawn["Validation set by epoch; thin lines are seeds"] = path
    return drawn


def _kind(results: Results, line: Line) -> Kind:
    """Return what a line is in a picture: the student alone is what the plan compares methods with."""
    frontiers, name = results.plan.frontier, line.variant.row.name
    if any(name == spec.alone.name for spec in frontiers):
        return "alone"
    if results.is_method(line):
        return "method"
    if name in results.taught_by:
        return "teacher"
    return "method" if line.row.options.get("kd_config") else "alone"


def _baseline(results: Results, lines: list[Line]) -> str | None:
    """Return the line that is to be beaten: the longest of the student of a frontier, or the first alone."""
    alone = [line for line in lines if _kind(results, line) == "alone"]
    names = {spec.alone.name for spec in results.plan.frontier}
    of_frontier = [line for line in alone if line.variant.row.name in names]
    return next((line.name for line in [*of_frontier[::-1], *alone]), None)


def _interval(results: Results, line: Line, column: str) -> Interval:
    return rate_interval(line.runs(column, results.plan.metric))


def _rows(results: Results, lines: list[Line]) -> dict[str, list[RateRow]]:
    panels: dict[str, list[RateRow]] = {}
    for column in dict.fromkeys(column for line in lines for column in line.columns):
        for line in lines:
            if column in line.columns:
                i = _interval(results, line, column)
                dots = line.rates(column, results.plan.metric)
                row = RateRow(line.name, _kind(results, line), i.value, i.low, i.high, dots)
                panels.setdefault(column.replace(SEED, "*"), []).append(row)
    return panels


def _hours(results: Results, spec: Frontier) -> str:
    """Return what the compute of a frontier is counted in."""
    records = [record for line in results.lines(spec.alone) for record in line.records.values()]
    return unit_of(records[-1]) if records else CORE


def _curves(results: Results, spec: Frontier) -> dict[str, list[Curve]]:
    """Return the curves of a frontier by set.

    A method without a measured cost has none, nor one whose cost is in other hours than the student's alone.
    """
    alone = results.lines(spec.alone)
    panels: dict[str, list[Curve]] = {}
    for column in alone[0].columns if alone else ():
        found: list[Curve] = []
        for row in (spec.alone, *spec.methods):
            lines = [line for line in alone[-1].in_its_unit(results.lines(row)) if column in line.columns]
            kind: Kind = "alone" if row is spec.alone else "method"
            points = _points(results, lines, column, [line.hours for line in lines])
            paid = _points(results, lines, column, [results.paid_hours(line) for line in lines])
            if points:
                found.append(Curve(row.name, kind, points, paid if kind == "method" else ()))
        methods = [results.choices.get(row.name, row) for row in spec.methods]
        for teacher in dict.fromkeys(t.row for row in methods for t in row.teachers):
            lines = [line for line in results.lines(results.plan.rows[teacher]) if column in line.columns]
            found += [Curve(teacher, "teacher", points) for line in lines[-1:]
                      if (points := _points(results, [line], column, [line.hours or 1.0]))]  # fmt: skip
        if any(curve.kind != "teacher" for curve in found):
            panels[column.replace(SEED, "*")] = found
    return panels


def _points(results: Results, lines: list[Line], column: str, hours: list[float | None]) -> list[Point]:
    points = []
    for line, cost in zip(lines, hours, strict=True):
        if cost:
            i = _interval(results, line, column)
            points.append(Point(cost, i.value, i.low, i.high, line.variant.length or ""))
    return points


def _learning_curves(results: Results, lines: list[Line]) -> dict[str, list[LearningCurve]]:
    """Return the learning curves of the headline: as many as a plot can hold, methods rather than others.

    Of the other lines those that come last are shown, as they have the longest trainings.
    """
    lines = [line for line in lines if _kind(results, line) != "teacher"]
    methods = [line for line in lines if _kind(results, line) == "method"][: look.LINES]
    others = [line for line in lines if _kind(results, line) != "method"]
    others = others[max(0, len(others) + len(methods) - look.LINES) :]
    shown = [line for line in lines if any(line is one for one in (*methods, *others))]
    panels: dict[str, list[LearningCurve]] = {}
    for title, (name, *_) in CURVES.items():
        for line in shown:
            curves = [record.curve[name] for record in line.records.values() if record.curve.get(name)]
            seeds = [
                {epoch: value for epoch, value in enumerate(curve, 1) if math.isfinite(value)}
                for curve in curves
            ]
            if seeds:
                kind = _kind(results, line)
                panels.setdefault(title, []).append(LearningCurve(line.name, kind, seeds))
    return panels
