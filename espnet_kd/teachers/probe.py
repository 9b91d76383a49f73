"""A batch that shows what shapes a model gives at its taps."""

import torch
from torch import Tensor, nn

SECONDS = 2
DEFAULT_RATE = 16000  # of ESPnet's front end


def sampling_rate(model: nn.Module) -> int:
    """Hz that a model expects."""
    return int(getattr(model.frontend, "fs", None) or DEFAULT_RATE)


def probe(rate: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One utterance of noise and two tokens, always the same: speech, its length, text, its length."""
    speech = torch.randn(1, SECONDS * rate, generator=torch.Generator().manual_seed(0))
    return speech, torch.tensor([speech.shape[1]]), torch.tensor([[2, 3]]), torch.tensor([2])
