"""``espnet-kd layers`` and ``espnet-kd sizes``: list layers of a model, and sizes of configurations."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from espnet_kd.command_line import command_parser
from espnet_kd.config import read_config
from espnet_kd.data.tokens import stand_in_tokens
from espnet_kd.errors import UserError
from espnet_kd.host.outputs import task_of
from espnet_kd.methods import active
from espnet_kd.report.tables import table
from espnet_kd.tasks.asr import ASRDistillationTask, TransducerDistillationTask
from espnet_kd.teachers.kinds import add_source, source_of
from espnet_kd.teachers.model import TeacherModel

SECONDS = (1, 5)  # the rate is (frames of 5 s - frames of 1 s) / 4 s, which leaves out the edges


def main_layers(argv: list[str] | None = None) -> None:
    """Run ``layers MODEL [--kind hf] [--model FILE] [--depth N]``: print a table."""
    parser = command_parser("layers")
    add_source(parser)
    parser.add_argument("--depth", type=int, default=3, help="parts of a path (default: %(default)s)")
    args = parser.parse_args(argv)
    teacher = source_of(args).load()
    millions = sum(p.numel() for p in teacher.model.parameters()) / 1e6
    print(f"{teacher.checkpoint}: {millions:.2f} M parameters")
    print(layer_table(teacher, args.depth))


def layer_table(teacher: TeacherModel, depth: int) -> str:
    """Return one line for each layer that can be tapped, then the number of those left out.

    Args:
        teacher: the model.
        depth: layers whose path has more parts are left out.
    """
    layers, longer = (teacher.layers(seconds) for seconds in SECONDS)
    shown = {path: size for path, size in layers.items() if path.count(".") < depth}
    rows = [("tap", "on a second of noise", "rate")]
    for path, (positions, size) in shown.items():
        rate = (longer[path][0] - positions) / (SECONDS[1] - SECONDS[0])
        unit, text = ("frames", f"{rate:g} per second")
        if path.split(".")[0] == "decoder":
            unit, text = "steps", "one per token and one for the end"
        rows.append((path, f"{positions} {unit} x {size}", text))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{path:<{widths[0]}}  {shape:<{widths[1]}}  {text}" for path, shape, text in rows]
    hidden = len(layers) - len(shown)
    others = sum(1 for name, _ in teacher.model.named_modules() if name) - len(layers)
    if hidden:
        lines.append(f"{hidden} more below them: --depth {depth + 1}")
    lines.append(
        f"{others} modules cannot be tapped: they do not run exactly once, or give no (batch, frames or "
        "steps, features) tensor"
    )
    return "\n".join(lines)


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
    for path in args.configs:
        if path.is_dir() or "required" in read_config(path):  # ESPnet writes it of every training
            exp = path if path.is_dir() else path.parent
            raise UserError(
                f"{path} is of a training: `espnet-kd layers {exp}` counts the parameters of its model"
            )
    tokens = stand_in_tokens(args.tokens)
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
