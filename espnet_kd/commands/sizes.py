"""``espnet-kd sizes``: how many parameters the models of configurations have; no tensor is filled."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_kd.config import read_config
from espnet_kd.methods.mutual_options import peer_changes, peer_config
from espnet_kd.report.tables import table
from espnet_kd.tasks.asr import ASRDistillationTask, TransducerDistillationTask
from espnet_kd.teachers.experiment import TRANSDUCER_KEY

# Options of a training that a model's size has nothing to do with.
UNTAUGHT: dict[str, Any] = {
    "teacher": {}, "criteria": {}, "init_from_teacher": {}, "mutual": {}, "scheduled_sampling": {},
    "targets": None, "task_weight": 1.0,
}  # fmt: skip
PARTS = ("encoder", "decoder", "joint_network", "ctc")


def main(argv: list[str] | None = None) -> None:
    """``sizes CONFIG.yaml... [--tokens N]``: print a table of millions."""
    parser = argparse.ArgumentParser(prog="espnet-kd sizes", description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path, help="configurations of teachers or students")
    parser.add_argument("--tokens", type=int, default=5000, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    tokens = ["<blank>", "<unk>", *(f"t{i}" for i in range(args.tokens - 3)), "<sos/eos>"]
    rows = [
        [path.stem + name, *_millions(model)]
        for path in args.configs
        for name, model in build_all(path, tokens).items()
    ]
    print(table(["configuration", *PARTS, f"all, with {args.tokens} tokens"], rows))


def build(config: Path, tokens: Sequence[str]) -> nn.Module:
    """The model that a configuration trains, of several peers the first; its tensors have shapes only."""
    return next(iter(build_all(config, tokens).values()))


def build_all(config: Path, tokens: Sequence[str]) -> dict[str, nn.Module]:
    """The models that a configuration trains, by "" or ", peer 1", ...; their tensors have shapes only.

    A teacher is not read: it can be missing.
    """
    is_transducer = TRANSDUCER_KEY in read_config(config)
    task = TransducerDistillationTask if is_transducer else ASRDistillationTask
    words = ["--config", str(config), "--token_type", "word", "--output_dir", "unused"]
    options = vars(task.get_parser().parse_args(words)) | {"token_list": list(tokens)}
    single = {"": options}
    if options["mutual"]:
        numbers = range(1, 2 + len(peer_changes(options["mutual"])))
        single = {f", peer {number}": peer_config(options, number) for number in numbers}
    with torch.device("meta"):
        return {
            name: task.build_model(argparse.Namespace(**{**one, **UNTAUGHT})) for name, one in single.items()
        }


def _millions(model: nn.Module) -> list[str]:
    def count(part: nn.Module | None) -> str:
        return "" if part is None else f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M"

    return [*(count(getattr(model, part, None)) for part in PARTS), count(model)]
