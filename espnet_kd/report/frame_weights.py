"""``espnet-kd frame-weights``: plot the frame weights of an utterance above the teacher's CTC posteriors."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.command_line import command_parser
from espnet_kd.data.audio import read_speech
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.report import posteriors
from espnet_kd.report.groups import RunGroup

if TYPE_CHECKING:
    from torch import Tensor

    from espnet_kd.criteria.criterion import FrameWeights
CTC = "ctc.ctc_lo"


@dataclass(frozen=True)
class WeightedLayer:
    """A teacher and the layer, by its module path, whose frames a criterion weights."""

    teacher: Path
    checkpoint: str | None = None
    tap: str = "encoder"
    power: float = 1.0


@dataclass(frozen=True)
class WeightCurve:
    """Weights of the T frames of an utterance, (T,), with mean 1, and their name."""

    label: str
    weights: NDArray[np.float32]


def main(argv: list[str] | None = None) -> None:
    """Run ``frame-weights EXP --data dump/raw/dev [--tap encoder] [--utterance ID] [--out FILE.png]``."""
    parser = command_parser("frame-weights")
    parser.add_argument("experiment", type=Path, help="the teacher's directory, with config.yaml")
    parser.add_argument("--model", help="checkpoint in it (default: as for a teacher)")
    parser.add_argument("--data", type=Path, required=True, help="directory with wav.scp and text")
    parser.add_argument(
        "--tap", default="encoder", help="layer of `activation` and `deviation` (default: %(default)s)"
    )
    parser.add_argument("--power", type=float, default=1.0, help="weight_power (default: %(default)s)")
    parser.add_argument("--utterance", help="default: one of 1.5 to 4 s")
    parser.add_argument("--out", type=Path, default=Path("frame_weights.png"), help="default: %(default)s")
    args = parser.parse_args(argv)
    teacher = WeightedLayer(args.experiment, args.model, args.tap, args.power)
    utt = draw_weights(teacher, args.data, args.out, args.utterance)
    print(f"{args.out}: {utt}")


def find_weighted_layer(groups: list[RunGroup]) -> WeightedLayer | None:
    """Return the teacher and layer of the first student with frame weights; None if there is none."""
    for run in (run for group in groups for run in group.runs):
        for phase in run.phases:
            for entry in (phase.config.get("criteria") or {}).values():
                if entry.get("frame_weights", "none") != "none" and phase.teachers:
                    tap = entry.get("teacher_tap") or entry["tap"]
                    checkpoint = phase.config["teacher"].get("checkpoint")
                    power = float(entry.get("weight_power", 1.0))
                    return WeightedLayer(phase.teachers[0], checkpoint, tap, power)
    return None


def draw_weights(weighted: WeightedLayer, data: Path, path: Path, utterance: str | None = None) -> str:
    """Draw one utterance; return its id.

    Args:
        data: Kaldi directory with wav.scp and text.
        path: the PNG.
        utterance: its id; None chooses one that is neither too short nor too long for a plot.

    Raises:
        UserError: the utterance, its audio, the model or a layer cannot be read.
    """
    wavs, texts = read_table(data / "wav.scp"), read_table(data / "text")
    utt = utterance or posteriors.choose_utterance(data, wavs)
    if utt not in wavs or utt not in texts:
        raise UserError(f"{data} has no utterance {utt}")
    speech, rate = read_speech(wavs[utt], utt)
    panel, curves = compute_weights(weighted, speech, rate)
    plot_weights(panel, curves, len(speech) / rate, f"{utt}: {texts[utt]}", path)
    return utt


def compute_weights(
    weighted: WeightedLayer, samples: NDArray[Any], rate: int
) -> tuple[posteriors.Panel, list[WeightCurve]]:
    """Return the teacher's posteriors for one utterance (N,), and the weights of its frames by criterion."""
    import torch

    from espnet_kd.teachers.experiment import load_experiment
    from espnet_kd.teachers.online import OnlineTeacher
    from espnet_kd.teachers.speech import speech_for

    teacher = load_experiment(weighted.teacher, weighted.checkpoint)
    speech = speech_for(teacher, samples, rate)
    seen = OnlineTeacher([teacher], [weighted.tap, CTC]).targets(
        torch.from_numpy(speech)[None], torch.tensor([len(speech)]), torch.tensor([[2]]), torch.tensor([1])
    )
    hidden, logits = seen[weighted.tap].tensor[0], seen[CTC].tensor[0]
    if len(hidden) != len(logits):
        raise UserError(f"{weighted.tap} of {weighted.teacher} gives no frames: choose one of its encoder")
    curves = [
        WeightCurve("nonblank", _weights("nonblank", hidden, logits)),
        *(
            WeightCurve(f"{kind} of {weighted.tap}", _weights(kind, hidden, None, weighted.power))
            for kind in ("activation", "deviation")
        ),
    ]
    panel = posteriors.Panel(f"teacher {weighted.teacher.name}", logits.softmax(-1).numpy(), teacher.tokens)
    return panel, curves


def _weights(
    kind: "FrameWeights", hidden: "Tensor", guide: "Tensor | None", power: float = 1.0
) -> NDArray[np.float32]:
    """Return the weights (T,) that the criterion `hidden` gives to the frames (T, D) of one utterance."""
    import torch

    from espnet_kd.criteria.criterion import mean_one
    from espnet_kd.criteria.hidden import HiddenDistance

    frames, count = torch.arange(len(hidden)), torch.tensor([len(hidden)])
    importance = HiddenDistance(frame_weights=kind, weight_power=power).importance(hidden, guide, count)
    assert importance is not None
    return mean_one(importance, frames, torch.ones(1, len(hidden), dtype=torch.bool)).numpy()


def plot_weights(
    panel: posteriors.Panel, curves: list[WeightCurve], seconds: float, title: str, path: Path
) -> None:
    """Plot the weights above the posteriors, on one axis of time."""
    from espnet_kd.report import look

    with look.picture(path, posteriors.picture_width(seconds), 4.8) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        for curve, colour in zip(curves, look.METHODS, strict=False):
            times = _times(len(curve.weights), seconds)
            above.plot(times, curve.weights, label=look.plain_text(curve.label), marker=".", color=colour)
        above.axhline(1.0, color=look.GREY, linewidth=1, linestyle=":")
        above.set(ylabel="frame weight, mean 1", ylim=(0, None))
        above.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(curves))
        times = _times(len(panel.posteriors), seconds)
        posteriors.draw_panel(below, times, panel, posteriors.colours([panel]))
        heading = look.plain_text(f"{panel.label}, {len(panel.posteriors)} frames")
        below.set_title(heading, loc="left", fontsize=10)
        posteriors.finish(figure, below, seconds, title)


def _times(frames: int, seconds: float) -> NDArray[Any]:
    """Return the times of the middles of the frames, in seconds."""
    return (np.arange(frames) + 0.5) * seconds / frames
