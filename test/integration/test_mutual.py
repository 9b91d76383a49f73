"""Peers that train together: what each learns, and what stays as in stock training."""

import contextlib
from typing import Any

import pytest
import torch
from recipe import MODELS, Recipe
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.methods import randomness
from espnet_kd.teachers import short
from espnet_kd.teachers.taps import observe

ATT = {"type": "kl", "tap": "decoder", "reduction": "utterance"}
CTC = {**ATT, "tap": "ctc.ctc_lo"}
MUTUAL = {"criteria": {"att": ATT, "ctc": CTC}}
WIDE = {**MODELS["student"]["specaug_conf"], "apply_time_mask": True, "time_mask_width_range": [0, 20]}
STILL = {
    "encoder_conf": {"dropout_rate": 0.0, "positional_dropout_rate": 0.0, "attention_dropout_rate": 0.0},
    "decoder_conf": {
        "dropout_rate": 0.0, "positional_dropout_rate": 0.0, "self_attention_dropout_rate": 0.0,
        "src_attention_dropout_rate": 0.0,
    },
}  # fmt: skip


def build(recipe: Recipe, **changes: Any) -> nn.Module:
    """The model as it is trained from the start."""
    from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

    from espnet_kd.tasks.asr import ASRDistillationTask as Task

    with contextlib.chdir(recipe.root):
        args = Task.get_parser().parse_args(recipe.training("exp/built", "student", **changes))
        set_all_random_seed(args.seed)
        return Task.build_model(args).train()


def batch() -> dict[str, Tensor]:
    return {
        "speech": torch.randn(2, 16000, generator=torch.Generator().manual_seed(1)),
        "speech_lengths": torch.tensor([16000, 12000]),
        "text": torch.tensor([[3, 4, 5], [5, 3, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }


def gradients(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    model(**batch())[0].sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_a_peers_gradient_does_not_depend_on_the_others_loss(recipe: Recipe) -> None:
    model = build(recipe, mutual=MUTUAL)
    before = gradients(model)
    model.kd_step.zero_()
    model.kd_peers["2"].ctc_weight = 0.9  # another loss of the same posteriors
    after = gradients(model)
    own, other = ([n for n in before if n.startswith("kd_peers") is peer] for peer in (False, True))
    assert all(torch.equal(before[n], after[n]) for n in own)
    assert any(not torch.equal(before[n], after[n]) for n in other)
    assert all(before[n].abs().sum() > 0 for n in ("ctc.ctc_lo.weight", "kd_peers.2.ctc.ctc_lo.weight"))


def test_identical_peers_have_nothing_to_learn(recipe: Recipe) -> None:
    model = build(recipe, mutual=MUTUAL).eval()
    model.kd_peers["2"].load_state_dict(model.state_dict())
    stats = model(**batch())[1]
    for name in ("loss_kd_att", "loss_kd_ctc", "loss_kd_att_peer2", "loss_kd_ctc_peer2"):
        assert abs(stats[name].item()) < 1e-5, name
    assert stats["loss_task"] == stats["loss_task_peer2"] > 1


@pytest.mark.parametrize("targets", ["each", "mean"])
def test_interpolation_is_cross_entropy_with_a_mixture(recipe: Recipe, targets: str) -> None:
    """Of the smoothed labels and the peers' posteriors, up to the entropies of both."""
    weight, smoothing, pure = 0.3, 0.1, {"ctc_weight": 0.0, "lsm_weight": 0.1}
    mutual = {"criteria": {"att": ATT}, "weight": weight, "targets": targets, "peers": 3}
    model = build(recipe, mutual=mutual, model_conf=pure).eval()
    peers = [model, *model.kd_peers.values()]
    with torch.no_grad():
        stats = model(**batch())[1]
        logs = [
            observe(peer, taps, *batch().values())["decoder"].values.log_softmax(-1)
            for peer, taps in zip(peers, model.kd_mutual.taps, strict=True)
        ]
    classes = logs[0].shape[-1]
    labels = torch.tensor([[3, 4, 5, 6], [5, 3, 6, 0]])  # with the end of the sentence
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    hard = torch.full(logs[0].shape, smoothing / (classes - 1)).scatter(2, labels[..., None], 1 - smoothing)
    soft = (logs[1].exp() + logs[2].exp()) / 2
    entropies = [-(p * p.log()).sum(-1) for p in (hard, soft, logs[1].exp(), logs[2].exp())]
    of_peers = entropies[1] if targets == "mean" else (entropies[2] + entropies[3]) / 2
    mixture = -(((1 - weight) * hard + weight * soft) * logs[0]).sum(-1)
    expected = (mixture - (1 - weight) * entropies[0] - weight * of_peers)[real].sum() / 2
    torch.testing.assert_close(stats["loss"].squeeze(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("combine", ["interpolate", "add"])
def test_every_term_adds_up(recipe: Recipe, combine: str) -> None:
    ramp = {"schedule": "linear", "from": 0.0, "to": 0.8, "steps": 4}
    model = build(recipe, mutual={**MUTUAL, "combine": combine, "weight": ramp})
    for weight in (0.0, 0.2, 0.4):
        loss, stats, _ = model(**batch())
        for end in ("", "_peer2"):
            task, att, ctc = (stats[n + end] for n in ("loss_task", "loss_kd_att", "loss_kd_ctc"))
            share = 1 - weight if combine == "interpolate" else 1
            torch.testing.assert_close(stats["loss" + end], share * task + weight * (att + ctc))
        torch.testing.assert_close(loss.detach(), stats["loss"] + stats["loss_peer2"])


@pytest.mark.parametrize("name", ["att", "ctc"])
def test_a_loss_without_a_criterion_keeps_its_weight(recipe: Recipe, name: str) -> None:
    weight = 0.4
    mutual = {"criteria": {name: MUTUAL["criteria"][name]}, "weight": weight}
    model = build(recipe, mutual=mutual)  # ctc_weight is 0.3
    shares = {"ctc": 0.3, "att": 0.7}
    shares[name] *= 1 - weight
    for step in range(2):
        stats = model(**batch())[1]
        for end in ("", "_peer2"):
            task = sum(share * stats[f"loss_{part}{end}"] for part, share in shares.items())
            expected = task + weight * stats[f"loss_kd_{name}{end}"]
            torch.testing.assert_close(stats[f"loss{end}"], expected, msg=lambda m, s=step: f"step {s}: {m}")


def test_inner_ctc_losses_belong_to_ctc(recipe: Recipe) -> None:
    inner = {**MODELS["student"]["encoder_conf"], "num_blocks": 2, "interctc_layer_idx": [1]}
    conf = {"ctc_weight": 0.3, "interctc_weight": 0.5}
    mutual = {"criteria": {"ctc": CTC}, "weight": 0.4}
    stats = build(recipe, mutual=mutual, encoder_conf=inner, model_conf=conf)(**batch())[1]
    ctc = (stats["loss_ctc"] + stats["loss_interctc_layer1"]) / 2
    expected = 0.3 * 0.6 * ctc + 0.7 * stats["loss_att"] + 0.4 * stats["loss_kd_ctc"]
    torch.testing.assert_close(stats["loss"], expected)


def test_a_peer_without_a_finite_loss_is_named(
    recipe: Recipe, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(recipe, mutual={**MUTUAL, "peers": 3})
    model(**batch())
    monkeypatch.setattr(short, "rank", lambda: 1)  # ESPnet shows only errors of this process
    model.kd_peers["3"].ctc.ctc_lo.bias.data[0] = float("nan")
    for _ in range(2):
        loss, _, _ = model(**batch())
    assert not loss.isfinite()
    named = [r.message for r in caplog.records if r.levelname == "ERROR" and "mutual: the task" in r.message]
    assert len(named) == 1 and "of peer 3 is not finite in step 1: no peer is updated" in named[0]


def test_processes_draw_other_numbers_for_the_same_peer(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked: list[Tensor] = []
    for rank in (0, 1, 1):
        monkeypatch.setattr(randomness, "rank", lambda rank=rank: rank)
        model = build(recipe, mutual={**MUTUAL, "specaug": "independent"}, specaug_conf=WIDE)
        hook = lambda module, inputs, output: masked.append(output[0])  # noqa: E731
        model.kd_peers["2"].specaug.register_forward_hook(hook)
        model(**batch())
    assert not torch.equal(masked[0], masked[1]) and torch.equal(masked[1], masked[2])


@pytest.mark.parametrize("specaug", ["shared", "independent"])
def test_masks_are_shared_and_those_of_stock_training(recipe: Recipe, specaug: str) -> None:
    conf = {**WIDE, "apply_time_warp": True}
    mutual = {"criteria": {"att": ATT}, "specaug": specaug, "peers": 3}
    model, stock = build(recipe, mutual=mutual, specaug_conf=conf), build(recipe, specaug_conf=conf)
    seen: list[Tensor] = []
    for peer in (stock, model, *model.kd_peers.values()):
        peer.specaug.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    for _ in range(3):  # in every order of the peers
        seen.clear()
        after = []
        for one in (stock, model):
            torch.manual_seed(5)
            one(**batch())
            after.append(torch.rand(1))
        assert torch.equal(*after), "peers must not draw from the common stream"
        equal = sum(torch.equal(seen[0], masked) for masked in seen[1:])
        assert equal == (3 if specaug == "shared" else 1)


def test_peers_of_different_architecture(recipe: Recipe) -> None:
    """Whole files and single changes; dropout of the peers is their own."""
    config = recipe.root / "large.yaml"
    config.write_text("{encoder: transformer, encoder_conf: {output_size: 32, num_blocks: 2}}")
    peers = [
        {"config": "large.yaml", "seed": 9, "encoder_conf": {"linear_units": 24}},
        {"decoder_conf": {"num_blocks": 2}},
    ]
    model = build(recipe, mutual={**MUTUAL, "peers": peers})
    large, deep = model.kd_peers.values()
    assert len(large.encoder.encoders) == 2 and large.encoder.encoders[0].feed_forward.w_1.out_features == 24
    assert type(large.encoder).__name__ == "TransformerEncoder" and large.encoder.output_size() == 32
    assert len(deep.decoder.decoders) == 2 and len(deep.encoder.encoders) == 1
    assert all(value > 0 for name, value in model(**batch())[1].items() if name.startswith("loss_kd"))


@pytest.mark.parametrize(
    ("mutual", "message"),
    [
        ({}, "criteria is missing"),
        ({"criteria": {"att": ATT}, "peer": 3}, "unknown key peer; known: peers, weight, criteria"),
        ({"criteria": {"a": ATT, "a_peer2": CTC}}, "criterion a_peer2: statistics of peers have names"),
        ({"criteria": {"att": ATT}, "combine": "mix"}, "mutual: combine is 'mix'; "),
        ({"criteria": {"att": ATT}, "weight": 1.5}, "mutual: weight must stay between 0 and 1"),
        ({"criteria": {"att": ATT}, "weight": -1, "combine": "add"}, "mutual: weight: -1 is below 0"),
        ({**MUTUAL, "peers": 10**21}, "mutual: 1000000000000000000000 peers do not fit"),
        ({**MUTUAL, "peers": [{"seed": 2**32}]}, "peer 2: seed is 4294967296, not a whole number from 0 to"),
        ({"criteria": {"att": ATT}, "peers": 1}, "peers is 1: give their number, at least 2"),
        ({"criteria": {"att": ATT}, "peers": [{"frontend": "s3prl"}]}, "peer 2: unknown key frontend"),
        ({"criteria": {"att": ATT}, "peers": [{"encoder_conf": 3}]}, "peer 2: encoder_conf is 3, not a map"),
        ({"criteria": {"att": ATT}, "peers": [{"seed": 3}]}, "peers 1 and 2 start from the same weights"),
        ({"criteria": {"att": ATT}, "peers": [{"seed": 5}] * 2}, "peers 2 and 3 start from the same weights"),
        ({"criteria": {"c": {**ATT, "frames": "nonblank"}}}, "are for the frames of CTC, not for decoder"),
        ({"criteria": {"h": {**ATT, "type": "hidden"}}}, "peers compare logits at one tap"),
        ({**MUTUAL, "peers": [{"encoder_conf": {"input_layer": "conv2d2"}}]}, "criterion ctc: ctc.ctc_lo"),
        ({"criteria": {"ctc": {**CTC, "frame_rate": "resample"}}}, "`frame_rate: resample` is for teachers"),
        ({"criteria": "kl"}, "criteria: 'kl' is not a mapping"),
        ({"criteria": {"x": {**ATT, "tap": 3}}}, "criteria: x: give tap"),
        ({**MUTUAL, "peers": [{"seed": None}]}, "peer 2: seed is None, not a whole number"),
        ({**MUTUAL, "peers": [{"seed": 1.5}]}, "peer 2: seed is 1.5, not a whole number"),
        ({**MUTUAL, "peers": [{"encoder_conf": {"bloks": 2}}]}, "peer 2 cannot be built: "),
        ({"criteria": {"x": {**ATT, "tap": "decodr"}}}, "peer 1 has no layer 'decodr'"),
    ],
)  # fmt: skip
def test_refused_in_one_line(recipe: Recipe, mutual: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        build(recipe, mutual=mutual or {"weight": 0.5})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_weight": 0.0}, "task_weight and targets are for teachers"),
        ({"targets": "hard"}, "task_weight and targets are for teachers"),
        ({"init_param": ["model.pth"]}, "init_param and freeze_param would reach peer 1 alone"),
        ({"freeze_param": ["encoder"]}, "init_param and freeze_param would reach peer 1 alone"),
    ],
)
def test_options_that_peers_would_not_follow_are_refused(recipe: Recipe, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(recipe, mutual=MUTUAL, **options)


def test_a_teacher_beside_peers_is_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="peers learn from each other, not from a teacher"):
        build(recipe, mutual=MUTUAL, teacher={"exp": "exp/teacher"}, criteria={"ctc": CTC})
