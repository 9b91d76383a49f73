"""Students and peers of ESPnet's ASR task with `decoder: transducer`: the lattice beside the stock loss."""

import argparse
import sys
from pathlib import Path

import pytest
import torch
from recipe import KL, Recipe, model
from test_hybrid_teacher import BATCH, STANDINS
from test_transducer_task import losses

from espnet_kd.criteria import Transcript, build_criterion
from espnet_kd.errors import UserError
from espnet_kd.methods.distilled import Objective, distil
from espnet_kd.methods.transducer import distil_transducer
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.experiment import Experiment, load_experiment
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Taps

LATTICE = {"type": "transducer", "weight": 2.0, "normalize": "nodes"}
AT = "joint_network"


@pytest.fixture(autouse=True)
def _warprnnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, without which ESPnet builds no hybrid."""
    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.delitem(sys.modules, "warprnnt_pytorch", raising=False)


def hybrid(size: int) -> dict[str, object]:
    """Options of a small one."""
    return model(size, 1, "conformer") | {
        "decoder": "transducer",
        "decoder_conf": {"hidden_size": size},
        "joint_net_conf": {"joint_space_size": size},
        "model_conf": {"ctc_weight": 0.3},
        "best_model_criterion": [["valid", "loss_transducer", "min"]],
    }


def train(recipe: Recipe, out: str, size: int = 16, **changes: object) -> Path:
    return recipe.train(out, "hybrid", **hybrid(size) | changes)


@pytest.fixture(scope="module")
def teacher(recipe: Recipe) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STANDINS))
        exp = train(recipe, "exp/hybrid-teacher", 32)
    return {"exp": str(exp), "checkpoint": "valid.loss_transducer.ave.pth"}


def test_every_term_adds_up(recipe: Recipe, teacher: dict[str, str]) -> None:
    criteria = {"lattice": LATTICE, "ctc": {**KL, "weight": 0.5}}
    exp = train(recipe, "exp/hybrid", teacher=teacher, criteria=criteria)
    names = ("loss", "loss_task", "loss_kd_lattice", "loss_kd_ctc")
    for total, task, lattice, ctc in zip(*(losses(exp, name) for name in names), strict=True):
        assert lattice > 0 and ctc > 0
        assert total == pytest.approx(task + 2 * lattice + 0.5 * ctc, rel=1e-5)
    load_experiment(exp, teacher["checkpoint"])  # a stock experiment


def test_weight_zero_is_training_without_a_teacher_bit_for_bit(
    recipe: Recipe, teacher: dict[str, str]
) -> None:
    alone = train(recipe, "exp/hybrid-alone")
    zero = train(recipe, "exp/hybrid-zero", teacher=teacher, criteria={"lattice": {**LATTICE, "weight": 0}})
    assert losses(zero, "loss") == losses(alone, "loss") and min(losses(zero, "loss_kd_lattice")) > 0
    expected, found = (torch.load(e / "1epoch.pth", weights_only=True) for e in (alone, zero))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_peers_learn_from_each_other(recipe: Recipe) -> None:
    exp = train(recipe, "exp/hybrid-peers", mutual={"criteria": {"lattice": LATTICE}})
    for end in ("", "_peer2"):
        names = ("loss", "loss_transducer", "loss_ctc", "loss_kd_lattice")
        for total, rnnt, ctc, kd in zip(*(losses(exp, name + end) for name in names), strict=True):
            # the weight, 0.5, is interpolated with the loss that has a criterion alone
            assert kd > 0 and total == pytest.approx(0.5 * rnnt + 0.3 * ctc + 0.5 * 2 * kd, rel=1e-4)


def build(size: int) -> torch.nn.Module:
    from espnet2.tasks.asr import ASRTask
    from recipe import TOKENS

    torch.manual_seed(size)
    config = ASRTask.get_default_config() | hybrid(size) | {"token_list": list(TOKENS)}
    return ASRTask.build_model(argparse.Namespace(**config)).eval()


def parts(weight: float) -> tuple[torch.nn.Module, Objective]:
    """A student, and a method with a lattice term."""
    student, teacher = build(16), build(32).requires_grad_(False)
    online = OnlineTeacher([Experiment(teacher, Path("t"), Path("t.pth"))], [AT])
    term = Term("lattice", Schedule(weight, weight), AT, AT)
    return student, Objective(online, Taps(student, [AT]), (term,), Schedule(1.0, 1.0))


def test_the_value_is_that_of_the_two_lattices() -> None:
    student, method = parts(weight=3.0)
    criterion = build_criterion("transducer")
    both = [
        OnlineTeacher([Experiment(m, Path("m"), Path("m.pth"))], [AT]).targets(*BATCH)[AT]
        for m in (student, method.teacher.experiments[0].model)
    ]
    expected = criterion(both[0].values, both[1].values, Transcript(BATCH[2], both[0].lengths, BATCH[3]))
    with torch.no_grad():
        alone, _, _ = student(*(x.clone() for x in BATCH))
    loss, stats, _ = distil_transducer(student, method, {"lattice": criterion})(*(x.clone() for x in BATCH))
    torch.testing.assert_close(stats["loss_kd_lattice"][0], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss, alone + 3 * expected, rtol=1e-5, atol=0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_a_criterion_that_does_not_run_is_an_error_at_the_first_batch() -> None:
    student, method = parts(weight=1.0)
    student = distil(student, method, {"lattice": build_criterion("transducer")})  # as for other models
    with pytest.raises(UserError, match="criterion lattice is configured, but the student's training does"):
        student(*(x.clone() for x in BATCH))


def test_the_prediction_network_has_no_tap(recipe: Recipe, teacher: dict[str, str]) -> None:
    where = "tap 'decoder' of the student is in a transducer's prediction network: use `type: transducer`"
    criteria = {"att": {**KL, "tap": "decoder"}}
    with pytest.raises(UserError, match=where):
        train(recipe, "exp/refused", teacher=teacher, criteria=criteria)
    with pytest.raises(UserError, match=where.replace("the student", "peer 1")):
        train(recipe, "exp/refused", mutual={"criteria": criteria})
    with pytest.raises(UserError, match=where.replace("the student", "the teacher")):
        Taps(build(16), ["decoder"], "the teacher")


def test_without_the_package_the_way_out_is_named(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(STANDINS)])
    monkeypatch.delitem(sys.modules, "warprnnt_pytorch", raising=False)
    monkeypatch.setattr("espnet_kd.teachers.experiment.STAND_INS", STANDINS / "nowhere")
    with pytest.raises(UserError, match="the student has .* imports warprnnt_pytorch: install it, or set"):
        train(recipe, "exp/refused")


def test_a_lattice_of_several_blanks_is_refused() -> None:
    student = build(16)
    student.transducer_multi_blank_durations = [2, 4]
    with pytest.raises(UserError, match="the student has blanks of several durations"):
        Taps(student, [AT], "the student")
