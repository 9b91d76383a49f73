"""Count the multiply-adds of a decoding by ``torch.utils.flop_counter``."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_kd.measure.recogniser import Operations


def count(work: Callable[[], Any], encoder: nn.Module) -> Operations:
    """Count the multiply-adds of a function that runs a model.

    Products of matrices and convolutions are counted, recurrent layers as the products that they consist of;
    Fourier transforms, norms, activations and the search itself are not.

    Args:
        work: the function.
        encoder: its share is counted by itself, unless it runs in another way than by ``forward``, as those
            of streaming transducers do.
    """
    counter = FlopCounterMode(display=False)
    inside, total = [0], [0]

    def before(*_: Any) -> None:
        total[0] = counter.get_total_flops()

    def after(*_: Any) -> None:
        inside[0] += counter.get_total_flops() - total[0]

    handles = [encoder.register_forward_pre_hook(before), encoder.register_forward_hook(after)]
    try:
        with _as_products(), counter:
            work()
    finally:
        for handle in handles:
            handle.remove()
    # An operation is a product or a sum.
    return Operations(counter.get_total_flops() // 2, inside[0] // 2 or None)


@contextmanager
def _as_products() -> Iterator[None]:
    """Let torch compute by products what it has one operator for on a CPU, which the counter does not know.

    These are recurrent layers (of oneDNN), attention, and torch's own transformer layers.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TF32 acceleration")  # of switching oneDNN off; not used here
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
