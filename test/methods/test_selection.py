"""Selecting layers and channels of a teacher: a student that lacks only zeros computes the same."""

from typing import Any

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.host.channels import Axis, ChannelGroup, Channels, channels_of
from espnet_kd.methods.selection import LAYERS, Cutter, Selection, copy_selected

CONFORMER = {
    "input_layer": "conv2d6",
    "macaron_style": True,
    "rel_pos_type": "latest",
    "cnn_module_kernel": 5,
}
TRANSFORMER = {"input_layer": "conv2d"}
FREQUENCIES = 20
ALL = {"encoder": {"select": "norm"}, "decoder": {"select": "norm"}}


class Small(nn.Module):
    """Encoder and attention decoder of ESPnet, in float64."""

    def __init__(self, size: int, heads: int, units: int, blocks: int = 2, **encoder: Any) -> None:
        super().__init__()
        kind = ConformerEncoder if "macaron_style" in encoder else TransformerEncoder
        widths = {"attention_heads": heads, "linear_units": units, "num_blocks": blocks}
        self.encoder = kind(FREQUENCIES, size, **widths, **encoder)
        self.decoder = TransformerDecoder(7, size, **widths)
        self.double().eval()

    def forward(self, speech: Tensor) -> tuple[Tensor, Tensor]:
        """Compute encoder output and logits of the decoder for some tokens."""
        encoded, frames, _ = self.encoder(speech, torch.full((len(speech),), speech.shape[1]))
        tokens = torch.tensor([[6, 2, 3, 1]]).expand(len(speech), -1)
        return encoded, self.decoder(encoded, frames, tokens, torch.full((len(speech),), 4))[0]


def random_model(*sizes: int, **encoder: Any) -> Small:
    """A model whose weights are all random; ESPnet begins with biases of 0 and norms of 1."""
    model = Small(*sizes, **encoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    return model


def clear(model: nn.Module, channels: Channels, group: str, dropped: list[int]) -> None:
    """Set everything that writes or reads some channels to zero."""
    state = model.state_dict()
    for name, axes in channels.axes.items():
        at = [i for i, axis in enumerate(axes) if axis is not None and axis.group == group]
        for i in at:
            axis, size = axes[i], channels.groups[group].size
            tensor = state[name]
            shape = list(tensor.shape) if len(axes) == tensor.dim() else [tensor.numel()]
            parts = tensor.reshape(*shape[:i], axis.copies, size, axis.entries, *shape[i + 1 :]).clone()
            parts.index_fill_(i + 1, torch.tensor(dropped), 0)
            tensor.copy_(parts.reshape(tensor.shape))


def two(model: nn.Module, student: nn.Module, *arguments: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the outputs of both."""
    with torch.no_grad():
        return list(zip(model(*arguments), student(*arguments), strict=True))


@pytest.mark.parametrize("encoder", [CONFORMER, TRANSFORMER], ids=["conformer", "transformer"])
def test_feed_forward_channels_of_zero_are_those_left_out(encoder: dict) -> None:
    torch.manual_seed(0)
    teacher, student = random_model(8, 2, 12, **encoder), Small(8, 2, 5, **encoder)
    channels = channels_of(teacher)
    for group in (name for name in channels.groups if "feed_forward" in name):
        clear(teacher, channels, group, torch.randperm(12)[:7].tolist())
    copy_selected(student, teacher, ALL)
    for whole, small in two(teacher, student, torch.randn(2, 60, FREQUENCIES, dtype=torch.float64)):
        torch.testing.assert_close(small, whole, rtol=0, atol=1e-12)


VECTORS = [0, 3, 4, 6]  # channels that are not zero


def clear_half(teacher: Small, of_heads: list[int]) -> None:
    """Set channels to zero such that an encoder of width 8 computes with half of them.

    A layer normalisation takes the mean of all channels away: what writes VECTORS gets mean 0.

    Args:
        of_heads: the channels of attention that become zero.
    """
    channels = channels_of(teacher)
    for name, group in channels.groups.items():
        if group.are_frequencies:
            clear(
                teacher, channels, name, [2, 3, 6, 7]
            )  # 10000 ** (-2/8) and (-6/8); a width of 4 has 0, (-4/8)
        elif group.heads > 1:
            clear(teacher, channels, name, of_heads)
        elif group.size == 8:
            clear(teacher, channels, name, [i for i in range(8) if i not in VECTORS])
    state = teacher.state_dict()
    for name, axes in channels.axes.items():
        if axes[0] == Axis("encoder:vectors"):
            values = state[name][VECTORS]
            state[name][VECTORS] = values * 0 + 0.7 if name in channels.norms else values - values.mean(0)


@pytest.mark.parametrize(
    ("heads", "of_heads", "smaller"),
    [(2, [1, 2, 4, 7], 2), (4, [0, 1, 4, 5], 2)],
    ids=["half the channels of each head", "half the heads"],
)
def test_vectors_heads_and_convolutions_of_zero_are_those_left_out(
    heads: int, of_heads: list[int], smaller: int
) -> None:
    """Of half the width: norms, scores and the input of the first layer are divided by other roots."""
    torch.manual_seed(1)
    teacher, student = random_model(8, heads, 12, **CONFORMER), Small(4, smaller, 12, **CONFORMER)
    clear_half(teacher, of_heads)
    copy_selected(student, teacher, {"encoder": {"select": "norm"}})
    whole, small = two(teacher, student, torch.randn(2, 60, FREQUENCIES, dtype=torch.float64))[0]
    assert whole[..., VECTORS].std() > 0.1
    torch.testing.assert_close(small, whole[..., VECTORS], rtol=0, atol=1e-9)  # norms add 1e-12 to a square


def test_the_vectors_of_a_decoder_are_selected_apart_from_the_encoder() -> None:
    torch.manual_seed(3)
    teacher, student = random_model(8, 2, 12, **CONFORMER), Small(4, 2, 12, **CONFORMER)
    state = teacher.state_dict()
    with torch.no_grad():
        for name, axes in channels_of(teacher).axes.items():
            for i, axis in enumerate(axes):
                if axis == Axis("decoder:vectors"):
                    state[name].index_copy_(
                        i,
                        torch.tensor([1, 2, 5, 7]),
                        9 * state[name].index_select(i, torch.tensor([1, 2, 5, 7])),
                    )
    copy_selected(student, teacher, ALL)
    ours = student.state_dict()
    root = 2**0.5  # the embedding is multiplied by sqrt(8) in the teacher, by sqrt(4) in the student
    torch.testing.assert_close(
        ours["decoder.embed.0.weight"], root * state["decoder.embed.0.weight"][:, [1, 2, 5, 7]]
    )
    torch.testing.assert_close(
        ours["decoder.output_layer.weight"], state["decoder.output_layer.weight"][:, [1, 2, 5, 7]]
    )


def test_norms_of_channels_by_hand() -> None:
    """Three channels between two layers, and two heads of two channels."""
    teacher = {
        "w": torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]]),  # writes the channels: squares 9, 1, 4
        "r": torch.tensor([[0.0, 4.0, 0.0]]),  # reads them: 0, 16, 0; sums 9, 17, 4
        "q": torch.tensor([1.0, 2.0, 1.0, 2.5]),  # squares of heads: 1 + 4, 1 + 6.25
        "v": torch.tensor([2.0, 3.0, 1.0, 0.0]),  # 4 + 9, 1 + 0: with q 18 and 8.25
    }
    axes = {"w": (Axis("c"), None), "r": (None, Axis("c")), "q": (Axis("a"),), "v": (Axis("b"),)}

    def channels(size: int, heads: int, width: int) -> Channels:
        attention = {
            "a": ChannelGroup(heads * width, heads, pair="b"),
            "b": ChannelGroup(heads * width, heads, pair="a"),
        }
        return Channels({"c": ChannelGroup(size), **attention}, axes, {"q": ("a", -0.5)})

    cutter = Cutter(teacher, teacher, channels(3, 2, 2), channels(2, 1, 2), teacher, teacher, str)
    assert cutter.cut("w", (2, 2)).tolist() == [[3.0, 0.0], [0.0, 1.0]]
    assert cutter.cut("r", (1, 2)).tolist() == [[0.0, 4.0]]
    assert cutter.cut("v", (2,)).tolist() == [2.0, 3.0]
    assert cutter.cut("q", (2,)).tolist() == [1.0, 2.0]  # as wide as before
    cutter = Cutter(teacher, teacher, channels(3, 2, 2), channels(1, 2, 1), teacher, teacher, str)
    assert cutter.cut("w", (1, 2)).tolist() == [[0.0, 1.0]]
    assert cutter.cut("v", (2,)).tolist() == [3.0, 1.0]  # of each head the larger
    # ESPnet divides by the root of the width, 2 before and 1 now: queries are divided by sqrt(2)
    torch.testing.assert_close(cutter.cut("q", (2,)), torch.tensor([2.0, 2.5]) / 2**0.5)


@pytest.mark.parametrize(
    ("rule", "ours", "theirs", "expected"),
    [
        ("spread", 3, 6, [0, 2, 5]),
        ("spread", 4, 32, [0, 10, 20, 31]),
        ("spread", 2, 12, [0, 11]),
        ("spread", 1, 12, [11]),
        ("spread", 6, 6, [0, 1, 2, 3, 4, 5]),
        ("every", 3, 6, [0, 2, 4]),
        ("every", 4, 6, [0, 1, 2, 3]),
        ("first", 2, 6, [0, 1]),
        ("last", 2, 6, [4, 5]),
    ],
)
def test_rules_for_layers(rule: str, ours: int, theirs: int, expected: list[int]) -> None:
    assert LAYERS[rule](ours, theirs) == expected


@pytest.mark.parametrize(
    ("layers", "encoder", "decoder"),
    [("every", 0, 0), ("last", 2, 2), ([1], 1, 1)],
)
def test_layers_of_encoder_and_decoder(layers: Any, encoder: int, decoder: int) -> None:
    teacher, student = random_model(8, 2, 12, 3, **TRANSFORMER), Small(8, 2, 12, 1, **TRANSFORMER)
    copy_selected(student, teacher, {"encoder": {"layers": layers}, "decoder.decoders": {"layers": layers}})
    ours, theirs = student.state_dict(), teacher.state_dict()
    name = "feed_forward.w_1.weight"
    assert torch.equal(ours[f"encoder.encoders.0.{name}"], theirs[f"encoder.encoders.{encoder}.{name}"])
    assert torch.equal(ours[f"decoder.decoders.0.{name}"], theirs[f"decoder.decoders.{decoder}.{name}"])
    assert torch.equal(ours["encoder.embed.out.weight"], theirs["encoder.embed.out.weight"])
    assert not torch.equal(ours["decoder.embed.0.weight"], theirs["decoder.embed.0.weight"])  # not asked for


def test_only_the_layers_that_are_kept_choose_the_channels() -> None:
    teacher, student = random_model(8, 2, 12, 2, **TRANSFORMER), Small(4, 2, 12, 1, **TRANSFORMER)
    with torch.no_grad():
        teacher.encoder.encoders[1].norm1.weight[:4] = 9.0
        teacher.encoder.encoders[0].norm1.weight[4:] = 9.0
    copy_selected(student, teacher, {"encoder": {"select": "norm", "layers": "first"}})
    assert (student.encoder.encoders[0].norm1.weight > 5).all()


@pytest.mark.parametrize(
    ("student", "options", "message"),
    [
        ((16, 2, 12), {"select": "norm"}, "encoder vectors: 16 channels in the student, 8 in the teacher"),
        ((8, 2, 24), {"select": "norm"}, "feed_forward: 24 channels in the student, 12 in the teacher"),
        ((8, 4, 12), {"select": "norm"}, "self_attn queries: 4 heads in the student, 2 in the teacher"),
        ((8, 1, 12), {"select": "norm"}, "self_attn queries: 8 channels a head in the student, 4 in the"),
        ((8, 2, 6), {}, "`select: norm` selects channels"),
        ((8, 2, 12, 3), {}, "encoder.encoders: the student has 3 layers, the teacher 2: choose fewer"),
        ((8, 2, 12), {"layers": [0]}, "`layers` has 1 numbers, the student 2 layers"),
        ((8, 2, 12), {"layers": [0, 2]}, "the teacher has no layer 2, it has 0 to 1"),
        ((8, 2, 12), {"layers": "middle"}, "encoder: layers is 'middle': give spread, every, first, last or"),
        ((8, 2, 12), {"layers": {0: 1}}, "encoder: layers is {0: 1}: give spread, every, first, last or"),
        ((8, 2, 12), {"select": "random"}, "encoder: select is 'random': give norm"),
        ((8, 2, 12), {"selct": "norm"}, "encoder: unknown key selct: "),
    ],
)
def test_refused(student: tuple[int, ...], options: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        copy_selected(
            Small(*student, **TRANSFORMER), random_model(8, 2, 12, **TRANSFORMER), {"encoder": options}
        )
    assert message in str(error.value)


def test_another_kind_of_encoder_is_refused() -> None:
    with pytest.raises(UserError, match="is absent in the teacher: choose another part"):
        copy_selected(Small(8, 2, 12, **CONFORMER), random_model(8, 2, 12, **TRANSFORMER), ALL)
    student = Small(8, 2, 12, **{**CONFORMER, "macaron_style": False})
    with pytest.raises(UserError, match="of the student|of the teacher"):
        copy_selected(student, random_model(8, 2, 12, **CONFORMER), ALL)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_what_differs_beside_channels_is_refused(part: str) -> None:
    """Another kernel, and another vocabulary."""
    teacher = random_model(8, 2, 12, **CONFORMER)
    student = Small(4, 2, 12, **{**CONFORMER, "cnn_module_kernel": 7})
    student.decoder = TransformerDecoder(9, 4, attention_heads=2, linear_units=12, num_blocks=2)
    with pytest.raises(UserError, match="in the teacher, and cannot be copied: choose equal ones"):
        copy_selected(student, teacher, {part: {"select": "norm"}})


@pytest.mark.parametrize("other", ["teacher", "student"])
def test_a_layer_on_an_encoder_whose_channels_are_unknown(other: str) -> None:
    """It is copied whole where it has the same size."""

    def with_ctc(size: int, kind: str) -> nn.Module:
        model = nn.Module()
        branches = {"cgmlp_linear_units": 8, "num_blocks": 2, "attention_heads": 2}
        unknown = kind == other
        model.encoder = (EBranchformerEncoder(FREQUENCIES, size, **branches) if unknown
                         else Small(size, 2, 12, **CONFORMER).encoder)  # fmt: skip
        model.ctc = CTC(7, size)
        return model

    teacher, student = with_ctc(8, "teacher"), with_ctc(8, "student")
    copy_selected(student, teacher, {"ctc": {"select": "norm"}})
    assert torch.equal(student.ctc.ctc_lo.weight, teacher.ctc.ctc_lo.weight)
    with pytest.raises(UserError, match=r"ctc_lo.weight is \(7, 4\) in the student, .* is \(7, 8\) in the"):
        copy_selected(with_ctc(4, "student"), teacher, {"ctc": {"select": "norm"}})


def test_parts_that_are_not_copied_may_be_larger() -> None:
    """A deeper student with more channels, whose decoder alone is the teacher's."""
    teacher, student = random_model(8, 2, 12, 1, **TRANSFORMER), Small(8, 2, 24, 3, **TRANSFORMER)
    student.decoder = Small(8, 2, 6, 1, **TRANSFORMER).decoder
    copy_selected(student, teacher, {"decoder": {"select": "norm"}})
    assert torch.equal(student.decoder.embed[0].weight, teacher.decoder.embed[0].weight)
    assert student.decoder.decoders[0].feed_forward.w_1.weight.std() > 0.2


def test_the_names_of_a_selection() -> None:
    assert Selection.of("encoder", {"layers": [0, 2]}) == Selection(layers=[0, 2], select=None)
