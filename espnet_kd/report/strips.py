"""CTC posteriors of teacher and students in the page of ``espnet-kd demo-page``, drawn as SVG.

A model has a strip over time, the strips of an utterance stand one below the other, and a column is an
encoder frame: at the bottom the most probable token but the blank, above it in grey the others.
"""

import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError, first_line, printable
from espnet_kd.report.groups import RunGroup
from espnet_kd.report.posteriors import SPACE, VISIBLE, CtcModel, Panel, choose_models, load_ctc, peaks

STYLE = """
.strips { margin-top: .8rem }
.strips svg { display: block; font: 11px system-ui, sans-serif }
.strips text { fill: var(--text) }
.strips .token { text-anchor: middle; font-weight: bold }
.strips .blank { fill: var(--page) }
.strips .best { fill: var(--text) }
.strips .other { fill: var(--line) }
.strips .ticks { stroke: var(--line); fill: none }
"""
NOTE = """\
Below the texts are the posteriors of the CTC layers of {models}, over time. A column is an encoder frame: \
at the bottom, and with its name where it is highest, the most probable token but the blank; above it in \
grey the other tokens; what is left empty is the blank."""
SECOND, LEAST = 180, 260  # pixels of a second, and least of an utterance
NAMES, HEIGHT, GAP = 28, 44, 8  # pixels: of the lines with names, of a posterior of 1, and between models
AXIS = 18  # pixels of the axis of time


def load_models(groups: Sequence[RunGroup], name: str) -> tuple[dict[str, CtcModel], list[str]]:
    """Load the models that have strips: teacher, student alone and the best distilled one on a set.

    Returns:
        Label -> model, and for each that has no posteriors a sentence that says why.
    """
    found, reasons = {}, []
    for label, run in choose_models(list(groups), name):
        try:
            found[label] = load_ctc(run)
        except Exception as e:  # ESPnet builds models of experiments that other versions may have made
            reasons.append(f"No posteriors of {label}: {e if isinstance(e, UserError) else first_line(e)}.")
            print(f"espnet-kd: warning: {reasons[-1]}", file=sys.stderr)
    return found, reasons


def panels_of(models: Mapping[str, CtcModel], samples: NDArray[Any], rate: int, utt: str) -> list[Panel]:
    """Return the posteriors of an utterance, (N,) samples; a model that finds it too short has none."""
    found = []
    for label, model in models.items():
        try:
            posteriors = model.posteriors(samples, rate)
        except Exception as e:  # of ESPnet's encoders, each its own
            print(f"espnet-kd: warning: {utt} has no posteriors of {label}: {first_line(e)}", file=sys.stderr)
            continue
        if len(posteriors):
            found.append(Panel(label, posteriors, model.tokens))
    return found


def draw(panels: Sequence[Panel], utt: str, seconds: float) -> str:
    """Return the strips of an utterance.

    Args:
        panels: posteriors of each model.
        utt: its id.
        seconds: its length.
    """
    width = round(max(LEAST, SECOND * seconds))
    high = NAMES + HEIGHT + GAP
    strips = "".join(_strip(panel, width, i * high) for i, panel in enumerate(panels))
    bottom = len(panels) * high
    step = 1 if seconds <= 30 else 10
    marks = [second * width / seconds for second in range(0, int(seconds) + 1, step)]
    ticks = "".join(f"M{x:.0f} {bottom - GAP}v5" for x in marks)
    names = "".join(
        f'<text x="{x + 3:.0f}" y="{bottom + 7}">{i * step} s</text>' for i, x in enumerate(marks)
    )
    spoken = "; ".join(_spoken(panel, seconds) for panel in panels)
    return (
        f'<div class="scroll strips" role="region" aria-label="posteriors of {_text(utt)}" tabindex="0">'
        f'<svg role="img" aria-label="{spoken}" width="{width}" height="{bottom + AXIS}">'
        f'{strips}<path class="ticks" d="{ticks}"></path>{names}</svg></div>'
    )


def _strip(panel: Panel, width: int, top: int) -> str:
    """Return the strip of a model, whose bars are in units of frames and pixels."""
    frames = len(panel.posteriors)
    base = top + NAMES + HEIGHT
    best: list[str] = []
    other: list[str] = []
    for t, row in enumerate(panel.posteriors):
        below = 0
        order = np.argsort(-row[1:], kind="stable") + 1  # without the blank
        for rank, v in enumerate(order[: int((row[1:] >= VISIBLE).sum())]):
            height = round(HEIGHT * float(row[v]))
            (other if rank else best).append(f"M{t} {base - below}h1v-{height}h-1z")
            below += height
    names = "".join(
        f'<text class="token" x="{(t + 0.5) * width / frames:.0f}" y="{base - HEIGHT - 3}">{name}</text>'
        for t, name in named(panel)
    )
    bars = "".join(
        f'<path class="{kind}" d="{"".join(bar)}"></path>' for kind, bar in (("best", best), ("other", other))
    )
    return (
        f'<text x="0" y="{top + 11}">{_text(panel.label)}</text>'
        f'<path class="blank" d="M0 {base}h{width}v-{HEIGHT}h-{width}z"></path>'
        f'<g transform="scale({width / frames:.5g} 1)">{bars}</g>{names}'
    )


def named(panel: Panel) -> list[tuple[int, str]]:
    """Return frame and name of the tokens that are high enough to be named, in the order of time."""
    others: NDArray[np.float32] = panel.posteriors[:, 1:]
    highest = others.max(axis=1)
    found = [
        (t, _name(panel.tokens[v + 1]))
        for v in np.flatnonzero(others.max(axis=0) >= VISIBLE)
        for t in peaks(others[:, v])
        if others[t, v] >= highest[t]
    ]
    return sorted(found)


def _spoken(panel: Panel, seconds: float) -> str:
    """Return a strip in words, for those who listen to the page."""
    frame = seconds / len(panel.posteriors)
    words = [f"{name} at {(t + 0.5) * frame:.1f} s" for t, name in named(panel)]
    return f"{_text(panel.label)}: {', '.join(words) or 'blanks alone'}"


def _name(token: str) -> str:
    """Return the name of a token; a word boundary is a token of its own or, in BPE, the start of one."""
    return SPACE if token in ("<space>", "\u2581") else _text(token.replace("\u2581", SPACE))


def _text(value: str) -> str:
    return escape(printable(value))
