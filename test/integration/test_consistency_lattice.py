"""Views of transducers, which are compared on their lattices."""

import contextlib
from typing import Any

import pytest
import torch
from recipe import MODELS, Recipe
from test_hybrid_student import LATTICE as OF_HYBRID
from test_hybrid_student import _warprnnt, hybrid  # noqa: F401  # the fixture is used in this module, too
from test_mutual import WIDE, batch
from test_transducer_task import CHECKPOINT, train
from torch import nn

from espnet_kd.errors import UserError
from espnet_kd.methods.consistency_model import ViewsInLoss
from espnet_kd.rnnt import Joint
from espnet_kd.teachers.experiment import load_experiment

MASKS = {**WIDE, "num_time_mask": 2}
LATTICE = {"type": "transducer", "kind": "full", "weight": 0.5}
AUXILIARY = {"type": "kl", "tap": "ctc_lin", "weight": 0.2}
VIEWS = {"criteria": {"lattice": LATTICE, "ctc": AUXILIARY}}


def build(recipe: Recipe, name: str = "transducer_student", **changes: Any) -> nn.Module:
    from espnet_kd.tasks.asr import ASRDistillationTask, TransducerDistillationTask

    task = ASRDistillationTask if name == "hybrid" else TransducerDistillationTask
    with contextlib.chdir(recipe.root):
        args = task.get_parser().parse_args(
            recipe.training("exp/built", name, **{"specaug_conf": MASKS, **changes})
        )
        torch.manual_seed(3)
        return task.build_model(args).train()


def divergence(joint: Joint, frames: list[int], rows: list[int]) -> torch.Tensor:
    """KL from every view to the other at the real nodes, summed; over the number of utterances and views."""
    nodes = torch.tanh(joint.enc[:, :, None] + joint.dec[:, None]) @ joint.weight.T + joint.bias
    logs = nodes.detach().log_softmax(-1)  # (2B, T, U, V)
    views, total = len(logs), torch.zeros(())
    for i in range(views):
        p, q = logs[i ^ 1], logs[i]  # of views 0 and 1, 2 and 3
        total = total + (p.exp() * (p - q)).sum(-1)[: frames[i], : rows[i]].sum()
    return total / views


def test_the_value_is_that_of_the_two_lattices(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = build(recipe, consistency=VIEWS), []
    take = model.take_lattice
    monkeypatch.setattr(model, "take_lattice", lambda: seen.append(take()) or seen[-1])
    loss, stats, _ = model(**batch())
    joint, transcript = seen[0]
    assert transcript.label_lens.tolist() == [3, 3, 2, 2] and model.kd_lattice_seen is None
    expected = divergence(joint, transcript.enc_lens.tolist(), [4, 4, 3, 3])
    assert expected > 1e-4
    torch.testing.assert_close(stats["loss_consistency_lattice"][0], expected, rtol=1e-3, atol=1e-5)
    total = stats["loss_task"] + 0.5 * expected + 0.2 * stats["loss_consistency_ctc"]
    torch.testing.assert_close(loss.detach(), total, rtol=1e-4, atol=1e-4)
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["full", "collapsed", "one_best"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"views": 3}, {"reduction": "sum"}, {"schedule": True}],
    ids=lambda c: "-".join(c) or "plain",
)
def test_terms_in_the_passes_of_the_loss_are_those_apart(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, kind: str, changes: dict[str, Any]
) -> None:
    """The same loss, statistics and gradients as with passes of its own, of two steps."""
    weight = {"from": 0.0, "to": 1.0, "begin": 0, "steps": 2} if changes.get("schedule") else 0.5
    lattice = {"type": "transducer", "kind": kind, "weight": weight, "reduction": changes.get("reduction")}
    lattice = {key: value for key, value in lattice.items() if value is not None}
    views = {"views": changes.get("views", 2), "criteria": {"lattice": lattice}}
    found = []
    for apart in (False, True):
        if apart:
            monkeypatch.delattr(ViewsInLoss, "_rnnt")
        model, results = build(recipe, consistency=views), []
        for _ in range(2):
            torch.manual_seed(0)
            loss, stats, _ = model(**batch())
            model.zero_grad()
            loss.sum().backward()
            results += [loss.detach(), *stats.values(), *(p.grad.clone() for p in model.parameters())]
        assert model.kd_in_loss is None and model.kd_lattice_seen is None
        found.append(results)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_with_the_auxiliary_layer_alone(recipe: Recipe) -> None:
    stats = build(recipe, consistency={"criteria": {"ctc": AUXILIARY}})(**batch())[1]
    expected = stats["loss_task"] + 0.2 * stats["loss_consistency_ctc"]
    torch.testing.assert_close(stats["loss"], expected)
    assert stats["loss_consistency_ctc"] > 0


def test_a_stock_experiment_comes_out(recipe: Recipe) -> None:
    exp = train(recipe, "exp/lattice-views", consistency=VIEWS, specaug_conf=MASKS)
    stock = load_experiment(exp, CHECKPOINT).model
    assert torch.load(exp / CHECKPOINT, weights_only=True).keys() == stock.state_dict().keys()


@pytest.fixture(scope="module")
def teacher(recipe: Recipe) -> dict[str, str]:
    return {"exp": str(train(recipe, "exp/views-teacher", "transducer_teacher")), "checkpoint": CHECKPOINT}


@pytest.mark.parametrize("kind", ["full", "collapsed", "one_best"])
def test_beside_a_teacher_of_the_lattice(recipe: Recipe, teacher: dict[str, str], kind: str) -> None:
    of_teacher = {"lattice": {"type": "transducer", "weight": 0.3, "kind": kind}}
    views = {"criteria": {"lattice": {**LATTICE, "kind": kind}}}
    model = build(recipe, consistency=views, teacher=teacher, criteria=of_teacher)
    loss, stats, _ = model(**batch())
    terms = 0.3 * stats["loss_kd_lattice"] + 0.5 * stats["loss_consistency_lattice"]
    torch.testing.assert_close(loss.detach(), stats["loss_task"] + terms, rtol=1e-4, atol=1e-4)
    assert stats["loss_kd_lattice"] > 0 and stats["loss_consistency_lattice"] > 0
    model.eval()(**batch())
    assert model.kd_lattice_seen is None


def test_a_hybrid(recipe: Recipe) -> None:
    views = {"criteria": {"lattice": OF_HYBRID}}
    model = build(recipe, "hybrid", **hybrid(16) | {"consistency": views, "specaug_conf": MASKS})
    stats = model(**batch())[1]
    expected = stats["loss_task"] + 2 * stats["loss_consistency_lattice"]
    torch.testing.assert_close(stats["loss"], expected)
    assert stats["loss_consistency_lattice"] > 0


def test_the_pruned_loss_has_no_lattice(recipe: Recipe) -> None:
    conf = {**MODELS["transducer_student"]["model_conf"], "use_k2_pruned_loss": True}
    with pytest.raises(UserError, match="a criterion on the lattice does not go with `use_k2_pruned_loss`"):
        build(recipe, consistency=VIEWS, model_conf=conf)
