"""Jasper: padding, the sizes of the paper, options."""

import pytest
import torch
from padding import FEATURES, check_eval, check_train
from torch import nn

from espnet_kd.encoders.jasper import Jasper
from espnet_kd.encoders.masked import MaskedBatchNorm

SMALL = {
    "prologue": {"channels": 6, "kernel": 5, "stride": 2},
    "blocks": [{"channels": 6, "kernel": 3}, {"channels": 8, "kernel": 5}],
    "repeat": 2,
    "epilogue": [{"channels": 10, "kernel": 5, "dilation": 2}, {"channels": 7, "kernel": 1}],
}
KINDS = [
    {"residual": "dense"},
    {"residual": "plain"},
    {"residual": "none"},
    {"residual": "plain", "separable": True},
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))


def small(**options: object) -> Jasper:
    torch.manual_seed(0)
    return Jasper(FEATURES, **{**SMALL, **options})


@kinds
def test_output_does_not_depend_on_padding_in_evaluation(kind: dict) -> None:
    check_eval(small(**kind))


@kinds
def test_output_does_not_depend_on_padding_in_training(kind: dict) -> None:
    check_train(small(**kind))


def test_every_norm_ignores_padding_and_every_parameter_is_used() -> None:
    encoder = small()
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    assert norms and all(isinstance(m, MaskedBatchNorm) for m in norms)
    encoder(torch.randn(2, 9, FEATURES), torch.tensor([9, 4]))[0].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())  # DDP does not look for unused ones


def test_dropout_leaves_padding_zero() -> None:
    encoder = small(prologue={**SMALL["prologue"], "dropout": 0.5}).train()
    ys, lengths, _ = encoder(torch.randn(2, 9, FEATURES), torch.tensor([9, 3]))
    assert lengths.tolist() == [5, 2] and (ys[1, 2:] == 0).all()


def parameters(**options: object) -> float:
    """Count the parameters in millions, with a CTC layer of 29 characters."""
    with torch.device("meta"):
        encoder = Jasper(64, **options)
    assert encoder.output_size() == 1024
    return sum(p.numel() for p in encoder.parameters()) / 1e6 + 29 * 1025 / 1e6


def test_sizes_are_those_of_the_paper() -> None:
    assert parameters() == pytest.approx(333, abs=0.5)  # Li et al. 2019, table 3: Jasper DR 10x5
    assert parameters(residual="plain") == pytest.approx(322, abs=0.5)  # the same: Jasper 10x5
    sizes = zip([256] * 4 + [512] * 6, [11, 11, 13, 13, 17, 17, 21, 21, 25, 25], strict=True)
    mini = {
        "prologue": {"channels": 256, "kernel": 11, "stride": 2},
        "blocks": [{"channels": c, "kernel": k} for c, k in sizes],
        "repeat": 3,
        "epilogue": [{"channels": 512, "kernel": 29, "dilation": 2}, {"channels": 1024, "kernel": 1}],
        "residual": "plain",
        "separable": True,
    }
    assert parameters(**mini) == pytest.approx(8.19, abs=0.01)


def test_dense_residual_connections_come_from_all_earlier_blocks() -> None:
    assert [len(block.shortcuts) for block in small(residual="dense").blocks] == [1, 2]
    assert [len(block.shortcuts) for block in small(residual="plain").blocks] == [1, 1]
    assert [len(block.shortcuts) for block in small(residual="none").blocks] == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precisions(dtype: torch.dtype) -> None:
    encoder = small()
    xs, lengths = torch.randn(2, 9, FEATURES), torch.tensor([9, 4])
    expected, _, _ = encoder(xs, lengths)
    if dtype == torch.float64:
        found, _, _ = encoder.double()(xs.double(), lengths)
    else:
        with torch.autocast("cpu", dtype):
            found, _, _ = encoder(xs, lengths)
        found.float().sum().backward()
    atol = 0.1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.float(), expected, atol=atol, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": "dens"}, "residual is 'dens'; known: dense, plain, none"),
        ({"repeat": 0}, "repeat is 0"),
        ({"prologue": {"kernel": 3}}, "prologue: channels is missing"),
        ({"blocks": [{"channels": 4, "kernel": 3, "dropuot": 0.1}]}, "unknown key dropuot; known: ch"),
        ({"blocks": [{"channels": 4, "kernel": 3, "stride": 2}]}, "only the prologue may have one"),
        ({"epilogue": [{"channels": 4, "kernel": 2}]}, r"epilogue\[0\] has a kernel of 2"),
        ({"blocks": [4]}, r"blocks\[0\] is 4: write"),
        (
            {"prologue": {"channels": 4, "kernel": 3, "stride": 0}},
            "prologue: stride is 0: give an integer of at least 1",
        ),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
