"""A replacement for warprnnt_pytorch, which ESPnet's ASR task imports and PyPI does not have.

For teachers and students with ``decoder: transducer``: ``export PYTHONPATH=<checkout>/tools/standins``.
For students, ``--task asr_transducer`` is better: it does not need this package and holds no lattice in
memory.
"""

import torch
import torchaudio
from torch import Tensor


class RNNTLoss(torch.nn.Module):
    """RNN-T loss, mean over the batch, by torchaudio.

    Args:
        blank: index of the blank.
        reduction: mean, sum or none.
        fastemit_lambda: 0 only.

    Raises:
        ValueError: ``fastemit_lambda`` is not 0, which torchaudio does not support.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", fastemit_lambda: float = 0.0) -> None:
        super().__init__()
        if fastemit_lambda:
            raise ValueError(
                f"fastemit_lambda is {fastemit_lambda}: this stand-in for warprnnt_pytorch has none"
            )
        self.blank, self.reduction = blank, reduction

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """(B, T, U, V) logits, (B, L) labels, (B,) frames and (B,) labels -> the loss."""
        targets, frames, lengths = (x.int().to(acts.device) for x in (labels, act_lens, label_lens))
        return torchaudio.functional.rnnt_loss(
            acts.float(), targets, frames, lengths, blank=self.blank, reduction=self.reduction
        )
