"""Multiply-adds, on sums that can be done on paper."""

import torch
from torch import nn

from espnet_kd.measure.operations import count


def test_products_of_matrices_are_counted() -> None:
    encoder, rest = nn.Linear(3, 5), nn.Linear(5, 2)
    found = count(lambda: rest(encoder(torch.zeros(7, 3))), encoder)
    assert found.encoder == 7 * 3 * 5 and found.total == 7 * 3 * 5 + 7 * 5 * 2


def test_the_encoder_may_run_several_times() -> None:
    encoder = nn.Conv1d(2, 4, 3)  # 8 frames of 10
    found = count(lambda: [encoder(torch.zeros(1, 2, 10)) for _ in range(2)], encoder)
    assert found.encoder == found.total == 2 * 8 * 4 * 2 * 3


def test_recurrent_layers_are_counted() -> None:
    layer = nn.LSTM(3, 4, batch_first=True)
    with torch.no_grad():  # where oneDNN would take the layer as a whole
        found = count(lambda: layer(torch.zeros(1, 6, 3)), nn.Identity())
    assert found.total == 6 * 4 * 4 * (3 + 4)  # 6 steps, 4 gates of 4, of the input and of the state
    assert found.encoder is None, "it did not run by forward"
