"""Channels of feed-forward layers are removed by their norm, and stay removed."""

from argparse import Namespace

import pytest
import torch
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import PositionwiseFeedForward
from torch import nn

from espnet_kd.errors import UserError
from espnet_kd.methods.prune import Prune, PruneMethod, prune_options
from espnet_kd.methods.pruning import Pruner, pruned_sizes, squares_of


def model(blocks: int = 2) -> nn.Module:
    torch.manual_seed(0)
    found = nn.Module()
    found.encoder = TransformerEncoder(20, 8, attention_heads=2, linear_units=12, num_blocks=blocks)
    return found


def test_norms_by_hand() -> None:
    layer = PositionwiseFeedForward(2, 3, 0.0)
    with torch.no_grad():
        layer.w_1.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))
        layer.w_1.bias.copy_(torch.tensor([0.0, 2.0, 0.0]))
        layer.w_2.weight.copy_(torch.tensor([[0.0, 4.0, 0.0], [1.0, 0.0, 0.0]]))
    assert squares_of(layer).tolist() == [10.0, 21.0, 4.0]  # 9 + 0 + 1, 1 + 4 + 16, 4


def test_the_smallest_go_first_and_none_comes_back() -> None:
    pruned = model()
    layer = pruned.encoder.encoders[1].feed_forward
    order = squares_of(layer).argsort().tolist()
    pruner = Pruner(pruned)
    pruner.remove(0.0)
    assert (squares_of(layer) > 0).all()
    pruner.remove(0.25)
    assert (squares_of(layer) == 0).nonzero().flatten().tolist() == sorted(order[:3])
    optimizer = torch.optim.Adam(pruned.parameters(), lr=0.1)
    for parameter in pruned.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    assert (squares_of(layer) > 0).all(), "an update moves what is zero"
    pruner.clear()
    assert (squares_of(layer) == 0).nonzero().flatten().tolist() == sorted(order[:3])
    resumed = Pruner(pruned)  # knows nothing but the weights
    resumed.remove(0.5)
    gone = (squares_of(layer) == 0).nonzero().flatten().tolist()
    assert len(gone) == 6 and set(order[:3]) <= set(gone)


def test_the_schedule_by_hand() -> None:
    prune = prune_options({"target": 0.5, "begin": 100, "end": 300})
    # before it 0; in the middle 0.5 (1 - (1/2)^3) = 0.4375; from its end on the target
    assert [prune.share(step) for step in (0, 100, 200, 300, 900)] == [0, 0, 0.4375, 0.5, 0.5]


def test_sizes_without_zeros() -> None:
    pruned = model()
    Pruner(pruned).remove(0.5)
    assert pruned_sizes(pruned, {}, "it") == {"encoder_conf": {"linear_units": 6}}
    config = {"prune": {"target": 0.75, "end": 9}}
    with pytest.raises(UserError, match=r"it has 6 of 12 channels in the encoder, more than `prune"):
        pruned_sizes(pruned, config, "it")
    for target, removed in (("5e-1", 0.5), (0.97, 0.97)):  # of 12 channels one stays
        Pruner(pruned).remove(removed)
        left = pruned_sizes(pruned, {"prune": {"target": target, "end": 9}}, "it")
        assert left == {"encoder_conf": {"linear_units": {0.5: 6, 0.97: 1}[removed]}}
    with pytest.raises(UserError, match="it has no channels of feed-forward layers that are zero: give"):
        pruned_sizes(model(), config, "it")


def test_options() -> None:
    assert prune_options({"target": "5e-1", "end": 9}) == Prune(0.5, 0, 9)
    assert prune_options({"target": 0.5, "begin": "1e3", "end": "2e3"}) == Prune(0.5, 1000, 2000)
    for wrong, message in (
        ({"end": 9}, "target is None: give a number between 0 and 1"),
        ({"target": 1, "end": 9}, "target is 1: give"),
        ({"target": 0.5}, "prune: end is missing; write"),
        ({"target": 0.5, "begin": 9, "end": 9}, "prune.end: 9 is not a whole number of batches from 10 up"),
        ({"target": 0.5, "end": 9, "heads": 2}, "prune: heads cannot be removed in training"),
        ({"target": 0.5, "ends": 9}, "unknown key ends"),
    ):
        with pytest.raises(UserError, match=message):
            prune_options(wrong)
    bare = nn.Module()
    bare.encoder = nn.Linear(2, 2)
    with pytest.raises(UserError, match="has no feed-forward layers that can be pruned"):
        Pruner(bare)


def test_zeros_stay_in_lightning() -> None:
    lightning = pytest.importorskip("lightning")
    from espnet_kd.tasks.lightning import KeepOwnState

    class Recipe(lightning.LightningModule):
        """A recipe of ESPnet3, with a pruned model."""

        def __init__(self) -> None:
            super().__init__()
            options, method = Namespace(prune={"target": 0.5, "end": 2}), PruneMethod()
            stock = model()
            stock.forward = lambda speech: stock.encoder(speech, torch.tensor([50]))[0].square().sum()
            self.model = method.attach(stock, options, model)
            self.model.kd_methods = [method]

        def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
            return self.model(batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.1)

    trained = Recipe()
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[KeepOwnState()],
    )  # fmt: skip
    trainer.fit(trained, torch.utils.data.DataLoader(torch.randn(4, 50, 20)))
    assert int(trained.model.kd_step) == 4
    assert pruned_sizes(trained.model, {}, "it") == {"encoder_conf": {"linear_units": 6}}
