"""A batch that shows what shapes a model gives at its taps."""

import torch
from torch import Tensor

SECONDS = 2


def probe(rate: int, seconds: int = SECONDS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One utterance of noise and two tokens, always the same: speech, its length, text, its length."""
    speech = torch.randn(1, seconds * rate, generator=torch.Generator().manual_seed(0))
    return speech, torch.tensor([speech.shape[1]]), torch.tensor([[2, 3]]), torch.tensor([2])
