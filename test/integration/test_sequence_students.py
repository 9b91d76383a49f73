"""Students that match the probability of the labels under teachers of other frame rates and kinds."""

import contextlib
import json
from typing import Any

import pytest
import torch
import yaml
from recipe import MODELS, Recipe
from test_transducer_task import CHECKPOINT, train
from torch import nn

from espnet_kd.decoding.records import DecodedUtterance, Hypothesis, to_json
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.methods.transducer import with_lattice_loss
from espnet_kd.targets import command
from espnet_kd.teachers.experiment import load_experiment
from espnet_kd.teachers.options import term_options

pytestmark = pytest.mark.slow(seconds=10)

LATTICE = {"type": "transducer", "kind": "sequence", "weight": 0.5}
CTC = {"type": "sequence", "tap": "ctc.ctc_lo", "weight": 0.5}
ENCODER = MODELS["transducer_student"]["encoder_conf"]
# Both have fewer frames than the teachers, which subsample by 4.
SLOWER = {"encoder_conf": {**ENCODER, "input_conf": {**ENCODER["input_conf"], "subsampling_factor": 6}}}
SLOWER_CTC = {"encoder_conf": {**MODELS["student"]["encoder_conf"], "input_layer": "conv2d6"}}


@pytest.fixture(scope="module")
def teachers(recipe: Recipe) -> dict[str, dict[str, str]]:
    lattice = {"exp": str(train(recipe, "exp/of-labels", "transducer_teacher")), "checkpoint": CHECKPOINT}
    return {"transducer": lattice, "ctc": {"exp": "exp/teacher"}}


def build(recipe: Recipe, name: str, **changes: Any) -> nn.Module:
    from espnet_kd.tasks.asr import ASRDistillationTask, TransducerDistillationTask

    task = TransducerDistillationTask if "transducer" in name else ASRDistillationTask
    with contextlib.chdir(recipe.root):
        args = task.get_parser().parse_args(recipe.training("exp/built", name, **changes))
        torch.manual_seed(3)
        return task.build_model(args).train()


def of_labels(recipe: Recipe, kind: str, options: dict[str, str], batch: dict[str, torch.Tensor]) -> float:
    """Compute -log P of the labels of one utterance under a teacher, as a stock model's own loss."""
    with contextlib.chdir(recipe.root), torch.no_grad():
        model = load_experiment(options["exp"], options.get("checkpoint")).model
        if kind == "transducer":
            return float(with_lattice_loss(model)(**batch)[1]["loss_transducer"])
        encoded, frames = model.encode(batch["speech"], batch["speech_lengths"])
        log_probs = model.ctc.log_softmax(encoded).transpose(0, 1)
        return float(
            nn.functional.ctc_loss(log_probs, batch["text"], frames, batch["text_lengths"], reduction="sum")
        )


@pytest.mark.parametrize(
    ("name", "kind", "criterion"),
    [
        ("transducer_student", "transducer", LATTICE),
        ("transducer_student", "ctc", {**LATTICE, "teacher_tap": "ctc.ctc_lo"}),
        ("student", "ctc", CTC),
        ("student", "transducer", {**CTC, "teacher_tap": "joint_network"}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_value_is_that_of_both_losses(recipe: Recipe, teachers, name, kind, criterion) -> None:
    """|log P_T - log P_S|, whatever the frame rates and kinds of models are; its gradient is the task's."""
    slower = SLOWER if "transducer" in name else SLOWER_CTC
    given = {"teacher": teachers[kind], "criteria": {"labels": criterion}, **slower}
    model, generator = build(recipe, name, **given), torch.Generator().manual_seed(1)
    one = {
        "speech": torch.randn(1, 16000, generator=generator), "speech_lengths": torch.tensor([16000]),
        "text": torch.tensor([[3, 4, 4]]), "text_lengths": torch.tensor([3]),
    }  # fmt: skip
    loss, stats, _ = model(**{key: x.clone() for key, x in one.items()})
    task = stats["loss_transducer" if "transducer" in name else "loss_ctc"].item()
    expected = abs(of_labels(recipe, kind, teachers[kind], one) - task)
    assert stats["loss_kd_labels"].item() == pytest.approx(expected, rel=1e-4) and expected > 1
    assert loss.item() == pytest.approx(stats["loss_task"].item() + 0.5 * expected, rel=1e-4)
    loss.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**CTC, "tap": "decoder"}, "criteria: a: decoder is no CTC layer of the student: give tap: ctc"),
        ({**CTC, "teacher_tap": "decoder"}, "criteria: a: probabilities of label sequences come from CTC"),
        ({**CTC, "frame_rate": "resample"}, "criteria: a: label sequences have no frames: leave out frame_"),
        ({**CTC, "tap": "joint_network"}, "criteria: a: the type sequence does not compare joint_network"),
        ({**LATTICE, "tap": "ctc_lin"}, "criteria: a: the type transducer does not compare ctc_lin of the"),
        ({**LATTICE, "delay": 1}, "criteria: a: criterion transducer: delay is 1, but kind: sequence"),
        ({**CTC, "distance": "l2"}, "criteria: a: criterion sequence: distance is 'l2'"),
    ],
    ids=str,
)  # fmt: skip
def test_refused_before_training(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        term_options({"a": options})[0].build()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_stored_probabilities_and_stored_lattices_give_the_same(recipe: Recipe, teachers) -> None:
    """As beside the teacher, one utterance at a time, as targets are written."""
    (recipe.root / "of-labels").mkdir()
    found = []
    for name in (None, "sequence", "full"):
        teacher = teachers["transducer"]
        if name is not None:
            store, config = f"of-labels/{name}", recipe.root / f"of-labels/{name}.yaml"
            criteria = {"a": {"type": "transducer", "kind": name}}
            config.write_text(yaml.safe_dump({"teacher": teacher, "criteria": criteria}))
            words = ["--config", str(config), "--store", store, "--workers", "1", "--number", "float32"]
            with contextlib.chdir(recipe.root):
                command.main([*words, "--data", "dump/raw/train", "dump/raw/dev"])
            teacher = {"store": store}
        given = {"teacher": teacher, "criteria": {"labels": LATTICE}, "batch_size": 1}
        exp = train(recipe, f"exp/of-labels-{name}", **given)
        stats = torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]
        found.append([stats[part]["loss_kd_labels"] for part in ("train", "valid")])
    assert found[1] == pytest.approx(found[0], rel=1e-4) and found[2] == pytest.approx(found[0], rel=1e-4)


def test_lattices_of_several_teachers_have_no_mean(recipe: Recipe, teachers) -> None:
    two = {**teachers["transducer"], "exp": [teachers["transducer"]["exp"]] * 2}
    with pytest.raises(UserError, match="the lattices of several teachers have no mean"):
        build(recipe, "transducer_student", teacher=two, criteria={"labels": LATTICE})


LISTS = {
    "nbest_tokens": torch.tensor([[[3, 4], [4, -1], [4, -1]], [[5, -1], [-1, -1], [-1, -1]]]),  # (B, L, H)
    "nbest_counts": torch.tensor([[3, 1], [1, 0]]),
    "nbest_scores": torch.tensor([[-1.0, -2.0], [-3.0, -torch.inf]]),
}


@pytest.mark.parametrize("name", ["student", "transducer_student"])
def test_posteriors_over_the_list_of_each_utterance(recipe: Recipe, name: str) -> None:
    """KL from the softmax of the scores to the student's; the second utterance has one hypothesis: 0."""
    tap = "joint_network" if "transducer" in name else "ctc.ctc_lo"
    model = build(recipe, name, nbest={"records": "-", "hypotheses": 2, "weight": 0.5, "tap": tap})
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.specaug = None
    generator = torch.Generator().manual_seed(1)
    data = {
        "speech": torch.randn(2, 16000, generator=generator), "speech_lengths": torch.tensor([16000, 12000]),
        "text": torch.tensor([[3, 4, 4], [5, -1, -1]]), "text_lengths": torch.tensor([3, 1]),
    }  # fmt: skip
    part = "loss_transducer" if "transducer" in name else "loss_ctc"
    loss, stats, _ = model(**data, **LISTS)
    # the student's own loss of each hypothesis, as that of a transcript; batch norm needs the same batch
    own = []
    for h in range(2):
        text = LISTS["nbest_tokens"][:, :, h].clone()
        text[1], lengths = torch.tensor([5, -1, -1]), torch.tensor([LISTS["nbest_counts"][0, h], 1])
        own.append(model(**{**data, "text": text, "text_lengths": lengths})[1][part].item())
    first = -2 * torch.tensor(own)  # both are means over two utterances, the second of which is the same
    p, log_q = torch.tensor([-1.0, -2.0]).softmax(0), first.log_softmax(0)
    expected = (p * (p.log() - log_q)).sum().item() / 2
    assert stats["loss_nbest"].item() == pytest.approx(expected, rel=1e-3) and expected > 1e-3
    assert loss.item() == pytest.approx(stats["loss_task"].item() + 0.5 * expected, rel=1e-3)
    loss.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert "loss_nbest" not in model.eval()(**data)[1]


def test_a_training_reads_lists_of_records(recipe: Recipe) -> None:
    texts = read_table(recipe.root / "dump/raw/train/text")
    samples = read_table(recipe.root / "stats/train/speech_shape")
    directory = recipe.root / "records"
    directory.mkdir()
    lines = (
        DecodedUtterance(
            utt, int(samples[utt]), 16000,
            tuple(Hypothesis(t, len(t), 0, s) for t, s in ((text, -1.0), ("A B", -1.5))),
        )
        for utt, text in sorted(texts.items())
    )
    (directory / "00001.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    (directory / "settings.json").write_text(json.dumps({"shards": 1}))
    nbest = {"records": "records", "hypotheses": 3, "weight": 0.5}
    exp = recipe.train("exp/nbest", "student", nbest=nbest)
    stats = torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["train"]
    assert stats["loss_nbest"] > 0
    assert stats["loss"] == pytest.approx(stats["loss_task"] + 0.5 * stats["loss_nbest"], rel=1e-4)
    saved = torch.load(exp / "1epoch.pth", weights_only=True)
    assert not [key for key in saved if "kd_" in key]


def test_a_layer_that_lists_alone_reach_is_trained(recipe: Recipe) -> None:
    """With a task of weight 0, what no loss reaches is frozen."""
    hidden = {"hid": {"type": "hidden", "tap": "encoder"}}
    given = {"teacher": {"exp": "exp/teacher"}, "criteria": hidden, "task_weight": 0.0}
    given |= {"best_model_criterion": [["valid", "loss", "min"]]}
    for nbest, trained in (({}, False), ({"records": "-"}, True)):
        model = build(recipe, "student", nbest=nbest, **given)
        assert model.ctc.ctc_lo.weight.requires_grad is trained
