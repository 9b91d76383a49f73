"""Training on several views of each utterance: what is compared, and what stays as in stock training."""

import contextlib
import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recipe import KL, MODELS, Recipe
from test_mutual import STILL, WIDE, batch, build
from test_transducer_task import losses
from torch import Tensor, nn

from espnet_kd.criteria import TopClasses, build_criterion
from espnet_kd.errors import UserError
from espnet_kd.methods.consistency_model import Agreement, Consistency, repeated_targets
from espnet_kd.rnnt import CollapsedTargets, Joint, OneBestTargets
from espnet_kd.rnnt.alignment import Alignment
from espnet_kd.rnnt.device import HostCopy
from espnet_kd.schedule import Schedule
from espnet_kd.teachers import short
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Targets

CTC = {"type": "kl", "tap": "ctc.ctc_lo", "weight": 0.2}
ATT = {"type": "kl", "tap": "decoder", "weight": 0.5}
VIEWS = {"criteria": {"ctc": CTC, "att": ATT}}
MASKS = {**WIDE, "num_time_mask": 2}


def consistent(recipe: Recipe, consistency: dict[str, Any] | None = None, **changes: Any) -> nn.Module:
    conf = {part: {**MODELS["student"][part], **still} for part, still in STILL.items()}
    changes = {"specaug_conf": MASKS} | conf | changes
    return sharpened(build(recipe, consistency=consistency or VIEWS, **changes))


def sharpened(model: nn.Module) -> nn.Module:
    """Multiply the logits: those of a model that knows nothing are nearly the same in all views."""
    for layer in (model.ctc.ctc_lo, model.decoder.output_layer):
        layer.weight.data *= 20.0
    return model


def watched(model: nn.Module, path: str) -> list[Tensor]:
    """The outputs of a layer in the passes that follow."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    model.get_submodule(path).register_forward_hook(keep)
    return seen


def kl(target: Tensor, student: Tensor) -> Tensor:
    """Sum over the V classes of each position, (P, V) logits."""
    p, q = target.detach().log_softmax(-1), student.log_softmax(-1)
    return (p.exp() * (p - q)).sum()


@pytest.mark.parametrize("views", [2, 3])
def test_the_loss_is_that_of_the_paper(recipe: Recipe, views: int) -> None:
    """Mean of the task over views; half of KL both ways, each with a constant target, of every pair."""
    model = consistent(recipe, {**VIEWS, "views": views})
    ctc, att = (watched(model, path) for path in ("ctc.ctc_lo", "decoder"))
    torch.manual_seed(0)
    loss, stats, weight = model(**batch())
    assert weight == len(ctc[0]) == 2 * views
    real = {"ctc": (ctc[0], [24, 18]), "att": (att[0], [4, 3])}
    terms = {}
    for name, (logits, counts) in real.items():
        of = logits.unflatten(0, (2, views)).transpose(0, 1)
        pairs = [(a, b) for a in range(views) for b in range(views) if a != b]
        each = [kl(of[a, u, :n], of[b, u, :n]) for a, b in pairs for u, n in enumerate(counts)]
        terms[name] = sum(each) / len(pairs) / 2
        torch.testing.assert_close(stats[f"loss_consistency_{name}"][0], terms[name].detach())
        assert terms[name] > 1e-4
    expected = stats["loss_task"] + 0.2 * terms["ctc"] + 0.5 * terms["att"]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert stats["loss"] == loss.detach()


def test_a_value_and_a_gradient_by_hand() -> None:
    """Posteriors (1/2, 1/2) and (3/4, 1/4) of two views; the gradient by a view's logits is half of q - p."""
    x = torch.tensor([[[0.5, 0.5]], [[0.75, 0.25]]], dtype=torch.float64).log().requires_grad_()
    term = Term("ctc", Schedule(1.0, 1.0), "ctc.ctc_lo", "ctc.ctc_lo")
    taps = SimpleNamespace(get=lambda path, tokens: Targets(x, torch.tensor([1, 1])))
    model = Consistency()
    model.kd_agreement = Agreement(2, (term,), {"ctc": build_criterion("kl")}, taps)
    value = model._disagreement(term, HostCopy(torch.tensor([1, 1])))
    # 1/2 (1/2 ln 2/3 + 1/2 ln 2 + 3/4 ln 3/2 + 1/4 ln 1/2) = 1/8 ln 3
    assert value.item() == pytest.approx(math.log(3) / 8, rel=1e-12)
    (gradient,) = torch.autograd.grad(value, x)
    expected = torch.tensor([[[-1.0, 1.0]], [[1.0, -1.0]]], dtype=torch.float64) / 8
    torch.testing.assert_close(gradient, expected)


def test_nothing_flows_into_targets(recipe: Recipe) -> None:
    """The gradient by a view's CTC logits is (q - p) / (views B), p the posterior of the other view."""
    gradients, later = [], {"from": 0, "to": 1, "begin": 5, "steps": 1}  # 0 in the first step
    for weight in (1.0, later):
        model = consistent(recipe, {"criteria": {"ctc": {**CTC, "weight": weight}}})
        seen = watched(model, "ctc.ctc_lo")
        torch.manual_seed(0)
        loss, _, _ = model(**batch())
        gradients.append(torch.autograd.grad(loss.sum(), seen[0])[0])
    q = seen[0].detach().softmax(-1)
    expected = (q - q[[1, 0, 3, 2]]) / 4
    for i, frames in enumerate((24, 24, 18, 18)):
        expected[i, frames:] = 0
    torch.testing.assert_close(gradients[0] - gradients[1], expected, rtol=1e-3, atol=1e-6)


def test_the_task_is_averaged_over_views(recipe: Recipe) -> None:
    """Without masks the views are the batch, twice: its stock loss, and nothing to agree on."""
    none = {**MASKS, "freq_mask_width_range": [0, 1], "time_mask_width_range": [0, 1]}
    changes = {"specaug_conf": none, **{p: {**MODELS["student"][p], **c} for p, c in STILL.items()}}
    loss, stats, _ = consistent(recipe, **changes)(**batch())
    expected, stock, _ = sharpened(build(recipe, **changes))(**batch())
    torch.testing.assert_close(loss, expected)
    for name in ("loss_consistency_ctc", "loss_consistency_att"):
        assert abs(stats[name].item()) < 1e-5
    assert stats["acc"] == stock["acc"]


def test_time_is_warped_alike_in_all_views(recipe: Recipe) -> None:
    none = {"apply_time_mask": False, "freq_mask_width_range": [0, 1]}  # masks of no width
    warped = {"apply_time_warp": True, "time_warp_window": 20, **none}
    model = consistent(recipe, {**VIEWS, "time_mask_factor": 1}, specaug_conf=warped)
    seen, plain = watched(model, "specaug"), watched(model, "frontend")
    torch.manual_seed(0)
    stats = model(**batch())[1]
    first, second = seen[0][::2], seen[0][1::2]
    assert torch.equal(first, second) and not torch.equal(first, plain[0][::2])
    assert abs(stats["loss_consistency_ctc"].item()) < 1e-5


@pytest.mark.parametrize(("factor", "number"), [(2.5, 5), (1, 2), (0.1, 1), (1.25, 3)])
def test_time_masks_are_multiplied(recipe: Recipe, factor: float, number: int) -> None:
    model = consistent(recipe, {**VIEWS, "time_mask_factor": factor})
    assert model.specaug.time_mask.num_mask == number and model.specaug.freq_mask.num_mask == 2


def test_views_have_masks_of_their_own(recipe: Recipe) -> None:
    model = consistent(recipe)
    seen = watched(model, "specaug")
    torch.manual_seed(0)
    model(**batch())
    assert not torch.equal(seen[0][::2], seen[0][1::2])


def test_validation_is_that_of_the_stock_model(recipe: Recipe) -> None:
    off = {"criteria": {"ctc": {**CTC, "weight": 0}}}
    model, stock = consistent(recipe).eval(), consistent(recipe, off).eval()
    assert not hasattr(stock, "kd_step")
    loss, stats, weight = model(**batch())
    assert torch.equal(loss, stock(**batch())[0]) and weight == 2 and model.kd_step == 0
    assert torch.equal(stats["loss_task"], loss) and "loss_consistency_ctc" not in stats


def test_weight_zero_is_stock_training_bit_for_bit(recipe: Recipe) -> None:
    off = {"criteria": {"ctc": {**CTC, "weight": 0.0}}}
    runs = [recipe.train(f"exp/views-{i}", "student", **c) for i, c in enumerate(({}, {"consistency": off}))]
    assert losses(runs[0], "loss") == losses(runs[1], "loss")


def test_a_stock_model_is_trained_on_split_batches(recipe: Recipe) -> None:
    """8 utterances in batches of 4 are 2 steps; with two views 4 steps of 2, or 2 of all."""
    from espnet2.tasks.asr import ASRTask

    from espnet_kd.teachers.checkpoint import load_checkpoint

    steps = {}
    for split in (True, False):
        views = {**VIEWS, "split_batches": split}
        exp = recipe.train(f"exp/split-{split}", "student", consistency=views, specaug_conf=MASKS)
        steps[split] = load_checkpoint(exp / "checkpoint.pth")["reporter"]["stats"][1]["train"]["total_count"]
    assert steps == {True: 4, False: 2}
    with contextlib.chdir(recipe.root):
        stock, _ = ASRTask.build_model_from_file(exp / "config.yaml", exp / "1epoch.pth")
    found = torch.load(exp / "1epoch.pth", weights_only=True)
    assert found.keys() == stock.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in stock.state_dict().items())


def test_a_recurrent_encoder_gets_its_batch_sorted(recipe: Recipe) -> None:
    conf = {"rnn_type": "lstm", "num_layers": 1, "hidden_size": 16, "output_size": 16}
    views = {"criteria": {"ctc": CTC}}
    model = build(recipe, consistency=views, specaug_conf=MASKS, encoder="vgg_rnn", encoder_conf=conf)
    assert model(**batch())[1]["loss_consistency_ctc"] > 0


def test_an_utterance_with_too_few_frames_is_named(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(short, "warn_once", warnings.append)
    long = {**batch(), "text": torch.full((2, 20), 3), "text_lengths": torch.tensor([3, 20])}
    model = consistent(recipe, {"criteria": {"ctc": CTC}})
    with short.TrackedBatches([(["views-a", "views-b"], long)]).naming(model) as batches:
        for utterances, data in batches:
            model(utt_id=utterances, **data)
    assert [text.partition(":")[0] for text in warnings] == [
        "utterance views-b has 18 frames, and CTC needs 39 for its labels"
    ]


def test_a_weight_warms_up_by_batches(recipe: Recipe) -> None:
    ramp = {"schedule": "warmup", "to": 1.0, "steps": 2}
    model = consistent(recipe, {"criteria": {"ctc": {**CTC, "weight": ramp}}})
    for weight in (0.0, 0.5, 1.0):
        stats = model(**batch())[1]
        expected = stats["loss_task"] + weight * stats["loss_consistency_ctc"]
        torch.testing.assert_close(stats["loss"], expected)
    assert model.kd_step == 3


@pytest.mark.parametrize("after", [False, True])
def test_a_teacher_computes_one_view(recipe: Recipe, after: bool) -> None:
    """Unless its decoder reads the prefixes that the student has sampled for each."""
    criteria = {"ctc": KL, "att": {**KL, "tap": "decoder"}}
    model = consistent(
        recipe, {"criteria": {"ctc": CTC}}, teacher={"exp": "exp/teacher"}, criteria=criteria,
        **({"scheduled_sampling": {"probability": 0.5}} if after else {}),
    )  # fmt: skip
    (teacher,) = model.kd_objective.teacher.experiments
    seen = watched(teacher.model, "ctc.ctc_lo")
    ours = watched(model, "ctc.ctc_lo")
    loss, stats, _ = model(**batch())
    assert len(seen[0]) == (4 if after else 2) and len(ours[0]) == 4 and model.kd_step == 1
    targets = seen[0][::2] if after else seen[0]
    expected = sum(kl(targets[i // 2, :n], ours[0][i, :n]) for i, n in enumerate((24, 24, 18, 18))) / 4
    torch.testing.assert_close(stats["loss_kd_ctc"][0], expected.detach(), rtol=1e-4, atol=1e-5)
    total = stats["loss_task"] + stats["loss_kd_ctc"] + stats["loss_kd_att"]
    total = total + 0.2 * stats["loss_consistency_ctc"]
    torch.testing.assert_close(loss.detach(), total, rtol=1e-5, atol=1e-5)


def test_a_layer_that_views_alone_reach_is_trained_without_the_task(recipe: Recipe) -> None:
    hidden = {"encoder": {"type": "hidden", "tap": "encoder"}}
    taught = {"teacher": {"exp": "exp/teacher"}, "criteria": hidden, "task_weight": 0}
    taught |= {"best_model_criterion": [["valid", "cer_ctc", "min"]]}
    model = consistent(recipe, {"criteria": {"ctc": CTC}}, **taught)
    model(**batch())[0].sum().backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"encoder", "ctc", "kd_criteria"}  # and not the decoder
    assert all(p.grad.abs().sum() > 0 for p in model.ctc.parameters())


def test_autocast_gives_the_same_terms(recipe: Recipe) -> None:
    model, found = consistent(recipe), []
    for kind in (None, torch.bfloat16):
        torch.manual_seed(0)
        with torch.autocast("cpu", kind, enabled=kind is not None):
            loss, stats, _ = model(**batch())
        loss.sum().backward()
        assert stats["loss_consistency_ctc"].dtype == torch.float32
        found.append(stats["loss_consistency_ctc"])
    torch.testing.assert_close(found[0], found[1], rtol=0.2, atol=1e-3)


def test_what_cannot_be_compared_is_refused(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    sampling = {"scheduled_sampling": {"probability": 0.1}}
    own = {"prefix": {"student": 0.3}}
    masks = {**MASKS, "apply_time_mask": False}
    unmasked = {**masks, "apply_freq_mask": False, "apply_time_warp": True}
    unknown = {"criteria": {"c": {"type": "none", "tap": "ctc.ctc_lo"}}}
    delayed = {"criteria": {"c": {"type": "transducer", "delay": "auto"}}}
    for consistency, changes, message in [
        ({"views": 2}, {}, "consistency: criteria is missing"),
        ({"criteria": {"ctc": CTC}, "weight": 1}, {}, "consistency: weight belongs in each criterion"),
        ({**VIEWS, "views": 1}, {}, "consistency: views is 1: give a whole number from 2 to 8"),
        ({**VIEWS, "views": True}, {}, "consistency: views is True"),
        ({**VIEWS, "time_mask_factor": 0}, {}, "consistency: time_mask_factor is 0: give a number above 0"),
        ({**VIEWS, "split_batches": 1}, {}, "consistency: split_batches is 1: write true or false"),
        ({"criteria": {"e": {"type": "hidden", "tap": "encoder"}}}, {}, "views are compared by the logits"),
        ({"criteria": {"ctc": {**CTC, "frame_rate": "resample"}}}, {}, "all views have one frame rate"),
        (VIEWS, {"specaug": None}, "consistency: without SpecAugment all views are the same"),
        ({**VIEWS, "time_mask_factor": 1}, {"specaug_conf": unmasked}, "specaug_conf has no masks, and a"),
        (VIEWS, {"batch_size": 1}, "batch_size is 1, too small to be split for 2 views: give at least 2, or"),
        (unknown, {}, "consistency: criteria: c: unknown criterion 'none'"),
        (delayed, {}, "consistency: criterion c: all views are of one model, which emits at one time: leave"),
        (VIEWS, {"specaug_conf": masks}, "specaug_conf has no time masks that time_mask_factor could"),
        (VIEWS, sampling, "criterion att: with scheduled_sampling each view has a prefix of its own"),
        ({"criteria": {"a": {"type": "transducer"}}}, own, "criterion a: with prefix each view has a prefix"),
        (VIEWS, {"mutual": {"criteria": {"ctc": KL}}}, "it does not go with mutual learning"),
        (VIEWS, {"iterator_type": "none"}, "batches of `iterator_type: none` cannot be split"),
        ({"criteria": {"a": {**CTC, "tap": "ctc.x"}}}, {}, "the model has no layer 'ctc.x' to tap"),
        ({"criteria": {"a": {"type": "transducer"}}}, {}, "the model is no transducer"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            consistent(recipe, consistency, **changes)


def test_targets_of_every_kind_are_repeated() -> None:
    x, lengths = torch.randn(2, 3, 4), torch.tensor([3, 2])
    path = Alignment(torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0, 0], [0, 0]]), (2, 1))
    joint = Joint(x, x[:, :2], x[0], x[0, :, 0])
    for values in (
        x, TopClasses(x.long(), x), joint, CollapsedTargets(torch.randn(2, 3, 2, 3)),
        OneBestTargets(path, torch.zeros(2, 2, 1, dtype=torch.long), torch.zeros(2, 2, 1)),
    ):  # fmt: skip
        found = repeated_targets(Targets(values, lengths, ["a", "b"]), 2)
        assert found.lengths.tolist() == [3, 3, 2, 2] and found.utterances == ["a", "a", "b", "b"]
        assert type(found.values) is type(values)
        if isinstance(values, OneBestTargets):
            assert found.values.alignment.lengths == (2, 2, 1, 1) and len(found.values.tokens) == 4
        elif isinstance(values, Joint):
            assert found.values.shape == (4, 3, 2) and found.values.weight is values.weight
        else:
            assert len(found.values if isinstance(values, Tensor) else found.values.log_probs) == 4
