"""Streams of random numbers of one model among several that train together."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

State = tuple[Tensor, ...]
# Between the seeds of two processes; odd in its lower 32 bits, of which alone torch makes numbers on the CPU.
APART, BITS = 0x9E3779B97F4A7C15, 64


def rank() -> int:
    """Number of this process among those that train one model together, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def state(device: torch.device) -> State:
    """Where the streams are from which a model on this device draws."""
    cpu = torch.get_rng_state()
    return (cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (cpu,)


def restore(saved: State, device: torch.device) -> None:
    """Go back to there."""
    torch.set_rng_state(saved[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved[1], device)


@contextmanager
def stream(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block numbers come from a stream of their own; afterwards the common one goes on.

    Args:
        seed: of the stream; every process of a distributed training has another.
        device: of the model.
    """
    saved = state(device)
    seed = (seed + rank() * APART) % 2**BITS
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # of this device alone: torch.manual_seed would change those of all
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        restore(saved, device)
