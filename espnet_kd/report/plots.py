"""Pictures for RESULTS.md: error rates with intervals, and learning curves."""

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

# Title of a panel -> names of the statistic, the first that an epoch has. A distilled student's
# "loss" has the criteria in it, so that only its "loss_task" can be set beside another's loss.
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
FAR = 1.2  # times the highest
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
    """Those of the fonts for Japanese and Chinese that are installed."""
    return [name for name in CJK_FONTS if name in installed]


rcParams["font.family"] = ["sans-serif", *fallback_fonts(fontManager.get_font_names())]


def colours(groups: list[Group]) -> dict[str, str]:
    """Label -> colour, the same in every picture."""
    return {group.label: COLOURS[i % len(COLOURS)] for i, group in enumerate(groups)}


def letters(text: str) -> str:
    """Foreign text for a picture, to the letter: what stands between two $ would be a formula."""
    return printable(text).replace("$", r"\$")


def wrapped(label: str, width: int = 56) -> str:
    """The label in lines of `width` characters, broken after spaces and underscores; words stay whole."""
    lines = [""]
    for piece in re.findall(r"[^ _]*[ _]?", letters(label)):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, the same bytes for the same data."""
    with atomic_path(path) as temporary, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    lacking = {str(w.message) for w in caught if "missing from font" in str(w.message)}
    if lacking:  # matplotlib has a line for each
        print(
            f"espnet-kd: warning: {path}: {len(lacking)} characters are drawn as boxes: "
            f"install a font that has them, such as {CJK_FONTS[0]}",
            file=sys.stderr,
        )
    for warning in caught:
        if str(warning.message) not in lacking:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def rate_bars(groups: list[Group], sets: list[str], path: Path) -> None:
    """A panel for each set: a bar for each model, its 95 % interval and a dot for each seed."""
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
        ax.set(title=letters(name), xlabel=f"{unit} error rate (%)", xlim=(0, 1.18 * top or 1))
        ax.set_yticks(range(len(shown)), [wrapped(group.label) for group in shown])
        ax.grid(axis="x", alpha=0.3)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()  # shared: the first model on top in every panel
    save(figure, path)


def _bar(ax: Any, y: int, group: Group, name: str, colour: str) -> float:
    """Draw one bar; return how far to the right it reaches."""
    interval = rate_interval(*group.counts(name))
    ax.barh(y, interval.value, height=0.62, color=colour, alpha=0.75)
    sides = [[interval.value - interval.low], [interval.high - interval.value]]
    ax.errorbar(interval.value, y, xerr=sides, color="black", capsize=4, linewidth=1.2)
    seeds = group.rates(name)
    ax.plot(seeds, [y + 0.2] * len(seeds), **DOT)
    right = max(interval.high, *seeds)
    ax.annotate(f"{interval.value:.1f}", (right, y), **BESIDE)
    return float(right)


def learning_curves(groups: list[Group], path: Path) -> bool:
    """A panel for each statistic that any run has: bold the mean over seeds, thin each seed.

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
        untaught = [group.label for group in groups if group.kind != "distilled"]
        _cut(ax, [seed for label in untaught for seed in curves.get(label, [])])
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("validation set")
    labels = [wrapped(label, min(56, int(11 * width / columns) - 6)) for label in handles]
    figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=columns, frameon=False)
    save(figure, path)
    return True


def _cut(ax: Any, untaught: list[dict[int, float]]) -> None:
    """Leave out what is far above the curves of all untaught models: outputs that are not trained yet."""
    values = [value for curve in untaught for value in curve.values() if math.isfinite(value)]
    top = FAR * max([1.0, *values])
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
