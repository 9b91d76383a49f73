"""``espnet-kd sizes``: how many parameters the models of configurations have; no tensor is filled."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from espnet_kd.recipe.merge import read_config
from espnet_kd.recipe.tables import table
from espnet_kd.tasks.asr import ASRDistillationTask
from espnet_kd.tasks.asr_transducer import TransducerDistillationTask
from espnet_kd.teachers.experiment import TRANSDUCER_KEY

PARTS = ("encoder", "decoder", "joint_network", "ctc")


def main(argv: list[str] | None = None) -> None:
    """``sizes CONFIG.yaml... [--tokens N]``: print a table of millions."""
    parser = argparse.ArgumentParser(prog="espnet-kd sizes", description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path, help="configurations of teachers or students")
    parser.add_argument("--tokens", type=int, default=5000, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    tokens = ["<blank>", "<unk>", *(f"t{i}" for i in range(args.tokens - 3)), "<sos/eos>"]
    rows = [[path.stem, *_millions(build(path, tokens))] for path in args.configs]
    print(table(["configuration", *PARTS, f"all, with {args.tokens} tokens"], rows))


def build(config: Path, tokens: Sequence[str]) -> nn.Module:
    """The model of a configuration; its tensors have shapes only."""
    is_transducer = TRANSDUCER_KEY in read_config(config)
    task = TransducerDistillationTask if is_transducer else ASRDistillationTask
    words = ["--config", str(config), "--token_type", "word", "--output_dir", "unused"]
    args = task.get_parser().parse_args(words)
    args.token_list = list(tokens)
    with torch.device("meta"):
        return task.build_model(args)


def _millions(model: nn.Module) -> list[str]:
    def count(part: nn.Module | None) -> str:
        return "" if part is None else f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M"

    return [*(count(getattr(model, part, None)) for part in PARTS), count(model)]
