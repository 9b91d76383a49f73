"""Small tensors between host and device, and the precision of products under autocast."""

from collections.abc import Iterator

import pytest
import torch

from espnet_kd.rnnt.device import HostCopy, full_precision, to_device


def test_numbers_come_back_as_they_were():
    assert HostCopy(torch.tensor([3, 1])).read().tolist() == [3, 1]
    assert to_device([3, 1], torch.device("cpu")).tolist() == [3, 1]
    assert to_device(torch.tensor([True]), torch.device("cpu")).tolist() == [True]


def test_what_is_expanded_can_be_pinned(monkeypatch):
    def pin(tensor: torch.Tensor) -> torch.Tensor:  # as torch's: a copy of the same strides
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking: tensor)
    last = torch.tensor([[False, True]]).expand(3, 2)
    with pytest.raises(RuntimeError, match="refers to a single memory location"):
        pin(last)
    assert torch.equal(to_device(last, torch.device("cuda")), last)


@pytest.fixture(autouse=True)
def _without_autocast() -> Iterator[None]:
    """Switch autocast off, which the end of a block of autocast switches on where it finds it on before."""
    yield
    for kind in ("cpu", "cuda"):
        torch.set_autocast_enabled(kind, False)


def test_products_may_be_less_precise_only_under_autocast_on_a_gpu(monkeypatch):
    gpu, before = torch.device("cuda"), torch.get_float32_matmul_precision()

    def inside(device: torch.device) -> str:
        with full_precision(device):
            return torch.get_float32_matmul_precision()

    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    assert inside(gpu) == before == "highest"
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: True)
    assert inside(torch.device("cpu")) == "highest"
    assert inside(gpu) == "high"
    assert torch.get_float32_matmul_precision() == "highest", "as before the block"
    monkeypatch.undo()
