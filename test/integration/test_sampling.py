"""Scheduled sampling of Transformer decoders, alone and between peers."""

from typing import Any

import pytest
import torch
from recipe import Recipe
from test_mutual import ATT, CTC, MUTUAL, batch, build
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.methods.sampling_model import mix

REFERENCE = [[6, 3, 4, 5], [6, 5, 3, 6]]  # <sos/eos> first; the last of the second is padding


def watch(decoder: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Prefix and logits of every pass that trains."""
    seen: list[tuple[Tensor, Tensor]] = []
    decoder.register_forward_hook(lambda module, inputs, output: seen.append((inputs[2], output[0].detach())))
    return seen


def sampled(recipe: Recipe, probability: Any, **changes: Any) -> nn.Module:
    return build(recipe, scheduled_sampling={"probability": probability}, **changes)


def test_tokens_but_the_first_and_padding_are_replaced() -> None:
    prefix, predicted = torch.tensor([[9, 1, 2, 3], [9, 4, 9, 9]]), torch.tensor([[5, 6, 7, 8], [6, 7, 8, 9]])
    lengths = torch.tensor([4, 2])
    assert mix(prefix, lengths, predicted, 1.0).tolist() == [[9, 5, 6, 7], [9, 6, 9, 9]]
    assert mix(prefix, lengths, predicted, 0.0).equal(prefix)


def test_tokens_are_replaced_as_often_as_asked() -> None:
    prefix = torch.zeros(100, 101, dtype=torch.long)
    torch.manual_seed(0)
    share = mix(prefix, torch.full((100,), 101), prefix + 1, 0.3).sum().item() / 10000
    assert abs(share - 0.3) < 0.02  # 4 standard deviations of a share of 10000 tokens


def test_probability_0_is_the_stock_pass(recipe: Recipe) -> None:
    losses, drawn = [], []
    for model in (build(recipe), sampled(recipe, 0.0)):
        torch.manual_seed(0)
        loss, _, _ = model(**batch())
        loss.sum().backward()
        losses.append((loss, model.decoder.output_layer.weight.grad))
        drawn.append(torch.rand(1))
    assert torch.equal(losses[0][0], losses[1][0]) and torch.equal(losses[0][1], losses[1][1])
    assert torch.equal(*drawn)


def test_probability_1_feeds_only_predictions(recipe: Recipe) -> None:
    model, fed, logits = sampled(recipe, 1.0), [], []
    model.decoder.embed.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0]))
    model.decoder.output_layer.register_forward_hook(lambda module, inputs, output: logits.append(output))
    model(**batch())
    first, second = fed
    assert first.tolist() == REFERENCE and not logits[0].requires_grad and logits[1].requires_grad
    predictions = logits[0].argmax(-1)
    assert second[:, 0].tolist() == [6, 6]
    assert second[0, 1:].equal(predictions[0, :3]) and second[1, 1:3].equal(predictions[1, :2])
    assert not second.equal(first)


def test_off_at_validation(recipe: Recipe) -> None:
    stock, model = build(recipe).eval(), sampled(recipe, 1.0).eval()
    torch.manual_seed(0)
    expected = stock(**batch())[0]
    torch.manual_seed(0)
    assert torch.equal(model(**batch())[0], expected)
    assert model.kd_step == 0


def test_the_ramp_follows_the_batches_of_training(recipe: Recipe) -> None:
    model = sampled(recipe, {"schedule": "linear", "from": 0.0, "to": 1.0, "begin": 1, "steps": 1})
    seen = watch(model.decoder)
    for _ in range(3):
        model(**batch())
    changed = [not prefix[:, :3].equal(torch.tensor(REFERENCE)[:, :3]) for prefix, _ in seen]
    assert changed == [False, False, True] and model.kd_step == 3


def test_gradient_under_autocast(recipe: Recipe) -> None:
    """Weights that the first pass converted must not be those of the second."""
    model = sampled(recipe, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, _ = model(**batch())
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoder.output_layer.parameters())


@pytest.mark.parametrize("prefix", ["shared", "own"])
def test_prefixes_of_peers(recipe: Recipe, prefix: str) -> None:
    model = sampled(recipe, 1.0, mutual={**MUTUAL, "ss_prefix": prefix, "peers": 3})
    seen = [watch(peer.decoder) for peer in (model, *model.kd_peers.values())]
    for _ in range(3):
        model(**batch())
    prefixes = [[fed for fed, _ in of_peer] for of_peer in seen]
    for first, *others in zip(*prefixes, strict=True):
        assert all(first.equal(other) for other in others) is (prefix == "shared")
    assert not prefixes[0][0].equal(prefixes[0][1]), "the next batch has another"


def test_a_teacher_sees_the_prefix_of_the_student(recipe: Recipe) -> None:
    model = sampled(recipe, 1.0, teacher={"exp": "exp/teacher"}, criteria={"att": ATT})
    teacher = model.kd_objective.teacher.experiments[0].model
    seen = [watch(one.decoder) for one in (model, teacher)]
    for _ in range(2):
        loss, stats, _ = model(**batch())
        torch.testing.assert_close(loss.detach(), stats["loss_task"] + stats["loss_kd_att"])
    model.eval()(**batch())
    (first, second, validation), theirs = ([prefix for prefix, _ in of_model] for of_model in seen)
    assert theirs[0].equal(first) and theirs[1].equal(second) and not first.equal(second)
    assert theirs[2].equal(validation) and validation.tolist() == REFERENCE


def test_beside_a_teacher_of_hard_targets(recipe: Recipe) -> None:
    options = {"teacher": {"exp": "exp/teacher"}, "criteria": {"att": ATT}, "targets": "hard"}
    assert not hasattr(sampled(recipe, 1.0, **options), "kd_objective")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduled_sampling": {"probability": 1.5}}, "must stay between 0 and 1"),
        ({"scheduled_sampling": 0.5}, "write `scheduled_sampling: {probability: 0.2}`"),
        ({"scheduled_sampling": {"p": 0.5}}, "unknown key p; known: probability"),
        (
            {"scheduled_sampling": {"probability": 0.5}, "decoder": "rnn", "decoder_conf": {}},
            "the model has RNNDecoder decoder",
        ),
        (
            {"scheduled_sampling": {"probability": 0.5},
             "mutual": {"criteria": {"x": {**CTC, "tap": "decoder.output_layer"}}}},
            "criterion x: with scheduled sampling decoder.output_layer runs more than once",
        ),
    ],
)  # fmt: skip
def test_refused_in_one_line(recipe: Recipe, changes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        build(recipe, **changes)
    assert message in str(error.value)
