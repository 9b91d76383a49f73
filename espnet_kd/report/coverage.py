"""``espnet-kd kept-mass``: measure how much of a teacher's posteriors the k most probable classes cover.

``OUT.md`` is a table by k, ``OUT.png`` a plot; they help to choose ``k`` of a topk criterion.
"""

import argparse
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from espnet_kd.command_line import command_parser, path_text
from espnet_kd.errors import UserError
from espnet_kd.files import write_text

LARGEST = 50  # k
BLANK = 0


def main(argv: list[str] | None = None) -> None:
    """Run the teachers on a development set; write the table and the plot."""
    from espnet_kd.teachers.online import Mean

    p = command_parser("kept-mass")
    p.add_argument("--teacher", type=path_text, nargs="+", required=True, help="trained experiments")
    p.add_argument("--checkpoint", help="file in each of them (default: its averaged model)")
    p.add_argument("--mean", choices=get_args(Mean), default="posteriors", help="of several teachers")
    p.add_argument("--taps", nargs="+", default=["ctc.ctc_lo", "decoder"], help="default: %(default)s")
    p.add_argument("--temperature", type=float, default=1.0, help="default: 1")
    p.add_argument("--data", type=Path, required=True, help="formatted development set")
    p.add_argument("--out", type=Path, required=True, help="OUT.md and OUT.png are written")
    p.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="default: 0")
    args = p.parse_args(argv)
    if not args.temperature > 0:
        raise UserError(f"--temperature {args.temperature} is not above 0")
    curves = measure_coverage(args)
    text = coverage_table(curves, f"{' '.join(args.teacher)} on {args.data}")
    write_text(args.out.with_suffix(".md"), text)
    plot_lost_mass(curves, args.out.with_suffix(".png"))
    print(text, end="")


class CoverageCurve:
    """Mean coverage by k, over positions of one kind."""

    def __init__(self) -> None:
        self.positions = 0
        self.sums: NDArray[np.float64] = np.zeros(0)

    def add(self, posteriors: NDArray[np.floating[Any]]) -> None:
        """Add the probabilities at N positions, (N, V)."""
        best = -np.sort(-posteriors.astype(np.float64), axis=-1)[:, :LARGEST]
        self.sums = self.sums + best.cumsum(-1).sum(0) if self.positions else best.cumsum(-1).sum(0)
        self.positions += len(best)

    @property
    def mass(self) -> NDArray[np.float64]:
        """Coverage by k, from k = 1; in [0, 1]."""
        return np.minimum(self.sums / self.positions, 1.0)


def add_utterance(curves: dict[str, CoverageCurve], tap: str, posteriors: NDArray[np.floating[Any]]) -> None:
    """Add the posteriors of one utterance, (P, V), to the curves of their kinds of positions.

    Decoder steps are one kind; frames count as "all", and as "blank" or "non-blank".
    """
    kinds = {f"{tap}: all": np.ones(len(posteriors), bool)}
    if tap.split(".")[0] != "decoder":
        blank = posteriors.argmax(-1) == BLANK
        kinds |= {f"{tap}: blank": blank, f"{tap}: non-blank": ~blank}
    for name, chosen in kinds.items():
        if chosen.any():
            curves.setdefault(name, CoverageCurve()).add(posteriors[chosen])


def measure_coverage(args: argparse.Namespace) -> dict[str, CoverageCurve]:
    """Run the teachers on the data; return the curves by kind of position."""
    from espnet_kd.targets import worker
    from espnet_kd.targets.format import TapFormat
    from espnet_kd.targets.plan import load, needs_text, rate_of
    from espnet_kd.targets.utterances import read_data
    from espnet_kd.teachers.options import teacher_options

    options = teacher_options({"exp": args.teacher, "checkpoint": args.checkpoint, "mean": args.mean})
    # Nothing is stored, so the size of a row does not matter.
    taps = {path: TapFormat("values", 1, temperature=args.temperature) for path in args.taps}
    rate = rate_of(load(options))
    observer = worker.load(worker.spec(options, taps, rate, "cuda" if args.ngpu else "cpu"))
    curves: dict[str, CoverageCurve] = {}
    for utt, (wav, text) in read_data([args.data], needs_text(taps)):
        for tap, seen in observer.observe(utt, wav, text)[2].items():
            logits = seen.tensor[0, : int(seen.lengths[0])].float()
            add_utterance(curves, tap, (logits / args.temperature).softmax(-1).cpu().numpy())
    return curves


def coverage_table(curves: dict[str, CoverageCurve], title: str) -> str:
    """Return a Markdown table of the coverage in per cent by k."""
    from espnet_kd.report.tables import plain

    largest = max(len(curve.mass) for curve in curves.values())
    columns = sorted(curves.items())
    heads = [f"{plain(name)} ({curve.positions})".replace("|", r"\|") for name, curve in columns]
    lines = [
        f"Mass (%) that the k most probable classes keep, mean over positions: {plain(title)}",
        "",
        f"| k | {' | '.join(heads)} |",
        f"| ---: |{' ---: |' * len(heads)}",
    ]
    for k in range(1, largest + 1):
        cells = [f"{100 * curve.mass[k - 1]:.3f}" for _, curve in columns]
        lines.append(f"| {k} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot_lost_mass(curves: dict[str, CoverageCurve], path: Path) -> None:
    """Plot the mass that is lost by k, a panel for each layer, on a scale that shows small differences."""
    from espnet_kd.report import look

    colours = {"all": look.INK, "blank": look.GREY, "non-blank": look.METHODS[0]}
    taps = list(dict.fromkeys(name.rsplit(": ", 1)[0] for name in sorted(curves)))
    with look.picture(path, 4.2 * len(taps), 4.0) as figure:
        axes = figure.subplots(1, len(taps), sharey=True, squeeze=False)[0]
        for ax, tap in zip(axes, taps, strict=True):
            for kind, colour in colours.items():
                curve = curves.get(f"{tap}: {kind}")
                if curve is not None:
                    lost = np.maximum(1 - curve.mass, 1e-6)
                    label = f"{kind} ({curve.positions} positions)"
                    ax.plot(np.arange(1, len(lost) + 1), lost, label=label, color=colour)
            ax.set(title=look.plain_text(tap), xlabel="k", yscale="log")
            ax.legend(loc="upper right")
        axes[0].set_ylabel("mass that is not kept")
