"""TutorNet's stages between models of other topology, front end and frame rate."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe import KL, RATE, Recipe, own_tensors
from test_encoders import CTC, DEEPSPEECH2, JASPER

from espnet_kd.errors import UserError
from espnet_kd.tasks.asr import ASRDistillationTask as Task

pytestmark = pytest.mark.slow(seconds=5)

HIDDEN = {"type": "hidden", "frame_weights": "nonblank", "reduction": "utterance"}
RKD = {**HIDDEN, "student_tap": "encoder.layers.1", "teacher_tap": "encoder.blocks.1"}
SKD = {"type": "softmax_l2", "tap": "ctc.ctc_lo", "reduction": "utterance"}
RECURRENT = {**CTC, "encoder": "deepspeech2", "encoder_conf": DEEPSPEECH2, "specaug": None}
BY_LOSS = {"best_model_criterion": [["valid", "loss", "min"]]}
# 50 frames a second of 160 bins; the teacher has 25 of 80 mel bands.
SPECTROGRAM = {
    **RECURRENT, "frontend": "spectrogram", "frontend_conf": {"fs": RATE},
    "encoder_conf": {**DEEPSPEECH2, "convolutions": [{"channels": 4, "kernel": [5, 11], "stride": [2, 2]}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(recipe: Recipe) -> str:
    """A CTC model with a convolutional encoder, after two steps."""
    recipe.train("exp/tutor", "teacher", **CTC, encoder="jasper", encoder_conf=JASPER)
    return "exp/tutor"


def train(recipe: Recipe, out: str, *words: str, text: bool = True, **config: Any) -> Path:
    """Train in this process, perhaps without transcripts; ``words`` come last on the command line."""
    options = recipe.training(out, "student", **config)
    pairs = [options[i : i + 2] for i in range(0, len(options), 2)]
    of_text = ("text,text", "text_shape")
    kept = [pair for pair in pairs if text or not any(word in pair[1] for word in of_text)]
    if "normalize" in config:
        kept = [pair for pair in kept if not pair[0].startswith("--normalize")]
    with contextlib.chdir(recipe.root):
        Task.main(cmd=[word for pair in kept for word in pair] + list(words))
    return recipe.root / out


def stats(exp: Path, phase: str = "train") -> dict[str, Any]:
    return torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1][phase]


@pytest.fixture(scope="module")
def represented(recipe: Recipe, teacher: str) -> Path:
    """A student after stage 1 on speech alone."""
    return train(
        recipe, "exp/stage1", text=False, **{**RECURRENT, **BY_LOSS},
        teacher={"exp": teacher}, criteria={"rkd": RKD}, task_weight=0.0,
    )  # fmt: skip


def test_stage_1_needs_no_transcripts(represented: Path) -> None:
    for phase in ("train", "valid"):
        found = stats(represented, phase)
        assert found["loss"] == pytest.approx(found["loss_kd_rkd"]) and found["loss"] > 0
        assert not {"loss_task", "loss_ctc", "cer_ctc"} & found.keys()
    assert (represented / "valid.loss.ave.pth").exists()


@pytest.mark.parametrize("task_weight", [0.0, {"from": 0.0, "to": 1.0, "begin": 10, "steps": 1}])
def test_what_stage_1_does_not_reach_stays(
    recipe: Recipe, teacher: str, represented: Path, task_weight: Any
) -> None:
    """Weight decay, which Adam divides by its own size, would make it vanish where the gradient is zero."""
    exp = train(
        recipe, "exp/decayed", text=task_weight != 0, **{**RECURRENT, **BY_LOSS}, teacher={"exp": teacher},
        criteria={"rkd": RKD}, task_weight=task_weight, optim_conf={"lr": 0.01, "weight_decay": 0.1},
        scheduler=None,
    )  # fmt: skip
    first, second = (torch.load(e / "1epoch.pth", weights_only=True) for e in (represented, exp))
    for name in ("ctc.ctc_lo.weight", "ctc.ctc_lo.bias"):
        assert torch.equal(first[name], second[name])
    learned = "encoder.layers.1.rnns.0.weight_hh_l0"
    assert not torch.equal(first[learned], second[learned])


def test_epochs_of_stage_1_are_not_chosen_by_what_it_does_not_train(
    recipe: Recipe, teacher: str, represented: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taught = {**RECURRENT, "teacher": {"exp": teacher}, "criteria": {"rkd": RKD}, "task_weight": 0.0}
    with pytest.raises(UserError, match=r"valid\.cer_ctc would choose epochs by chance, .* trains the ctc: "):
        train(recipe, "exp/chance", **taught)
    both = {"best_model_criterion": [["valid", "cer_ctc", "min"], ["valid", "loss", "min"]]}
    train(recipe, "exp/chance", "--dry_run", "true", **taught | both)
    assert "valid.cer_ctc would choose epochs by chance" in caplog.text
    caplog.clear()
    trained = str(represented / "valid.loss.ave.pth")
    train(recipe, "exp/chance", "--dry_run", "true", "--init_param", trained, **taught)
    assert "by chance" not in caplog.text


def test_stage_2_starts_from_the_student_of_stage_1(recipe: Recipe, teacher: str, represented: Path) -> None:
    exp = train(
        recipe, "exp/stage2", "--init_param", f"{represented}/valid.loss.ave.pth:::kd_", **RECURRENT,
        teacher={"exp": teacher}, criteria={"skd": SKD}, optim_conf={"lr": 0.0}, scheduler=None,
    )  # fmt: skip
    first, second = (torch.load(e / "1epoch.pth", weights_only=True) for e in (represented, exp))
    assert first.keys() == second.keys()
    assert "kd_criteria.rkd.projection.weight" in own_tensors(represented)
    assert own_tensors(exp) == {"kd_step": torch.tensor(2)}, "the step of its own schedules, from 0"
    for name in ("encoder.layers.1.rnns.0.weight_hh_l0", "ctc.ctc_lo.weight"):
        assert torch.equal(second[name], first[name])


def test_another_front_end_and_frame_rate(recipe: Recipe, teacher: str) -> None:
    criteria = {name: {**term, "frame_rate": "resample"} for name, term in (("rkd", RKD), ("skd", SKD))}
    exp = train(
        recipe, "exp/spectrogram", **SPECTROGRAM, normalize="utterance_mvn",
        teacher={"exp": teacher}, criteria=criteria,
    )  # fmt: skip
    state = torch.load(exp / "1epoch.pth", weights_only=True)
    assert state["encoder.convolutions.0.convolution.weight"].shape == (4, 1, 5, 11)
    found = stats(exp)
    assert found["loss"] == pytest.approx(
        found["loss_task"] + found["loss_kd_rkd"] + found["loss_kd_skd"], rel=1e-5
    )


def refusal(recipe: Recipe, teacher: str, *words: str, text: bool = True, **changes: Any) -> str:
    """The one line that a training ends with."""
    config = {**RECURRENT, "teacher": {"exp": teacher}, "criteria": {"rkd": RKD}, **changes}
    with pytest.raises(UserError) as error:
        train(recipe, "exp/refused", *words, text=text, **config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_frame_rate_alone_is_refused(recipe: Recipe, teacher: str) -> None:
    stride = {"encoder_conf": SPECTROGRAM["encoder_conf"]}
    message = refusal(recipe, teacher, **stride)
    assert "criterion rkd: the student has 101 positions at encoder.layers.1, the teacher 51" in message
    assert message.endswith("or `frame_rate: resample`")


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ({"teacher_tap": "encoder.block.1"}, "no layer 'encoder.block.1' to tap; near it: encoder.blocks.1"),
        ({"student_tap": "encoder.convolutions.0"}, "gives a tensor of shape (1, 51, 4, 40)"),
        ({"frame_rate": "resampled"}, "frame_rate is 'resampled'; known: equal, resample"),
        ({"teacher_tap": "decoder", "frame_rate": "resample"}, "is for frames, not for decoder"),
    ],
)
def test_a_wrong_tap_or_rate(recipe: Recipe, teacher: str, criterion: dict, expected: str) -> None:
    assert expected in refusal(recipe, teacher, criteria={"rkd": {**RKD, **criterion}})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "wav.scp comes without text, but task_weight is 1.0, not 0"),
        ({"task_weight": 0.0, "criteria": {"att": {**KL, "tap": "decoder"}}}, "att has the tap decoder"),
        ({"task_weight": 0.0, "criteria": {}}, "there are no criteria"),
        ({"collect_stats": True}, "statistics are collected"),
    ],
)
def test_where_transcripts_are_needed(recipe: Recipe, teacher: str, changes: dict, expected: str) -> None:
    assert expected in refusal(recipe, teacher, text=False, **changes)
