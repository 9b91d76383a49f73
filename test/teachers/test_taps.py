"""Hooks on a stand-in for a stock model: encoder (B, T, D) with lengths, CTC layer, decoder."""

import pytest
import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.teachers.taps import Taps


class Layer(nn.Module):
    """Returns nested tuples as a Conformer layer does."""

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], None]:
        return (x + 1, torch.zeros(9)), None


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer()])
        self.unused = nn.Identity()
        self.early = nn.Identity()
        self.square = nn.Identity()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, None]:
        self.early(x.repeat(1, 2, 1))
        self.square(x[..., None])
        (x, _), _ = self.layers[0](x)
        return x, lengths, None


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.postencoder = None
        self.ctc = nn.Linear(2, 5)
        self.decoder = nn.Identity()

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x, _, _ = self.encoder(x, lengths)
        self.decoder(torch.zeros(2, 4, 5))
        first = self.ctc(x)
        self.ctc(x * 0)
        return first


X, LENGTHS, TEXT = torch.zeros(2, 3, 2), torch.tensor([3, 1]), torch.tensor([3, 2])


def run(*paths: str) -> tuple[Taps, Tensor]:
    model = Model()
    taps = Taps(model, paths, "the student")
    with taps.listening():
        output = model(X, LENGTHS)
    return taps, output


def test_first_call_is_kept_and_the_output_is_not_replaced() -> None:
    taps, output = run("ctc")
    assert torch.equal(taps.get("ctc", TEXT).values, output)
    assert taps.get("ctc", TEXT).lengths.tolist() == [3, 1]


def test_nested_tuples_and_decoder_steps() -> None:
    taps, _ = run("encoder.layers.0", "decoder")
    assert taps.get("encoder.layers.0", TEXT).values.tolist() == torch.ones(2, 3, 2).tolist()
    assert taps.get("decoder", TEXT).lengths.tolist() == [4, 3]  # tokens and the end


def test_hooks_do_not_stay() -> None:
    model = Model()
    taps = Taps(model, ["ctc"])
    with pytest.raises(RuntimeError), taps.listening():
        model(X[..., :1], LENGTHS)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("encoder.unused", "tap 'encoder.unused' of the student is not used in its forward pass"),
        ("encoder.early", "has 6 positions where the model has 3: choose a layer after the subsampling"),
        ("encoder.square", "gives a tensor of shape (2, 3, 2, 1)"),
    ],
)
def test_unusable(path: str, message: str) -> None:
    taps, _ = run(path)
    with pytest.raises(UserError) as error:
        taps.get(path, TEXT)
    assert message in str(error.value)


def test_near_misses() -> None:
    with pytest.raises(UserError) as error:
        Taps(Model(), ["encoder.layer.0"], "the student")
    assert str(error.value).startswith(
        "the student has no layer 'encoder.layer.0' to tap; near it: encoder.layers.0"
    )
