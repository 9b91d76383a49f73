"""``espnet-kd layers`` and ``espnet-kd sizes``: list layers of a model, and sizes of configurations."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from espnet_kd.command_line import command_parser
from espnet_kd.config import read_config
from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.errors import UserError
from espnet_kd.host.models import encode, has_lattice
from espnet_kd.host.outputs import task_of
from espnet_kd.methods import active
from espnet_kd.report.tables import table
from espnet_kd.tasks.asr import ASRDistillationTask, TransducerDistillationTask
from espnet_kd.teachers.experiment import load_experiment
from espnet_kd.teachers.online import record_taps
from espnet_kd.teachers.taps import LATTICE, Taps

TEXT = torch.tensor([[2, 3]])
SECONDS = (1, 5)  # the rate is (frames of 5 s - frames of 1 s) / 4 s, which leaves out the edges


def main_layers(argv: list[str] | None = None) -> None:
    """Run ``layers EXP [--model FILE] [--depth N]``: print a table."""
    parser = command_parser("layers")
    parser.add_argument("experiment", type=Path, help="directory with config.yaml and a checkpoint")
    parser.add_argument("--model", help="checkpoint in it (default: as for a teacher)")
    parser.add_argument("--depth", type=int, default=3, help="parts of a path (default: %(default)s)")
    args = parser.parse_args(argv)
    experiment = load_experiment(args.experiment, args.model)
    millions = sum(p.numel() for p in experiment.model.parameters()) / 1e6
    print(f"{experiment.checkpoint}: {millions:.2f} M parameters")
    print(layer_table(experiment.model, args.depth, experiment.rate or DEFAULT_RATE))


@dataclass(frozen=True)
class Layer:
    """A layer that can be tapped, and the shape of its output for one second of noise."""

    path: str
    positions: int
    size: int


def layer_table(model: nn.Module, depth: int, hertz: int = DEFAULT_RATE) -> str:
    """Return one line for each layer that can be tapped, then the number of those left out.

    Args:
        model: an ESPnet model.
        depth: layers whose path has more parts are left out.
        hertz: sampling rate of the model.
    """
    names = [name for name, _ in model.named_modules() if name]
    if has_lattice(model):  # tapped as a whole, as the lattice
        names = [name for name in names if name.split(".")[0] not in ("decoder", LATTICE)]
    layers = tappable_layers(model, names, hertz)
    shown = [layer for layer in layers if layer.path.count(".") < depth]
    rate = f"{frame_rate(model, hertz):g} per second"
    rows = [("tap", "on a second of noise", "rate")]
    for layer in shown:
        steps = layer.path.split(".")[0] == "decoder"
        shape = f"{layer.positions} {'steps' if steps else 'frames'} x {layer.size}"
        rows.append((layer.path, shape, "one per token and one for the end" if steps else rate))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{path:<{widths[0]}}  {shape:<{widths[1]}}  {text}" for path, shape, text in rows]
    hidden, others = len(layers) - len(shown), len(names) - len(layers)
    if hidden:
        lines.append(f"{hidden} more below them: --depth {depth + 1}")
    lines.append(
        f"{others} modules cannot be tapped: they do not run exactly once, or give no (batch, frames or "
        "steps, features) tensor"
    )
    return "\n".join(lines)


def tappable_layers(model: nn.Module, names: list[str], hertz: int) -> list[Layer]:
    """Return those of the named submodules that give frames or steps, for a model in eval mode."""
    taps, speech = Taps(model, names), noise(model, SECONDS[0], hertz)
    lengths = torch.tensor([TEXT.shape[1]])
    with torch.no_grad():
        record_taps(model, taps, speech, torch.tensor([speech.shape[1]]), TEXT, lengths)
    found = []
    for name in names:
        try:
            values = taps.get(name, lengths).tensor
        except UserError:
            continue
        found.append(Layer(name, values.shape[1], values.shape[2]))
    taps.release()
    return found


def frame_rate(model: nn.Module, hertz: int) -> float:
    """Return the encoder's frame rate in hertz."""
    frames = []
    for seconds in SECONDS:
        speech = noise(model, seconds, hertz)
        with torch.no_grad():
            frames.append(int(encode(model, speech, torch.tensor([speech.shape[1]]))[1]))
    return (frames[1] - frames[0]) / (SECONDS[1] - SECONDS[0])


def noise(model: nn.Module, seconds: int, hertz: int) -> torch.Tensor:
    """Return noise, (1, samples), the same in every call.

    Raises:
        UserError: the model takes features, not waveforms.
    """
    if model.frontend is None:
        raise UserError("the model takes features instead of waveforms: its layers cannot be listed")
    return torch.randn(1, seconds * hertz, generator=torch.Generator().manual_seed(0))


MOST_TOKENS = 10_000_000  # far more than any model has; their names are held in memory
PARTS = ("encoder", "decoder", "joint_network", "ctc")


def main_sizes(argv: list[str] | None = None) -> None:
    """Run ``sizes CONFIG.yaml... [--tokens N]``: print a table of millions of parameters."""
    parser = command_parser("sizes")
    parser.add_argument("configs", nargs="+", type=Path, help="configurations of teachers or students")
    parser.add_argument("--tokens", type=int, default=5000, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if not 4 <= args.tokens <= MOST_TOKENS:  # three are special ones
        raise UserError(f"--tokens {args.tokens}: give a number from 4 to {MOST_TOKENS}")
    tokens = ["<blank>", "<unk>", *(f"t{i}" for i in range(args.tokens - 3)), "<sos/eos>"]
    rows = [
        [path.stem + name, *_millions(model)]
        for path in args.configs
        for name, model in build_all(path, tokens).items()
    ]
    print(table(["configuration", *PARTS, f"all, with {args.tokens} tokens"], rows))


def build(config: Path, tokens: Sequence[str]) -> nn.Module:
    """Return the model that a configuration trains, peer 1 of several; its tensors are on the meta device."""
    return next(iter(build_all(config, tokens).values()))


def build_all(config: Path, tokens: Sequence[str]) -> dict[str, nn.Module]:
    """Return the models that a configuration trains, by "" or ", peer 1" and so on.

    The tensors are on the meta device. A teacher is not read: it can be missing.
    """
    is_transducer = task_of(read_config(config)) == "asr_transducer"
    task = TransducerDistillationTask if is_transducer else ASRDistillationTask
    words = ["--config", str(config), "--token_type", "word", "--output_dir", "unused"]
    options = vars(task.get_parser().parse_args(words)) | {"token_list": list(tokens)}
    configs = {f", {name}": one for method in active(options) for name, one in method.models(options).items()}
    with torch.device("meta"):
        return {
            name: task.build_stock(argparse.Namespace(**one))
            for name, one in (configs or {"": options}).items()
        }


def _millions(model: nn.Module) -> list[str]:
    def count(part: nn.Module | None) -> str:
        return "" if part is None else f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M"

    return [*(count(getattr(model, part, None)) for part in PARTS), count(model)]
