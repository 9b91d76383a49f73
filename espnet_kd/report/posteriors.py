"""Plot the CTC posteriors of teacher and students for one utterance over time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from espnet_kd.data.audio import IN_ARK, read_speech
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.report.groups import RunGroup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from espnet_kd.report.run import Run
VISIBLE = 0.05  # tokens whose posterior is always below this are not drawn
LABELLED = 0.3  # peaks of at least this height get the name of the token
FLOOR = 0.01  # below this, the curve of a token is not drawn
SPACE = "\u2423"  # a sign for it
LONGEST_TITLE = 80  # characters
SECONDS = (1.5, 4.0)  # length of the default utterance, so that the plot is readable


@dataclass(frozen=True)
class Panel:
    """Posteriors of one model.

    Attributes:
        posteriors: (T, V), T encoder frames, V tokens, blank first.
    """

    label: str
    posteriors: NDArray[np.float32]
    tokens: list[str]


def choose_models(groups: list[RunGroup], valid_set: str) -> "list[tuple[str, Run]]":
    """Choose teacher, undistilled student and best distilled student by the validation set.

    Returns:
        Label and first run of each.
    """

    chosen = []
    for kind in ("teacher", "student", "distilled"):
        of_kind = [g for g in groups if g.kind == kind and (kind != "student" or g.baseline is None)]
        of_kind = [g for g in of_kind if "ensemble" not in g.runs[0].info]  # not a single model
        if of_kind:
            chosen.append(min(of_kind, key=lambda g: (g.mean_rate(valid_set), g.name)))
    return [(f"{g.label} (seed {g.runs[0].seed})", g.runs[0]) for g in chosen]


def draw_posteriors(
    models: "list[tuple[str, Run]]", data: Path, path: Path, utterance: str | None = None
) -> str:
    """Draw one utterance for several models, one below the other; return its id.

    Args:
        models: label and experiment of each panel.
        data: Kaldi directory with wav.scp and text.
        path: the PNG.
        utterance: its id; None chooses one that is neither too short nor too long for a plot.

    Raises:
        UserError: the utterance, its audio or a model cannot be read.
    """
    wavs, texts = read_table(data / "wav.scp"), read_table(data / "text")
    utt = utterance or choose_utterance(data, wavs)
    if utt not in wavs or utt not in texts:
        raise UserError(f"{data} has no utterance {utt}")
    speech, rate = read_speech(wavs[utt], utt)
    if not models:
        raise UserError("there is no single model to draw")
    panels = [compute_posteriors(label, run, speech, rate) for label, run in models]
    plot_panels(panels, len(speech) / rate, f"{utt}: {texts[utt]}", path)
    return utt


def compute_posteriors(label: str, run: "Run", speech: NDArray[Any], rate: int) -> Panel:
    """Load a model and run its encoder and CTC layer on one utterance (N,)."""
    model = load_ctc(run)
    return Panel(label, model.posteriors(speech, rate), model.tokens)


@dataclass(frozen=True)
class CtcModel:
    """A model with a CTC layer.

    Attributes:
        posteriors: function from (N,) samples and their rate to (T, V).
        tokens: the token list.
    """

    posteriors: Callable[[NDArray[Any], int], NDArray[np.float32]]
    tokens: list[str]


def load_ctc(run: "Run") -> CtcModel:
    """Load the model of an experiment.

    Raises:
        UserError: it has no model file or no CTC layer, or cannot be loaded.
    """
    import torch

    from espnet_kd.host.models import ctc_layer, encode
    from espnet_kd.teachers.experiment import load_experiment
    from espnet_kd.teachers.speech import speech_for

    file = run.model_file
    if file is None:
        raise UserError(f"{run.directory} has no model file")
    experiment = load_experiment(run.directory, file.name)
    model = experiment.model
    layer = ctc_layer(model)
    if layer is None:
        raise UserError(f"{run.directory} has no CTC layer (its weight is 0)")

    def posteriors(samples: NDArray[Any], rate: int) -> NDArray[np.float32]:
        speech = speech_for(experiment, samples, rate)
        with torch.no_grad():
            encoded, _ = encode(model, torch.from_numpy(speech)[None], torch.tensor([len(speech)]))
            found: NDArray[np.float32] = layer(encoded)[0].softmax(-1).numpy()
        return found

    return CtcModel(posteriors, list(model.token_list))


def plot_panels(panels: list[Panel], seconds: float, title: str, path: Path) -> None:
    """Draw panels above a common axis of time; the value of a frame is at its middle."""
    from espnet_kd.report import look

    colour = colours(panels)
    with look.picture(path, picture_width(seconds), 0.9 + 1.75 * len(panels)) as figure:
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for ax, panel in zip(axes, panels, strict=True):
            frames = len(panel.posteriors)
            times = (np.arange(frames) + 0.5) * seconds / frames
            draw_panel(ax, times, panel, colour)
            ax.set_title(look.plain_text(f"{panel.label}, {frames} frames"), loc="left", fontsize=10)
        finish(figure, axes[-1], seconds, title)


def finish(figure: "Figure", lowest: Any, seconds: float, title: str) -> None:
    """Write the title of a picture of an utterance, and its axis of time under the lowest panel."""
    from espnet_kd.report import look

    lowest.set(xlabel=f"time (s); grey: blank, {SPACE}: space", xlim=(0, seconds))
    shown = title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 3]}..."
    figure.suptitle(look.plain_text(shown), fontsize=12)


def picture_width(seconds: float) -> float:
    """Return the width in inches of a picture of an utterance."""
    return min(max(8.0, 3.2 * seconds), 14.0)


def draw_panel(ax: Any, times: NDArray[np.float64], panel: Panel, colour: dict[str, str]) -> None:
    """Draw the curves of a panel over the times of its frames, (T,)."""
    from espnet_kd.report import look

    blank = panel.posteriors[:, 0]
    ax.fill_between(times, blank, color=look.GREY, alpha=0.25, linewidth=0)
    ax.plot(times, blank, color=look.GREY, linewidth=0.8)
    others = panel.posteriors[:, 1:]
    for v in np.flatnonzero(others.max(axis=0) >= VISIBLE) + 1:
        curve = panel.posteriors[:, v]
        token = panel.tokens[v]
        ax.plot(times, _without_floor(curve), color=colour[token], linewidth=1.5, marker=".", markersize=3)
        for t in peaks(curve):
            if curve[t] >= others[t].max():  # only the most probable token of a frame is named
                ax.annotate(
                    _token_text(token), (times[t], curve[t]), xytext=(0, 4), textcoords="offset points",
                    ha="center", color=colour[token], fontsize=11 if len(_token_text(token)) == 1 else 8,
                    annotation_clip=False,
                )  # fmt: skip
    ax.set(ylim=(0, 1.25), ylabel="posterior", yticks=[0, 0.5, 1])
    ax.grid(visible=False)


def peaks(curve: NDArray[np.floating[Any]]) -> list[int]:
    """Return the highest frame of each stretch of a curve (T,) above ``LABELLED``."""
    high = np.flatnonzero(curve >= LABELLED)
    stretches = np.split(high, np.flatnonzero(np.diff(high) > 1) + 1)
    return [int(frames[curve[frames].argmax()]) for frames in stretches if len(frames)]


def _without_floor(curve: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Replace values below ``FLOOR`` by NaN, except beside higher ones, so that slopes are complete."""
    there = np.pad(curve >= FLOOR, 1)
    return np.where(there[:-2] | there[1:-1] | there[2:], curve, np.nan)


def _token_text(token: str) -> str:
    """Return the text of a token; a word boundary is a token of its own or, in BPE, the start of one."""
    from espnet_kd.report.look import plain_text

    return SPACE if token in ("<space>", "\u2581") else plain_text(token.replace("\u2581", SPACE))


def colours(panels: list[Panel]) -> dict[str, str]:
    """Return token -> colour, the same in all panels; tokens that follow one another differ."""
    from espnet_kd.report.look import CYCLE

    order: list[str] = []
    for panel in panels:
        for v in panel.posteriors.argmax(axis=1):
            order.append(panel.tokens[v])
        order += [panel.tokens[v] for v in range(1, len(panel.tokens))]
    return {token: CYCLE[i % len(CYCLE)] for i, token in enumerate(dict.fromkeys(order))}


def choose_utterance(data: Path, wavs: dict[str, str]) -> str:
    """Return the first utterance with a length within ``SECONDS``, or else the first."""
    for utt in sorted(wavs):
        if SECONDS[0] <= _seconds(wavs[utt], utt) <= SECONDS[1]:
            return utt
    if not wavs:
        raise UserError(f"{data}/wav.scp is empty")
    return min(wavs)


def _seconds(wav: str, utt: str) -> float:
    if IN_ARK.search(wav):
        samples, rate = read_speech(wav, utt)
        return len(samples) / rate
    try:
        return float(soundfile.info(wav).duration)
    except (soundfile.SoundFileError, OSError) as e:
        raise UserError(f"{wav} of {utt} cannot be read: {e}") from None
