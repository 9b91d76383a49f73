"""Exchange small tensors between the host and a GPU so that neither waits for the other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor on the host, made while the host goes on.

    ``read`` waits only if the GPU has not yet come to the copy: make it early, and read it late.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)  # to pinned memory
        self._copied = None
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> Tensor:
        """Return the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values


def to_device(values: Tensor | Sequence[Any], device: torch.device) -> Tensor:
    """Copy a tensor or (lists of) numbers to a device, without waiting for what the device has to do."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(values)
    if device.type == "cuda" and not tensor.is_cuda:
        # torch pins with the same strides, and does not write to elements that share memory, as of `expand`.
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast off for the block; where it was on, a GPU may multiply matrices of float32 in TF32.

    TF32 rounds the factors to 10 bits after the point, bfloat16 to 7; sums are in float32.
    """
    lower = device.type == "cuda" and torch.is_autocast_enabled("cuda")
    before = torch.get_float32_matmul_precision()
    with torch.autocast(device.type, enabled=False):
        if not lower:
            yield
            return
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
