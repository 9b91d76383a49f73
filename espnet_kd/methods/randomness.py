"""States of random number generators, saved, restored and seeded within a block."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from espnet_kd.teachers.short import rank

State = tuple[Tensor, ...]
# Between the seeds of two processes; odd in its lower 32 bits, of which alone torch makes numbers on the CPU.
APART, BITS = 0x9E3779B97F4A7C15, 64


def state(device: torch.device) -> State:
    """Return the state of the random generators that a model on this device uses."""
    cpu = torch.get_rng_state()
    return (cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (cpu,)


def restore(saved: State, device: torch.device) -> None:
    """Set the random generators of a device to a state that ``state`` returned."""
    torch.set_rng_state(saved[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved[1], device)


@contextmanager
def stream(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of a device for the block, and restore their state after it.

    Args:
        seed: of this block; each process of a distributed training derives another from it.
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


@contextmanager
def same_randomness() -> Iterator[None]:
    """Restore Python's, numpy's and torch's random state after the block."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):  # models are built on the CPU
        yield
    random.setstate(python)
    np.random.set_state(numpy)
