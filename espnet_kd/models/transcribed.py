"""Losses of ESPnet's transducer over those utterances of a batch whose text is a transcript."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from espnet_kd.criteria import Transcript
from espnet_kd.models.hypotheses import are_hypotheses
from espnet_kd.rnnt import Joint


class OfTranscribed:
    """Mixed in before a transducer: ``_set_transcribed`` limits its auxiliary losses to some utterances.

    They stay what they are otherwise, sums over utterances divided by the number of them in the batch.
    """

    kd_transcribed: Tensor | None = None  # (n,) places in the batch; None stands for all

    def _set_transcribed(self, utt_ids: Sequence[str]) -> None:
        hypotheses = are_hypotheses(utt_ids)
        chosen = [place for place, hypothesis in enumerate(hypotheses) if not hypothesis]
        self.kd_transcribed = torch.tensor(chosen, dtype=torch.long) if any(hypotheses) else None

    def _calc_ctc_loss(self, encoder_out: Tensor, target: Tensor, t_len: Tensor, u_len: Tensor) -> Tensor:
        return self._of_transcribed(super()._calc_ctc_loss, encoder_out, target, t_len, u_len)

    def _calc_lm_loss(self, decoder_out: Tensor, target: Tensor) -> Tensor:
        return self._of_transcribed(super()._calc_lm_loss, decoder_out, target)

    def _of_transcribed(self, loss: Callable[..., Tensor], values: Tensor, *rest: Tensor) -> Tensor:
        if self.kd_transcribed is None:
            return loss(values, *rest)
        rows, batch = self.kd_transcribed, len(values)
        if not len(rows):  # all parameters keep a gradient, which DDP needs
            return 0.0 * loss(values[:1], *(x[:1] for x in rest))
        return loss(*(x[rows.to(x.device)] for x in (values, *rest))) * (len(rows) / batch)


def select(joint: Joint, transcript: Transcript, rows: Tensor) -> tuple[Joint, Transcript]:
    """Some utterances of a batch; rows are places in it."""
    rows = rows.to(joint.enc.device)
    part = joint.with_tensors(joint.enc[rows], joint.dec[rows], joint.weight, joint.bias)
    return part, Transcript(*(x[rows.to(x.device)] for x in transcript))
