"""The look of every picture: colours, fonts, sizes, and the file that is written.

The five colours of methods can be told apart, also by colour-blind readers: from each other and from the grey
of the student alone they are at least 24 apart in CIELAB, as seen without one of the three kinds of cones.
"""

import re
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from espnet_kd.errors import printable
from espnet_kd.files import atomic_path

Kind = Literal["alone", "method", "teacher"]
INK = "#222222"  # text, teachers, and methods without a colour of their own
GREY = "#7f7f7f"  # the student alone; the blank
METHODS = ("#0072b2", "#cc3311", "#e69f00", "#332288", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v")  # of the methods, for pictures in black and white
# For tokens and the like, which have names beside them.
CYCLE = (*METHODS, "#117733", "#aa3377", "#999933")
LINES = 6  # at most in a plot, besides those of teachers
PER_CENT = 2.0  # least length of an axis of error rates
BESIDE = 5.0  # of intervals that leave the rates far behind this much is drawn at least, in per cent
FAR_APART = 4.0  # ratio of error rates from which their axis is logarithmic
DPI = 120
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


STYLE: Mapping[Any, Any] = {
    "font.family": ["sans-serif", *fallback_fonts(fontManager.get_font_names())],
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 11,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "text.color": INK,
    "xtick.color": "#888888",
    "xtick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.color": "#888888",
    "ytick.labelcolor": INK,
    "ytick.labelsize": 10,
}


def method_colours(names: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return name of a method -> colour: five differ, further methods have the colour of text.

    For several pictures of one report: give the methods of the headline first, and hand the result to each.
    Variants of a method may then be added with its colour.

    Args:
        names: methods; the earlier come first where there are more than five.
        given: colours that methods have in other pictures, which they keep.
    """
    own = dict.fromkeys(names)
    found = {name: colour for name, colour in (given or {}).items() if name in own and colour != INK}
    free = [colour for colour in METHODS if colour not in found.values()]
    return {name: found[name] if name in found else free.pop(0) if free else INK for name in own}


def line_style(name: str, kind: Kind, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return how matplotlib draws the line of a model.

    Args:
        name: what a person calls it.
        kind: "alone" is grey, "teacher" dashed.
        colours: name of a method -> colour.
    """
    if kind == "teacher":
        return {"color": INK, "linestyle": (0, (5, 3)), "linewidth": 1.3, "zorder": 1.5}
    if kind == "alone":
        return {"color": GREY, "marker": "o", "linewidth": 2.6, "zorder": 2.5}
    colour = colours.get(name, INK)
    marker = MARKERS[METHODS.index(colour)] if colour in METHODS else "o"
    return {"color": colour, "marker": marker, "zorder": 3}


def check_lines(names: Collection[str], what: str) -> None:
    """Raise a ValueError if a plot has more lines than can be told apart."""
    if len(names) > LINES:
        raise ValueError(f"{what}: {len(names)} curves, but a plot shows at most {LINES}: {', '.join(names)}")


def are_far_apart(panels: Iterable[Sequence[float]]) -> bool:
    """Return whether a bad start would fill the axis of error rates of any panel of a picture."""
    rates = list(panels)
    return all(min(r) > 0 for r in rates) and any(max(r) > FAR_APART * min(r) for r in rates)


def scale_rates(ax: Any, rates: Sequence[float], is_log: bool, direction: Literal["x", "y"] = "y") -> None:
    """Make an axis of error rates long enough to be read.

    Intervals of few seeds may be much longer than the rates are apart: they are cut off.

    Args:
        ax: of matplotlib, with everything drawn.
        rates: what is to be seen, in per cent.
        is_log: whether the axis is logarithmic, as it is in all panels if their rates `are_far_apart`.
        direction: of the axis.
    """
    axis, limit = getattr(ax, f"{direction}axis"), getattr(ax, f"set_{direction}lim")
    low, high = min(rates), max(rates)
    if is_log:
        getattr(ax, f"set_{direction}scale")("log")
        limit(low / 1.4, high * 1.3)
        near = high < 10 * low  # 1, 2 and 5 alone would be two numbers, from which no scale can be seen
        axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if near else (1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
        return
    beside = max(BESIDE, (high - low) / 4)
    first, last = axis.get_view_interval()
    first, last = max(first, low - beside), min(last, high + beside)
    lacking = max(0.0, PER_CENT - (last - first)) / 2
    limit(first - lacking, last + lacking)


def plain_text(text: str) -> str:
    """Return text of the user for a plot; $ is escaped, because matplotlib takes it as a formula."""
    return printable(text).replace("$", r"\$")


def wrap_label(label: str, width: int) -> str:
    """Break a label after spaces and underscores into lines of at most `width` characters, if words allow.

    The lines are as equal as they can be.
    """
    pieces = re.findall(r"[^ _]*[ _]?", plain_text(label))
    lines = _fill(pieces, width)
    for narrower in range(width - 1, 0, -1):
        candidate = _fill(pieces, narrower)
        if len(candidate) > len(lines):
            break
        lines = candidate
    return "\n".join(lines)


def _fill(pieces: list[str], width: int) -> list[str]:
    """Return lines of pieces of text, each as long as it can be."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and len((lines[-1] + piece).rstrip(" ")) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip(" ") for line in lines]


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure in the common look; write it when the block ends without an error.

    Args:
        path: the PNG.
        width: in inches, of 120 pixels.
        height: in inches.
    """
    with rc_context():
        rcdefaults()  # a user's matplotlibrc does not change the look
        rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        save(figure, path)


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
