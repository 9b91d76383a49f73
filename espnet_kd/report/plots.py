"""Plots for RESULTS.md: error rates with intervals, and learning curves."""

import math
import re
import sys
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import MaxNLocator

from espnet_kd.errors import printable
from espnet_kd.files import atomic_path
from espnet_kd.report.groups import Group
from espnet_kd.scoring import alignment
from espnet_kd.scoring.bootstrap import rate_interval

# Title of a panel -> names of statistics, of which the first that an epoch has is shown. The "loss" of a
# distilled student includes the criteria, so its "loss_task" is compared with the loss of others.
CURVES: Mapping[str, tuple[str, ...]] = {
    "CTC character error rate": ("cer_ctc",),
    "transducer character error rate": ("cer_transducer",),
    "decoder accuracy (teacher forcing)": ("acc",),
    "task loss (nats)": ("loss_task", "loss"),
}
COLOURS = "#4c566a #0072b2 #56b4e9 #d55e00 #009e73 #cc79a7 #e69f00 #882255 #117733 #999933".split()
DOT: Mapping[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 3.5,
    "color": "white",
    "mec": "black",
    "mew": 0.8,
}
BESIDE: Mapping[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
DPI = 120
HEADROOM = 1.2  # top of a panel, relative to the highest value of undistilled models
# For Japanese and Chinese tokens, which matplotlib's own font lacks.
CJK_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "IPAexGothic",
    "IPAGothic",
    "TakaoGothic",
    "VL Gothic",
    "Hiragino Sans",
    "Yu Gothic",
    "MS Gothic",
    "WenQuanYi Zen Hei",
)


def fallback_fonts(installed: Collection[str]) -> list[str]:
    """Return the installed ones of the fonts for Japanese and Chinese."""
    return [name for name in CJK_FONTS if name in installed]


rcParams["font.family"] = ["sans-serif", *fallback_fonts(fontManager.get_font_names())]


def colours(groups: list[Group]) -> dict[str, str]:
    """Return label -> colour, the same in every plot."""
    return {group.label: COLOURS[i % len(COLOURS)] for i, group in enumerate(groups)}


def plain_text(text: str) -> str:
    """Return text of the user for a plot; $ is escaped, because matplotlib takes it as a formula."""
    return printable(text).replace("$", r"\$")


def wrap_label(label: str, width: int = 56) -> str:
    """Break a label after spaces and underscores into lines of at most `width` characters, if words allow."""
    lines = [""]
    for piece in re.findall(r"[^ _]*[ _]?", plain_text(label)):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, the same bytes for the same data."""
    with atomic_path(path) as temporary, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    missing = {str(w.message) for w in caught if "missing from font" in str(w.message)}
    if missing:  # matplotlib warns of each
        print(
            f"espnet-kd: warning: {path}: {len(missing)} characters are drawn as boxes: "
            f"install a font that has them, such as {CJK_FONTS[0]}",
            file=sys.stderr,
        )
    for warning in caught:
        if str(warning.message) not in missing:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def rate_bars(groups: list[Group], sets: list[str], path: Path) -> None:
    """Plot a panel for each set: a bar for each model, its 95 % interval and a dot for each seed."""
    shown = [group for group in groups if any(group.scored(name) for name in sets)]
    colour = colours(groups)
    width = max(3.8 * len(sets), 4.5) + 2.8
    figure = Figure(figsize=(width, 1.2 + 0.5 * len(shown)), layout="constrained")
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, sets, strict=True):
        top = 0.0
        for y, group in enumerate(shown):
            if group.scored(name):
                top = max(top, _bar(ax, y, group, name, colour[group.label]))
        unit = alignment.UNITS[groups[0].metric]
        ax.set(title=plain_text(name), xlabel=f"{unit} error rate (%)", xlim=(0, 1.18 * top or 1))
        ax.set_yticks(range(len(shown)), [wrap_label(group.label) for group in shown])
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()  # all panels share it; the first model is on top
    save(figure, path)


def _bar(ax: Any, y: int, group: Group, name: str, colour: str) -> float:
    """Draw one bar; return its right end."""
    interval = rate_interval(group.errors(name))
    ax.barh(y, interval.value, height=0.62, color=colour, alpha=0.75)
    sides = [[interval.value - interval.low], [interval.high - interval.value]]
    ax.errorbar(interval.value, y, xerr=sides, color="black", capsize=4, linewidth=1.2)
    seeds = group.rates(name)
    ax.plot(seeds, [y + 0.2] * len(seeds), **DOT)
    right = max(interval.high, *seeds)
    ax.annotate(f"{interval.value:.1f}", (right, y), **BESIDE)
    return float(right)


def learning_curves(groups: list[Group], path: Path) -> bool:
    """Plot a panel for each statistic that any run has; the mean over seeds is bold, each seed is thin.

    Returns:
        False if no run reports any of them, and nothing was drawn.
    """
    panels = {title: curves for title, names in CURVES.items() if (curves := _curves(groups, names))}
    if not panels:
        return False
    width, columns = max(6.0, 4.3 * len(panels)), min(2, len(panels))
    figure = Figure(figsize=(width, 3.9 + 0.44 / columns * len(groups)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    colour = colours(groups)
    handles: dict[str, Any] = {}
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, seeds in curves.items():
            handles.setdefault(label, _curve(ax, seeds, colour[label]))
        undistilled = [group.label for group in groups if group.kind != "distilled"]
        _limit_height(ax, [seed for label in undistilled for seed in curves.get(label, [])])
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("validation set")
    labels = [wrap_label(label, min(56, int(11 * width / columns) - 6)) for label in handles]
    figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=columns, frameon=False)
    save(figure, path)
    return True


def _limit_height(ax: Any, undistilled: list[dict[int, float]]) -> None:
    """Cut values far above the curves of all undistilled models, as of outputs that are not trained yet."""
    values = [value for curve in undistilled for value in curve.values() if math.isfinite(value)]
    top = HEADROOM * max([1.0, *values])
    if values and ax.dataLim.ymax > top:
        ax.set_ylim(ax.dataLim.ymin - 0.05 * (top - ax.dataLim.ymin), top)


def _curves(groups: list[Group], names: tuple[str, ...]) -> dict[str, list[dict[int, float]]]:
    found = {g.label: [c for run in g.runs if (c := run.history.curve("valid", *names))] for g in groups}
    return {label: seeds for label, seeds in found.items() if seeds}


def _curve(ax: Any, seeds: list[dict[int, float]], colour: str) -> Any:
    """Draw one group's curves; return the bold line."""
    if len(seeds) > 1:
        for seed in seeds:
            ax.plot(list(seed), list(seed.values()), color=colour, linewidth=0.6, alpha=0.45)
    epochs = sorted(set.intersection(*(set(seed) for seed in seeds)))
    mean = [sum(seed[e] for seed in seeds) / len(seeds) for e in epochs]
    marker = "o" if len(epochs) == 1 else None
    return ax.plot(epochs, mean, color=colour, linewidth=1.8, marker=marker)[0]
