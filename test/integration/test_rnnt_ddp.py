"""Two gloo processes, each with half of the batch, form the gradients of one in lattice distillation."""

import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from espnet_kd.rnnt import Joint, rnnt_distillation

pytestmark = pytest.mark.slow(seconds=5)


class Student(nn.Module):
    """Linear layers around rnnt_distillation, and a random teacher."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin_enc, self.lin_dec, self.lin_out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 6)
        self.register_buffer("teacher_weight", torch.randn(6, 4))
        self.double()

    def forward(self, enc, dec, labels, enc_lens, label_lens) -> torch.Tensor:
        """Add up the losses of two kinds."""
        student = Joint(self.lin_enc(enc), self.lin_dec(dec), self.lin_out.weight, self.lin_out.bias)
        teacher = Joint(enc, dec, self.teacher_weight, torch.zeros_like(self.lin_out.bias))
        given = student, teacher, labels, enc_lens, label_lens
        options = {"rnnt_weight": 0.7, "kd_weight": 1.3}
        return sum(rnnt_distillation(*given, kind=kind, **options).loss for kind in ("full", "sequence"))


def batch() -> list[torch.Tensor]:
    """Four utterances; every other one is the share of one process."""
    random = torch.Generator().manual_seed(1)
    enc, dec = (torch.randn(4, n, 4, generator=random).double() for n in (5, 4))
    labels = torch.tensor([[1, 2, 1], [3, 5, 4], [2, 2, 0], [0, 0, 0]])
    return [enc, dec, labels, torch.tensor([5, 3, 4, 2]), torch.tensor([2, 3, 1, 0])]


def gradients(rank: int, port: int) -> list[torch.Tensor]:
    """What one of two processes holds after the backward pass."""
    torch.set_num_threads(1)
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", where, world_size=2, rank=rank, timeout=timedelta(minutes=2))
    network = nn.parallel.DistributedDataParallel(Student())
    network(*(x[rank::2] for x in batch())).backward()
    dist.destroy_process_group()
    return [x.grad for x in network.parameters()]


def worker(_: int, port: int, path: Path) -> None:
    torch.save(gradients(1, port), path)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "gradients.pt"
    other = mp.spawn(worker, (port, path), nprocs=1, join=False)
    both = [gradients(0, port)]
    while not other.join():
        pass
    both.append(torch.load(path, weights_only=True))

    network = Student()
    network(*batch()).backward()
    for found in both:
        for one, parameter in zip(found, network.parameters(), strict=True):
            torch.testing.assert_close(one, parameter.grad)
            assert one.abs().max() > 1e-3
