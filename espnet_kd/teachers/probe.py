"""A batch that shows what shapes a model gives at its taps."""

import torch
from torch import Tensor

SECONDS = 2
FRAMES_PER_SECOND = 100  # of features, as usual


def probe(
    rate: int, features: int | None = None, seconds: int = SECONDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One utterance of noise and two tokens, always the same.

    Args:
        rate: Hz of a waveform.
        features: D of a model that takes features, ESPnet's ``input_size``; None: it takes waveforms.
        seconds: how long.

    Returns:
        (1, samples) or (1, frames, D) speech, (1,) its length, (1, 2) tokens, (1,) their number.
    """
    shape = (1, seconds * rate) if features is None else (1, seconds * FRAMES_PER_SECOND, features)
    speech = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return speech, torch.tensor([speech.shape[1]]), torch.tensor([[2, 3]]), torch.tensor([2])
