"""Speed, latency, memory and size of decoding, which ``espnet-kd measure`` has found: table and picture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from espnet_kd.measure.measurement import Measurement, Spread
from espnet_kd.report import look
from espnet_kd.report.group_plots import KINDS, colours_of
from espnet_kd.report.groups import RunGroup, with_exports
from espnet_kd.report.tables import plain, table
from espnet_kd.scoring.alignment import UNITS

NOTE = """\
RTF: real-time factor, the time of decoding an utterance by its duration, one at a time; median over
the utterances, and what 90 % of them do not exceed. Relative to the first: time (with one
thread that of the processor, which other programs disturb less) of decoding the same utterance in the same
round, median over the utterances, and in brackets the range of the middle 80 % of them.
Final text: from the end of an utterance until its final text is there, as median and as what 90 % do not
exceed. MB: of the files that decoding needs. Memory: peak of the process, with all libraries. Of both, in
brackets by that of the first. Start: from the start of the process until it can decode. Multiply-adds: of a
second of speech, in products of matrices and convolutions. Errors: of the measured utterances."""
LATENCY_NOTE = """\
First text: from the begin of an utterance until some text is there. The arrival of speech is imitated
without waiting: a clock is moved on to the end of each chunk, or stays where the decoding of the chunk before
has ended if that is later, and is then moved on by the time that decoding the chunk takes."""
GREEDY_NOTE = """\
Greedy rows spare the beam search of the others: their ratios are of runtime and search together."""
MIXED = """\
Not all RTF of this set were measured on the same machine, with the same threads and versions: only rows of
one line above can be compared, here, in the table of error rates and in the picture."""
FILLINGS = ("full", "none", "left", "top", "right", "bottom")  # of points of one colour
FLOOR = 1.15  # least ratio of the ends of an axis to its extreme points, so that none is on the frame


def cost_table(records: Mapping[str, Measurement], rates: Mapping[str, str] | None = None) -> str:
    """Return a table with a row for each model, and below it what it was measured on.

    Args:
        records: what a person calls a model -> its record, in the order of the table.
        rates: for each its error rate on the whole set, with the name of the column as ``""``; None for none.
    """
    streaming = any(record.chunk_ms is not None for record in records.values())
    firsts = {record.relative_to for record in records.values() if record.relative is not None}
    alone = [record for record in records.values() if record.relative is None]
    first = alone[0] if len(firsts) == len(alone) == 1 else None
    rows = [_row(name, record, streaming, bool(firsts), first) for name, record in records.items()]
    units = [f"{UNITS[metric]}s" for metric in dict.fromkeys(record.metric for record in records.values())]
    if len(units) > 1:
        for row, record in zip(rows, records.values(), strict=True):
            row[-1] += f" {UNITS[record.metric]}s" * (record.errors is not None)
    head = ["model", "RTF", "90 % below", *(["relative to the first"] if firsts else [])]
    head += ["chunk ms", "first text s"] if streaming else []
    head += ["final text s", "MB", "memory MB", "parameters", "multiply-adds", "of the encoder", "start s"]
    head.append(f"errors/{' or '.join(units)}")
    if rates is not None:
        head.insert(1, rates[""])
        rows = [[row[0], rates[name], *row[1:]] for name, row in zip(records, rows, strict=True)]
    notes = [NOTE, *([LATENCY_NOTE] if streaming else [])]
    searches = [str(record.options.get("search") or "") for record in records.values()]
    notes += [GREEDY_NOTE] if any("greedy" in search for search in searches) else []
    return "\n\n".join([table(head, rows), " ".join(notes), "\n".join(_conditions(records))])


def _row(
    name: str, record: Measurement, streaming: bool, relative: bool, first: Measurement | None
) -> list[str]:
    def ratio(value: float, key: str) -> str:
        return "" if first in (None, record) else f" ({value / getattr(first, key):.2g})"

    row = [plain(name), f"{record.rtf.median:.3g}", f"{record.rtf.p90:.3g}"]
    if relative:
        row.append("1" if record.relative is None else _range(record.relative))
    if streaming:
        chunk = "all" if record.chunk_ms is None else f"{record.chunk_ms:.0f}"
        row += [chunk, _latency(record.first_text_s)]
    return [
        *row,
        _latency(record.end_s),
        f"{record.disk_mb:.2f}" + ratio(record.disk_mb, "disk_mb"),
        f"{record.memory_mb:.0f}" + ratio(record.memory_mb, "memory_mb"),
        "unknown" if record.parameters is None else _large(record.parameters),
        "unknown" if record.multiply_adds_per_s is None else _large(record.multiply_adds_per_s),
        "" if record.encoder_multiply_adds_per_s is None else _large(record.encoder_multiply_adds_per_s),
        f"{record.startup_s:.1f}",
        "" if record.errors is None else f"{record.errors}/{record.words}",
    ]


def _range(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.p10:.2f} to {spread.p90:.2f})"


def _latency(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return ", ".join(f"{s:.2f}" if s >= 0.1 else f"{s:.2g}" for s in (spread.median, spread.p90))


def _large(number: float) -> str:
    """Return a number as ``0.22 M`` or ``36.5 G``."""
    unit, size = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6)) if number >= s), ("M", 1e6))
    return f"{number / size:.3g} {unit}"


def _conditions(records: Mapping[str, Measurement]) -> list[str]:
    """Name the hardware, versions and amount of each measurement, one line for those that are alike."""
    alike: dict[str, list[str]] = {}
    for name, record in records.items():
        machine = record.machine
        versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
        threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
        text = (
            f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']} before, {threads}; "
            f"{versions}; {_decoding(record)}; "
            f"{record.utterances} utterances, {record.duration_s:.0f} s, {record.rounds} rounds"
        )
        first = "" if record.relative_to is None else f"; relative to {record.relative_to}"
        alike.setdefault(text + first, []).append(name)
    return [f"- {', '.join(plain(name) for name in names)}: {plain(text)}." for text, names in alike.items()]


def differ(records: Iterable[Measurement]) -> bool:
    """Return whether records are of different machines, threads or versions of a library."""
    found: dict[str, set[str]] = {}
    for record in records:
        machine = record.machine
        conditions = {key: machine[key] for key in ("cpu", "cores", "threads")} | machine["versions"]
        for key, value in conditions.items():
            found.setdefault(key, set()).add(str(value))
    return any(len(values) > 1 for values in found.values())


def _decoding(record: Measurement) -> str:
    """Name the options of decoding, on which every time depends."""
    options = record.options
    named = [str(options.get(key) or "") for key in ("inference_config", "inference_args", "checkpoint")]
    otherwise = options.get("search") or (
        "ESPnet's defaults" if "torch" in record.machine["versions"] else "what its export chose"
    )
    return f"decoded with {' '.join(filter(None, map(str.strip, named))) or otherwise}"


def section(groups: list[RunGroup], sets: list[str]) -> list[str]:
    """Return heading and table of each measured set for RESULTS.md; empty if none was measured."""
    parts = []
    for name in sets:
        runs = [(group, run) for group in with_exports(groups) for run in group.runs if name in run.costs]
        if not runs:
            continue
        metric = groups[0].metric
        named = {
            group.label if len(group.runs) == 1 else f"{group.label}, {run.name}": run for group, run in runs
        }
        rates = {label: f"{run.scores[name].rate(metric):.1f}" for label, run in named.items()}
        records = {label: run.costs[name] for label, run in named.items()}
        parts.append(f"## Speed and size: {plain(name)}")
        parts.append(cost_table(records, {"": f"{metric.upper()} %", **rates}))
        if differ(records.values()):
            parts.append(MIXED)
    return parts


def draw(groups: list[RunGroup], sets: list[str], directory: Path) -> dict[str, Path]:
    """Draw the error rate of the first measured set against RTF and MB; return caption -> file.

    Nothing is drawn unless two models were measured.
    """
    for name in sets:
        scored = [group for group in with_exports(groups) if group.scored(name)]
        points = [(group, group.mean_rate(name), *cost) for group in scored if (cost := group.costs(name))]
        if len(points) > 1:
            path = directory / "speed.png"
            draw_points(points, path, groups[0].metric.upper(), name, colours_of(groups, sets))
            caption = f"{groups[0].metric.upper()} on {name} against real-time factor and size"
            return {f"{caption}; the line joins models than which none is better in both": path}
    return {}


Point = tuple[RunGroup, float, float, float]  # error rate in per cent, real-time factor, megabytes


def draw_points(
    points: Sequence[Point], path: Path, metric: str, name: str, colours: Mapping[str, str]
) -> None:
    """Draw a panel for the real-time factor and one for the size; both axes of costs are logarithmic."""
    labels = [look.wrap_label(group.label, 44) for group, *_ in points]
    height = 3.8 + 0.22 * sum(1 + label.count("\n") for label in labels) / 2
    styles = _styles([group for group, *_ in points], colours)
    with look.picture(path, 10.4, height) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for ax, column, title in zip(axes, (2, 3), ("real-time factor", "MB on disk"), strict=True):
            costs = [float(point[column]) for point in points]  # type: ignore[arg-type]
            rates = [point[1] for point in points]
            front = best(costs, rates)
            ax.step(
                [costs[i] for i in front], [rates[i] for i in front], where="post", color="#bbbbbb",
                linewidth=1.4, zorder=1,
            )  # fmt: skip
            for cost, rate, style in zip(costs, rates, styles, strict=True):
                ax.plot(cost, rate, **style)
            _scale(ax, costs)
            ax.set_xlabel(title)
        axes[0].set(title=look.plain_text(name), ylabel=f"{metric} (%)")
        axes[0].set_ylim(0, 1.1 * max(point[1] for point in points) or 1)
        handles = [Line2D([], [], **style) for style in styles]
        figure.legend(handles, labels, loc="outside lower center", ncols=2)


def best(costs: Sequence[float], rates: Sequence[float]) -> list[int]:
    """Return the models than which no other is better in both, the cheapest first."""
    found: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], rates[i])):
        if not found or rates[i] < rates[found[-1]]:
            found.append(i)
    return found


def _styles(groups: Sequence[RunGroup], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return how the points are drawn; teachers are stars, and points of one colour differ in the filling."""
    found: list[dict[str, Any]] = []
    for group in groups:
        kind = KINDS[group.kind]
        style = look.line_style((group.source or group).label, kind, colours)
        colour, marker = style["color"], "*" if kind == "teacher" else style["marker"]
        same = sum((style["color"], style["marker"]) == (colour, marker) for style in found)
        found.append({
            "color": colour, "marker": marker, "markersize": 14 if kind == "teacher" else 9, "linestyle": "",
            "fillstyle": FILLINGS[same % len(FILLINGS)], "markerfacecoloralt": "white", "zorder": 3,
        })  # fmt: skip
    return found


def _scale(ax: Any, costs: Sequence[float]) -> None:
    """Make an axis of costs logarithmic, with plain numbers, and at least an octave long."""
    low, high = min(costs), max(costs)
    room = max(FLOOR, (2 * low / high) ** 0.5)
    ax.set_xscale("log")
    ax.set_xlim(low / room, high * room)
    wide = high * room > 8 * low / room
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if wide else MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
