"""Two gloo processes train as one with the same global batch: batch norm, projection and peers included."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from recipe import KL, Recipe, model
from test_encoders import CTC, DEEPSPEECH2, JASPER
from torch import Tensor, nn

from espnet_kd.schedule import Schedule

pytestmark = pytest.mark.slow(seconds=15)

STEPS = 3
HIDDEN = {"type": "hidden", "weight": 0.5, "tap": "encoder"}
CRITERIA = {
    "ctc": KL,
    "att": {**KL, "tap": "decoder"},
    "hid": HIDDEN,
    "labels": {"type": "sequence", "tap": "ctc.ctc_lo"},
    "skew": {"type": "skew_kl", "tap": "ctc.ctc_lo"},
    "jsd": {"type": "jsd", "tap": "decoder"},
    "akl": {"type": "akl", "tap": "decoder", "label_smoothing": 0.1},
    "decoupled": {"type": "decoupled_kl", "tap": "ctc.ctc_lo"},
}
# Our encoders have batch norm, the transformer none.
STUDENTS: dict[str, dict[str, Any]] = {
    "transformer": {
        "criteria": CRITERIA, "nbest": {"records": "-", "hypotheses": 2}, "prefix": {"student": 1.0},
    },
    "jasper": {
        **CTC, "encoder": "jasper",
        "encoder_conf": {**JASPER, "prologue": {**JASPER["prologue"], "dropout": 0.0}},
        "criteria": {"ctc": KL, "hid": {**HIDDEN, "frame_weights": "nonblank"}},
    },
    "deepspeech2": {
        **CTC, "encoder": "deepspeech2", "encoder_conf": DEEPSPEECH2, "criteria": {"hid": HIDDEN},
        "best_model_criterion": [["valid", "loss", "min"]],
        "task_weight": 0.0,  # the CTC layer is frozen: DDP must not wait for its gradient
    },
    "whisper": {
        "criteria": {"hid": {**HIDDEN, "teacher_tap": "model.encoder.layers.1", "frame_rate": "resample"}},
    },
    "mutual": {
        "mutual": {"criteria": {"ctc": KL, "att": {**KL, "tap": "decoder"}}},
        "scheduled_sampling": {"probability": 1.0},  # at random, processes would choose other tokens
    },
    "smaller": {
        "criteria": {"ctc": KL, "hid": HIDDEN}, "quantise": {"weights": "int8"},
        "prune": {"target": 0.5, "end": 2},
    },
    "labels": {},  # a transducer that writes labels of its own, see `transducer`
    "views": {},  # a transducer whose views are compared on their lattices
    "consistency": {
        "specaug": "specaug", "criteria": {"ctc": KL, "hid": HIDDEN},
        "consistency": {
            "criteria": {"ctc": KL, "att": {**KL, "tap": "decoder"}}, "time_mask_factor": 1,
        },
    },
}  # fmt: skip
ESPNET = {"exp": "exp/teacher"}
TEACHERS = {"whisper": {"hf": "exp/whisper"}}
TRANSDUCERS = ("labels", "views")
TRANSFORMERS = ("transformer", "whisper", "mutual", "smaller", "consistency")


class MaskedSecondView(nn.Module):
    """In place of SpecAugment, whose masks would be others in each process: frames of the second view."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        masked = features.clone()
        masked[1::2, 10:30] = 0.0
        return masked, lengths


def transducer(name: str) -> nn.Module:
    """A transducer without dropout; one with labels of its own writes no blanks, thus as many as it may."""
    from bench.consistency import LATTICE, consistent
    from bench.device_step import SIZE, TOKENS, labels_of_its_own
    from bench.transducer import build

    torch.manual_seed(0)
    if name == "views":
        lattice = {"lattice": {**LATTICE["lattice"], "weight": 100.0}}
        built = consistent(build(SIZE, len(TOKENS)), lattice)
    else:
        built = labels_of_its_own(None)
    built.specaug = MaskedSecondView() if name == "views" else None
    for module in built.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if name == "views":
        return built
    with torch.no_grad():
        built.joint_network.lin_out.bias[0] = -10.0
    (term,) = built.kd_objective.terms
    heavy = replace(term, weight=Schedule(100.0, 100.0))
    built.kd_objective = replace(built.kd_objective, terms=(heavy,))
    return built


def student(root: Path, name: str) -> nn.Module:
    """A distilled student without dropout, as the task builds it."""
    import contextlib

    from espnet_kd.tasks.asr import ASRDistillationTask as Task

    if name in TRANSDUCERS:
        return transducer(name)
    quiet = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    with contextlib.chdir(root):
        recipe = Recipe(root)
        # Each process writes a configuration of its own.
        options = recipe.training(
            "exp/ddp", f"ddp-{os.getpid()}",
            **{**model(16, 1, "transformer"), "specaug": None, **STUDENTS[name]},
            **({"teacher": TEACHERS.get(name, ESPNET)} if "criteria" in STUDENTS[name] else {}),
        )  # fmt: skip
        args = Task.get_parser().parse_args(options)
        if name in TRANSFORMERS:
            args.encoder_conf |= {**quiet, "attention_dropout_rate": 0.0}
            args.decoder_conf |= quiet | dict.fromkeys(
                ("self_attention_dropout_rate", "src_attention_dropout_rate"), 0.0
            )
        torch.manual_seed(0)
        built = Task.build_model(args).train()
        if name == "consistency":
            built.specaug = MaskedSecondView()
        return built


def batch(name: str) -> dict[str, Tensor]:
    """Four utterances; every other one is the share of one process.

    Batch norm sees the share of its process: for its sake both processes have the same, each utterance twice
    in the batch.
    """
    generator = torch.Generator().manual_seed(1)
    utterances = {
        "speech": torch.randn(4, 16000, generator=generator),
        "speech_lengths": torch.tensor([16000, 16000, 12000, 14000]),
        "text": torch.tensor([[3, 4, 5], [4, 4, 3], [5, 3, -1], [3, 5, 4]]),
        "text_lengths": torch.tensor([3, 3, 2, 3]),
    }
    if name == "transformer":  # lists of two hypotheses
        utterances["nbest_tokens"] = torch.tensor([[[3, 5]], [[4, 3]], [[5, 4]], [[3, -1]]])
        utterances["nbest_counts"] = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0]])
        utterances["nbest_scores"] = -torch.arange(1.0, 9.0).view(4, 2)
    chosen = [0, 1, 2, 3] if name in TRANSFORMERS else [0, 0, 2, 2]
    return {key: value[chosen] for key, value in utterances.items()}


def train(network: nn.Module, batch: dict[str, Tensor], world: int = 1) -> None:
    """What ESPnet's trainer does in a step."""
    optimizer = torch.optim.SGD(network.parameters(), 0.001)
    for _ in range(STEPS):
        loss, _, weight = network(**{k: v.clone() for k, v in batch.items()})
        loss = (loss * weight).sum()
        total = weight.clone()
        if world > 1:
            dist.all_reduce(total)
        (loss / total * world).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def everything(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of the model and what is under kd_."""
    from espnet_kd.methods.own import own_tensors

    return {**model.state_dict(), **own_tensors(model)}


def worker(rank: int, root: Path, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    for name in STUDENTS:
        model = nn.parallel.DistributedDataParallel(student(root, name))  # find_unused_parameters is False
        train(model, {k: v[rank::2] for k, v in batch(name).items()}, world=2)
        torch.save(everything(model.module), root / f"ddp-{name}-{rank}.pth")
    dist.destroy_process_group()


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def root(recipe: Recipe) -> Path:
    """Where two processes have trained each student."""
    tiny_models.save("whisper", recipe.root / "exp/whisper")
    mp.spawn(worker, (recipe.root, free_port()), nprocs=2)
    return recipe.root


@pytest.mark.parametrize("name", STUDENTS)
def test_two_processes_equal_one(root: Path, name: str) -> None:
    one = student(root, name)
    start = copy.deepcopy(everything(one))
    train(one, batch(name))

    two, other = (torch.load(root / f"ddp-{name}-{rank}.pth", weights_only=True) for rank in (0, 1))
    for key, expected in everything(one).items():
        # Half as many frames: n / (n - 1) of the running variance is another.
        rtol = 0.05 if "running_var" in key else 1e-4
        for found in (two[key], other[key]):
            torch.testing.assert_close(
                found, expected, atol=1e-4, rtol=rtol, msg=lambda m, key=key: f"{key}: {m}"
            )
    compared = ("joint_network.lin_", "ctc_lin") if name in TRANSDUCERS else ("projection", "ctc_lo")
    moved = {n: (two[n] - start[n]).abs().max().item() for n in start if any(part in n for part in compared)}
    assert len(moved) == (8 if name in TRANSDUCERS else 4)
    for n, far in moved.items():
        frozen = name == "deepspeech2" and "ctc_lo" in n
        assert far == 0 if frozen else far > 1e-4, f"{n}: training must have changed what is compared"
    means = [two[n].abs().max().item() for n in start if "running_mean" in n]
    assert (name in TRANSFORMERS) == (not means) and all(mean > 1e-3 for mean in means)
    assert two["kd_step"] == STEPS
