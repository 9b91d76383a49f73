"""The beam search of exported transducers against ESPnet's, token by token."""

from typing import Any

import numpy as np
import pytest
import torch

from espnet_kd.export.search import Settings, TransducerBeam

pytestmark = pytest.mark.slow(seconds=3)

FRAMES, TOKENS, LABELS = 24, 7, 40


class Prediction:
    """A prediction network of ESPnet that counts labels."""

    vocab_size = TOKENS

    def score(self, labels: list[int], states: Any) -> tuple[torch.Tensor, Any]:
        return torch.tensor([[len(labels) - 1.0]]), None

    def set_device(self, device: Any) -> None:
        """It has none."""

    def init_state(self, batch: int) -> None:
        """It has none."""


@pytest.mark.parametrize("beam", [2, 5])
def test_a_beam_in_chunks_has_the_tokens_of_espnets(beam: int) -> None:
    from espnet2.asr_transducer.beam_search_transducer import BeamSearchTransducer

    table = torch.randn(FRAMES, LABELS, TOKENS, generator=torch.Generator().manual_seed(beam))
    frames, labels = torch.arange(FRAMES)[:, None], torch.arange(LABELS)
    table[..., 0] += torch.where(labels > frames / 2, 4.0, 0.0)  # a token in every second frame

    def joint(frame: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        return table[int(frame[0, 0]), int(predicted[0, 0])][None]

    def predictor(token: np.ndarray, count: np.ndarray) -> list[np.ndarray]:
        return [count, count + 1]

    def joiner(frame: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
        return [joint(torch.tensor(frame), torch.tensor(predicted)).log_softmax(-1).numpy()]

    stock = BeamSearchTransducer(Prediction(), joint, beam)  # type: ignore[arg-type]
    ours = TransducerBeam(predictor, joiner, Settings("transducer", states=[[1, 1]], beam_size=beam))
    for chunk in torch.arange(FRAMES).split(7):
        encoded = chunk[:, None].float()
        best = stock.sort_nbest(list(stock(encoded, is_final=False)))[0]
        ours.accept([encoded[None].numpy()])
        assert ours.tokens == best.yseq[1:]
        assert len(ours._known) <= beam, "nothing of dropped hypotheses is kept"
    assert len(ours.tokens) > 5
