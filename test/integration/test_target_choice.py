"""The choice between soft and hard targets, and what each makes of pseudo-labelled speech."""

import argparse
import logging
from pathlib import Path

import pytest
import torch
import yaml
from recipe import MODELS, RATE, TOKENS, Recipe, transducer

from espnet_kd.criteria import build_criterion
from espnet_kd.errors import UserError
from espnet_kd.methods.distillation import DistillationMethod, choose_targets, rule
from espnet_kd.methods.distilled import Objective
from espnet_kd.methods.transducer import distil_transducer
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.experiment import Experiment
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Taps

STREAMING = {"main_conf": {"dynamic_chunk_training": True}}


@pytest.mark.parametrize(
    ("student", "teacher", "choice", "reason"),
    [
        (transducer(16, 1), transducer(32, 2), "hard", "encoder_conf of student and teacher differ"),
        (transducer(16, 1), transducer(16, 1), "soft", "have one architecture"),
        ({"encoder_conf": {"dropout_rate": 0.1}}, {"encoder_conf": {"dropout_rate": 0.3}}, "soft", "one"),
        (
            {"encoder_conf": STREAMING},
            {"encoder_conf": {}},
            "hard",
            "the student streams, the teacher does not",
        ),
        ({"decoder": "rnn"}, {"decoder": "stateless"}, "hard", "decoder of student and teacher differ"),
        (
            {"encoder_conf": {"main_conf": {"dynamic_chunk_training": False}}},
            {"encoder_conf": {}},
            "soft",
            "one",
        ),
    ],
)
def test_the_rule(student: dict, teacher: dict, choice: str, reason: str) -> None:
    found, why = rule(student, teacher)
    assert found == choice and reason in why and "2210.05793" in why


def test_auto_becomes_the_choice_and_is_logged(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    teacher = {"exp": str(recipe.root / "exp/teacher")}
    args = argparse.Namespace(targets="auto", teacher=teacher, **MODELS["student"])
    with caplog.at_level(logging.INFO):
        assert choose_targets(args) == args.targets == "hard"
    assert "targets: hard: the task loss on transcripts and pseudo-labels" in caplog.text
    with pytest.raises(UserError, match="'softer' is none of auto, soft, hard, both"):
        DistillationMethod().check(argparse.Namespace(targets="softer"), classes=5)
    with pytest.raises(UserError, match="auto compares student and teacher: give"):
        choose_targets(argparse.Namespace(targets="auto", teacher={}))


def test_only_a_transducer_takes_pseudo_labels_as_paths(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(MODELS["student"] | {"token_list": list(TOKENS)}))
    (tmp_path / "shape").write_text("a 16000\npseudo-b 16000\n")
    student = MODELS["student"] | {
        "teacher": {"exp": str(tmp_path)},
        "train_shape_file": [str(tmp_path / "shape")],
    }
    assert choose_targets(argparse.Namespace(targets="auto", **student), lattice=True) == "soft"
    assert choose_targets(argparse.Namespace(targets="auto", **student), lattice=False) == "both"
    with pytest.raises(UserError, match="only transducers .* can: use both, or hard"):
        choose_targets(argparse.Namespace(targets="soft", **student), lattice=False)
    (tmp_path / "shape").write_text("a 16000\n")
    assert choose_targets(argparse.Namespace(targets="soft", **student), lattice=False) == "soft"


def test_hard_targets_need_no_teacher_in_training(recipe: Recipe) -> None:
    from espnet_kd.teachers.checkpoint import load_checkpoint

    kl = {"ctc": {"type": "kl", "weight": 1.0, "tap": "ctc.ctc_lo"}}
    exp = recipe.train("exp/hard", "student", teacher={"exp": "exp/teacher"}, criteria=kl, targets="hard")
    stats = load_checkpoint(exp / "checkpoint.pth")["reporter"]["stats"][1]["train"]
    assert not [name for name in stats if "kd" in name]


def build(name: str) -> torch.nn.Module:
    """A stock transducer with all auxiliary losses."""
    from espnet2.tasks.asr_transducer import ASRTransducerTask

    args = ASRTransducerTask.get_default_config() | MODELS[name] | {"token_list": list(TOKENS)}
    args["model_conf"] = args["model_conf"] | {"auxiliary_lm_loss_weight": 0.2}
    torch.manual_seed(0)
    model = ASRTransducerTask.build_model(argparse.Namespace(**args))
    model.specaug = None
    return model


@pytest.fixture(scope="module")
def soft() -> torch.nn.Module:
    """A transducer that learns from another by soft targets alone where texts are hypotheses; no dropout."""
    teacher, student = build("transducer_teacher").eval().requires_grad_(False), build("transducer_student")
    method = Objective(
        OnlineTeacher([Experiment(teacher, Path("t"), Path("t.pth"))], ["joint_network", "ctc_lin"]),
        Taps(student, ["joint_network", "ctc_lin"]),
        (
            Term("lattice", Schedule(0.5, 0.5), "joint_network", "joint_network"),
            Term("ctc", Schedule(2.0, 2.0), "ctc_lin", "ctc_lin"),
        ),
        Schedule(1.0, 1.0),
        soft_only=True,
    )
    criteria = {"lattice": build_criterion("transducer", reduction="utterance"), "ctc": build_criterion("kl")}
    distil_transducer(student, method, criteria)
    return student.eval()


def losses(model: torch.nn.Module, texts: list[list[int]], names: list[str]) -> dict[str, float]:
    """Statistics of a batch of utterances of one second."""
    speech = torch.randn(len(texts), RATE, generator=torch.Generator().manual_seed(1))
    batch = (speech, torch.full((len(texts),), RATE), torch.tensor(texts), torch.full((len(texts),), 2))
    loss, stats, _ = model(*batch, utt_id=names)
    model.zero_grad()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    return {name: float(value) for name, value in stats.items() if value is not None}


def test_the_task_loss_is_that_of_the_transcripts(soft: torch.nn.Module) -> None:
    """In a batch of two, of which one is a hypothesis, half of the other's loss alone; KL is of both."""
    both = losses(soft, [[3, 4], [4, 5]], ["a", "b"])
    mixed = losses(soft, [[3, 4], [4, 5]], ["a", "pseudo-b"])
    alone = losses(soft, [[3, 4]], ["a"])
    for name in ("loss_kd_lattice", "loss_kd_ctc"):
        assert mixed[name] == pytest.approx(both[name], rel=1e-5)
    for name in ("loss_transducer", "loss_aux_ctc", "loss_aux_lm"):
        assert mixed[name] == pytest.approx(alone[name] / 2, rel=1e-5)
    criteria = 0.5 * mixed["loss_kd_lattice"] + 2 * mixed["loss_kd_ctc"]
    assert mixed["loss"] == pytest.approx(mixed["loss_task"] + criteria, rel=1e-5)


def test_a_batch_of_hypotheses_alone_has_the_same_statistics(soft: torch.nn.Module) -> None:
    mixed = losses(soft, [[3, 4], [4, 5]], ["a", "pseudo-b"])
    only = losses(soft, [[3, 4], [4, 5]], ["pseudo-a", "pseudo-copy2-b"])
    assert only.keys() == mixed.keys() and only["loss_task"] == 0
    criteria = 0.5 * only["loss_kd_lattice"] + 2 * only["loss_kd_ctc"]
    assert only["loss"] == pytest.approx(criteria, rel=1e-6)


def test_a_model_that_cannot_leave_texts_out_refuses(recipe: Recipe) -> None:
    from espnet_kd.methods.distilled import Distillation

    with pytest.raises(UserError, match="only transducers .* can: use both, or hard"):
        Distillation()._set_transcribed(["a", "pseudo-b"])
    Distillation()._set_transcribed(["a", "b"])


def test_the_pruned_loss_of_k2_has_no_lattice() -> None:
    student = build("transducer_student")
    student.use_k2_pruned_loss = True
    with pytest.raises(UserError, match="does not go with `use_k2_pruned_loss`"):
        distil_transducer(student, None, {"lattice": build_criterion("transducer")})
