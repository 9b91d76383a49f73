"""Multiply-adds, on sums that can be done on paper."""

from functools import partial

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


def test_attention_is_counted_where_torch_has_one_operator_for_it() -> None:
    values, mask = torch.zeros(1, 2, 6, 4), torch.ones(1, 1, 6, 6, dtype=torch.bool)
    with torch.no_grad():
        for options in ({}, {"attn_mask": mask}, {"is_causal": True}):
            attend = partial(nn.functional.scaled_dot_product_attention, values, values, values, **options)
            found = count(attend, nn.Identity())
            assert found.total == 2 * (2 * 6 * 6 * 4), "2 heads: queries by keys, weights by values"
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
        found = count(lambda: layer(torch.zeros(1, 6, 4)), layer)
    # queries, keys, values and output of 4, as sums of 4; both products of 6 x 6; 8 channels in and out
    assert found.encoder == found.total == 6 * 4 * 4 * 4 + 2 * 6 * 6 * 4 + 2 * 6 * 4 * 8
    assert torch.backends.mha.get_fastpath_enabled()
