"""Two gloo processes train as one process with the same global batch: a taught student, and two peers."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from recipe import KL, Recipe, model
from torch import Tensor, nn

STEPS = 3
CRITERIA = {
    "ctc": KL,
    "att": {**KL, "tap": "decoder"},
    "hid": {"type": "hidden", "weight": 0.5, "tap": "encoder", "reduction": "utterance"},
}


KINDS = {
    "taught": {"teacher": {"exp": "exp/teacher"}, "criteria": CRITERIA},
    "mutual": {
        "mutual": {"criteria": {"ctc": KL, "att": {**KL, "tap": "decoder"}}},
        "scheduled_sampling": {"probability": 1.0},  # at random, processes would choose other tokens
    },
}
MOVED = {"taught": ("ctc.ctc_lo", "projection"), "mutual": ("ctc.ctc_lo", "kd_peers.2.ctc.ctc_lo")}


def student(root: Path, kind: str) -> nn.Module:
    """A student without dropout, as the task builds it."""
    import contextlib

    from espnet_kd.tasks.asr import ASRDistillationTask as Task

    # Batch norm sees the share of its process, so it equals one process for no model, stock or distilled.
    quiet = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    with contextlib.chdir(root):
        recipe = Recipe(root)
        options = recipe.training(
            "exp/ddp", "ddp", **{**model(16, 1, "transformer"), "specaug": None}, **KINDS[kind]
        )  # fmt: skip
        args = Task.get_parser().parse_args(options)
        args.encoder_conf |= {**quiet, "attention_dropout_rate": 0.0}
        args.decoder_conf |= {**quiet, "self_attention_dropout_rate": 0.0, "src_attention_dropout_rate": 0.0}
        torch.manual_seed(0)
        return Task.build_model(args).train()


def batch() -> dict[str, Tensor]:
    """Four utterances; every other one is the share of one process."""
    generator = torch.Generator().manual_seed(1)
    return {
        "speech": torch.randn(4, 16000, generator=generator),
        "speech_lengths": torch.tensor([16000, 16000, 12000, 14000]),
        "text": torch.tensor([[3, 4, 5], [4, 4, 3], [5, 3, -1], [3, 5, 4]]),
        "text_lengths": torch.tensor([3, 3, 2, 3]),
    }


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


def worker(rank: int, root: Path, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    for kind in KINDS:
        model = nn.parallel.DistributedDataParallel(student(root, kind))  # find_unused_parameters is False
        train(model, {k: v[rank::2] for k, v in batch().items()}, world=2)
        if rank == 0:
            torch.save(model.module.state_dict(), root / f"ddp-{kind}.pth")
    dist.destroy_process_group()


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def trained(recipe: Recipe) -> Path:
    mp.spawn(worker, (recipe.root, free_port()), nprocs=2)
    return recipe.root


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(trained: Path, kind: str) -> None:
    one = student(trained, kind)
    start = copy.deepcopy(one.state_dict())
    train(one, batch())

    two = torch.load(trained / f"ddp-{kind}.pth", weights_only=True)
    for name, expected in one.state_dict().items():
        torch.testing.assert_close(
            two[name], expected, atol=1e-4, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )
    for part in MOVED[kind]:
        moved = [(two[n] - start[n]).abs().max().item() for n in start if part in n]
        assert len(moved) >= 2 and min(moved) > 1e-4, "training must have changed what is compared"
    assert two["kd_step"] == STEPS
