"""Deep Speech 2: padding, sizes, options."""

import pytest
import torch
from padding import FEATURES, check_eval, check_train
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from espnet_kd.encoders.deepspeech2 import DeepSpeech2, Lookahead
from espnet_kd.encoders.masked import MaskedBatchNorm, real_frames

SMALL = {
    "convolutions": [
        {"channels": 3, "kernel": [5, 7], "stride": [2, 2]},
        {"channels": 2, "kernel": [3, 5], "stride": [1, 2]},
    ],
    "layers": 2,
    "hidden": 6,
}
KINDS = [
    {},
    {"cell": "lstm", "directions": "concat", "projection": 5},
    {"directions": "forward", "lookahead": 2},
    {"batch_norm": False},
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "published")


def small(**options: object) -> DeepSpeech2:
    torch.manual_seed(0)
    return DeepSpeech2(FEATURES, **{**SMALL, **options})


@kinds
def test_output_does_not_depend_on_padding_in_evaluation(kind: dict) -> None:
    check_eval(small(**kind))


@kinds
def test_output_does_not_depend_on_padding_in_training(kind: dict) -> None:
    check_train(small(**kind))


def test_every_norm_ignores_padding_and_every_parameter_is_used() -> None:
    encoder = small()
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    assert len(norms) == 3 and all(isinstance(m, MaskedBatchNorm) for m in norms)
    ys, lengths, _ = encoder(torch.randn(2, 9, FEATURES), torch.tensor([9, 4]))
    ys.sum().backward()
    assert lengths.tolist() == [5, 2]
    assert all(p.grad is not None for p in encoder.parameters())  # DDP does not look for unused ones


def test_size_is_that_of_the_paper() -> None:
    with torch.device("meta"):
        encoder = DeepSpeech2(160)
    first, second = (c.convolution.weight.numel() for c in encoder.convolutions)
    assert (first, second) == (11 * 41 * 32, 11 * 21 * 32 * 32)
    gates = 2 * 3 * 800  # two directions, three gates
    inputs = [32 * 40] + [800] * 4  # 160 bins halved twice
    assert [sum(p.numel() for p in layer.rnns.parameters()) for layer in encoder.layers] == [
        gates * (size + 800 + 2) for size in inputs
    ]
    assert encoder.output_size() == 800


def test_lookahead_uses_the_next_frames() -> None:
    lookahead = Lookahead(1, 2)
    nn.init.ones_(lookahead.convolution.weight)
    y = lookahead(torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]]))
    assert y.flatten().tolist() == [111, 1110, 1100, 1000]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_both_directions_equal_torch_on_packed_sequences(cell: str) -> None:
    layer = small(cell=cell, directions="concat", batch_norm=False).layers[1].eval()
    x, lengths = torch.randn(3, 7, 12), torch.tensor([4, 7, 1])
    packed = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](12, 6, batch_first=True, bidirectional=True)
    forward, backward = (rnn.state_dict() for rnn in layer.rnns)
    packed.load_state_dict({**forward, **{f"{name}_reverse": value for name, value in backward.items()}})
    expected, _ = pad_packed_sequence(
        packed(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[0], batch_first=True
    )
    torch.testing.assert_close(layer(x, lengths, real_frames(lengths, 7)), expected)


def test_one_direction_without_lookahead_is_causal_after_the_convolutions() -> None:
    layer = small(directions="forward").layers[1].eval()
    x, real = torch.randn(1, 5, 6), torch.arange(5)
    lengths = torch.tensor([5])
    y = layer(x, lengths, real)
    x[:, 3] += 1
    moved = (layer(x, lengths, real) - y).abs().amax((0, 2)).nonzero().flatten()
    assert moved.tolist() == [3, 4]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_each_direction_keeps_the_order_of_frames(cell: str) -> None:
    """The layer's output is the sum of the outputs of its two modules, so that criteria can use either."""
    layer = small(cell=cell).eval().layers[0]
    seen = []
    for rnn in layer.rnns:
        rnn.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    lengths = torch.tensor([9, 4])
    x = torch.randn(2, 9, layer.rnns[0].input_size)
    y = layer(x, lengths, torch.tensor([*range(9), *range(9, 13)]))
    for of_one, forward, backward, frames in zip(y, *seen, lengths, strict=True):
        torch.testing.assert_close(of_one[:frames], (forward + backward)[:frames])


@kinds
def test_autocast(kind: dict) -> None:
    encoder = small(**kind)
    xs, lengths = torch.randn(2, 9, FEATURES), torch.tensor([9, 4])
    expected, _, _ = encoder(xs, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        found, _, _ = encoder(xs, lengths)
    found.float().sum().backward()
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "rnn"}, "cell is 'rnn'; known: gru, lstm"),
        ({"directions": "both"}, "directions is 'both'; known: sum, concat, forward"),
        ({"layers": 0}, "layers is 0, hidden 6, lookahead 0: give at least one"),
        ({"convolutions": [{"channels": 3, "kernel": 5}]}, r"convolutions\[0\] is .*: write {channels: 32"),
        ({"convolutions": [{"channels": 3, "kernel": 5, "stride": 2}]}, "write {channels: 32, kernel: "),
        ({"convolutions": [{"channels": 3, "kernel": [5, 5], "stride": [0, 1]}]}, "write {channels: 32"),
        ({"convolutions": [3]}, r"convolutions\[0\] is 3: write"),
        ({"convolutions": [{"channels": 3, "kernel": [4, 5], "stride": [1, 1]}]}, "has a kernel of 4"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
