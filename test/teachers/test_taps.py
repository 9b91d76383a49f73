"""Hooks on a stand-in for a stock model: encoder (B, T, D) with lengths, CTC layer, decoder.

As in self-conditioned CTC the encoder calls the CTC layer on an inner layer, and shares its norm.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.rnnt import Joint
from espnet_kd.teachers.checkpoint import not_finite
from espnet_kd.teachers.options import term_options
from espnet_kd.teachers.speech import compares_frames
from espnet_kd.teachers.taps import Taps, Targets, check_finite


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
        self.norm = nn.Identity()

    def forward(self, x: Tensor, lengths: Tensor, ctc: nn.Module) -> tuple[Tensor, Tensor, None]:
        self.early(x.repeat(1, 2, 1))
        self.square(x[..., None])
        ctc(self.norm(x))
        (x, _), _ = self.layers[0](x)
        return self.norm(x), lengths, None


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.postencoder = None
        self.ctc = nn.Linear(2, 5)
        self.decoder = nn.Sequential(nn.Identity())

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x, _, _ = self.encoder(x, lengths, self.ctc)
        self.decoder(torch.zeros(2, 4, 5))
        of_final_output = self.ctc(x)
        self.ctc(x * 3)  # for the error rate
        self.decoder(torch.ones(2, 4, 5))
        return of_final_output


X, LENGTHS, TEXT = torch.zeros(2, 3, 2), torch.tensor([3, 1]), torch.tensor([3, 2])


def run(*paths: str) -> tuple[Taps, Tensor]:
    model = Model()
    taps = Taps(model, paths, "the student")
    with taps.recording():
        output = model(X, LENGTHS)
    return taps, output


def test_the_call_of_the_ctc_layer_on_the_final_encoder_output_is_recorded_and_not_replaced() -> None:
    taps, output = run("ctc")
    assert torch.equal(taps.get("ctc", TEXT).values, output)
    assert taps.get("ctc", TEXT).lengths.tolist() == [3, 1]


def test_nested_tuples_and_decoder_steps() -> None:
    taps, _ = run("encoder.layers.0", "decoder")
    assert taps.get("encoder.layers.0", TEXT).values.tolist() == torch.ones(2, 3, 2).tolist()
    assert taps.get("decoder", TEXT).lengths.tolist() == [4, 3]  # tokens and the end
    assert not run("decoder.0")[0].get("decoder.0", TEXT).values.any(), "its first pass counts"


class Skipping(nn.Sequential):
    """Has, like ESPnet's MultiSequential, an option that skips layers in training."""

    layer_drop_rate = 0.1

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], None]:
        return self[0](x)


def test_a_layer_that_training_may_skip_is_refused_for_a_student_but_not_for_a_teacher() -> None:
    model = Model()
    model.encoder.layers = nn.ModuleList([Skipping(Layer())])
    path = "encoder.layers.0.0"
    with pytest.raises(UserError) as error:
        Taps(model, [path], "the student")
    assert "is left out of some steps by `layer_drop_rate: 0.1`: set that to 0" in str(error.value)
    assert Taps(model, ["encoder.layers.0"]).paths == ["encoder.layers.0"]
    assert Taps(model.eval(), [path]).paths == [path]


def test_taps_in_a_reordered_encoder_come_in_the_order_of_the_batch() -> None:
    model, order = Model(), torch.tensor([1, 0])
    x = torch.arange(12.0).view(2, 3, 2)
    taps = Taps(model, ["encoder.layers.0", "ctc"])
    with taps.recording(back=order):
        encoded, lengths, _ = model.encoder(x[order], LENGTHS[order], model.ctc)
        expected = model.ctc(encoded[order])
    for path, values in (("encoder.layers.0", x + 1), ("ctc", expected)):
        found = taps.get(path, TEXT)
        assert torch.equal(found.values, values) and found.lengths.tolist() == LENGTHS.tolist()


def test_hooks_are_removed_afterwards() -> None:
    model = Model()
    taps = Taps(model, ["ctc"])
    with pytest.raises(RuntimeError), taps.recording():
        model(X[..., :1], LENGTHS)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("encoder.unused", "tap 'encoder.unused' of the student is not used in its forward pass"),
        ("encoder.early", "has 6 positions where the model has 3: choose a layer after the subsampling"),
        ("encoder.square", "gives a tensor of shape (2, 3, 2, 1)"),
        ("encoder.norm", "tap 'encoder.norm' of the student runs 2 times in its forward pass: choose"),
    ],
)
def test_unusable_layers_are_refused(path: str, message: str) -> None:
    taps, _ = run(path)
    with pytest.raises(UserError) as error:
        taps.get(path, TEXT)
    assert message in str(error.value)


def test_a_misspelt_path_lists_similar_ones() -> None:
    with pytest.raises(UserError) as error:
        Taps(Model(), ["encoder.layer.0"], "the student")
    assert str(error.value).startswith(
        "the student has no layer 'encoder.layer.0' to tap; near it: encoder.layers.0"
    )


NAN, INF = math.nan, math.inf
FRAMES = torch.tensor([2, 1])


def logits(last: list[float]) -> Tensor:
    """(2, 2, 2); ``last`` is the only real frame of the second utterance, padding is NaN."""
    return torch.tensor([[[0.0, -INF], [1.0, 2.0]], [last, [NAN, NAN]]])


def lattice(frame: float = 0.0, bias: float = 0.0) -> Joint:
    """As above; ``frame`` is in the only real frame of the second utterance."""
    enc = torch.tensor([[[0.0], [0.0]], [[frame], [NAN]]])
    return Joint(enc, torch.zeros(2, 2, 1), torch.zeros(2, 1), torch.tensor([0.0, bias]))


@pytest.mark.parametrize("values", [logits([0.0, -INF]), lattice(), lattice(bias=-INF)])
def test_a_class_of_probability_0_and_padding_pass(values: Tensor | Joint) -> None:
    check_finite({"x": Targets(values, FRAMES)}, "teacher t")


@pytest.mark.parametrize(
    "values",
    [logits([0.0, NAN]), logits([0.0, INF]), logits([-INF, -INF]), lattice(NAN), lattice(INF)],
)
def test_anything_else_names_the_utterance(values: Tensor | Joint) -> None:
    with pytest.raises(UserError, match="^teacher t gives values at x for b that are not finite"):
        check_finite({"x": Targets(values, FRAMES)}, "teacher t", ["a", "b"])


def test_a_lattice_whose_output_layer_is_not_finite() -> None:
    with pytest.raises(UserError, match="^teacher t gives values at x that are not finite"):
        check_finite({"x": Targets(lattice(bias=NAN), FRAMES)}, "teacher t")


def test_a_mask_may_hold_infinity_but_not_nan() -> None:
    tensors = {
        "weight": [0.0, 1.0], "bias": [INF, 0.0], "running_var": [-INF, 1.0], "mask": [-INF, 0.0],
        "mask_emb": [NAN, 0.0],
    }  # fmt: skip
    assert not_finite({n: torch.tensor(v) for n, v in tensors.items()}) == ["bias", "running_var", "mask_emb"]


def test_decoder_steps_and_whole_label_sequences_are_no_frames() -> None:
    criteria = {
        "ctc": {"type": "kl", "tap": "ctc.ctc_lo"},
        "att": {"type": "kl", "tap": "decoder"},
        "labels": {"type": "sequence", "tap": "ctc.ctc_lo"},
        "lattice": {"type": "transducer", "kind": "collapsed"},
    }
    compared = [options.term.name for options in term_options(criteria) if compares_frames(options)]
    assert compared == ["ctc", "lattice"]
    (labels,) = term_options({"labels": {"type": "transducer", "kind": "sequence"}})
    assert not compares_frames(labels)
