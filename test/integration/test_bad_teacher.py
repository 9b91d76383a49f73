"""What a user may get wrong with teachers and criteria, each with its one line."""

import contextlib
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from recipe import KL, MODELS, Recipe

from espnet_kd.errors import UserError
from espnet_kd.targets import command
from espnet_kd.teachers.experiment import load_experiment
from espnet_kd.teachers.online import OnlineTeacher


class Payload:
    """Would make a file if it were unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.fixture()
def broken(recipe: Recipe):
    """A copy of the teacher to spoil."""
    path = recipe.root / "exp" / "broken"
    shutil.copytree(recipe.root / "exp/teacher", path, symlinks=True)
    yield path
    shutil.rmtree(path)


def train(recipe: Recipe, exp: str = "exp/broken", **changes) -> str:
    """The message of the error that training ends with."""
    options = {"teacher": {"exp": exp}, "criteria": {"ctc": KL}, **changes}
    with pytest.raises(UserError) as error:
        recipe.train("exp/refused", "student", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def replace_model(directory: Path, content: bytes) -> None:
    (directory / "valid.acc.ave.pth").unlink()
    (directory / "valid.acc.ave.pth").write_bytes(content)


def change_config(directory: Path, **changes) -> None:
    config = yaml.safe_load((directory / "config.yaml").read_text())
    (directory / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))


def test_no_directory(recipe: Recipe) -> None:
    assert "exp/nowhere does not exist" in train(recipe, "exp/nowhere")


def test_no_teacher_named(recipe: Recipe) -> None:
    assert "exp is missing" in train(recipe, "")


def test_no_config(recipe: Recipe, broken: Path) -> None:
    (broken / "config.yaml").unlink()
    assert "config.yaml does not exist" in train(recipe)


def test_no_checkpoint(recipe: Recipe, broken: Path) -> None:
    (broken / "valid.acc.ave.pth").unlink()
    message = train(recipe)
    assert "has no valid.acc.ave.pth" in message and "1epoch.pth" in message


@pytest.mark.parametrize("part", [0, 100, 0.5])
def test_truncated_checkpoint(recipe: Recipe, broken: Path, part: float) -> None:
    whole = (broken / "1epoch.pth").read_bytes()
    replace_model(broken, whole[: int(len(whole) * part) if part < 1 else int(part)])
    message = train(recipe)
    assert "valid.acc.ave.pth" in message and ("truncated" in message or "damaged" in message)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_checkpoint_is_not_run(
    recipe: Recipe, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    if legacy:
        replace_model(broken, pickle.dumps({"a": Payload()}))
    else:
        torch.save({"a": Payload()}, tmp_path / "evil.pth")
        replace_model(broken, (tmp_path / "evil.pth").read_bytes())
    assert "holds code or damaged data" in train(recipe)
    assert not (recipe.root / "executed").exists()


def test_missing_and_unexpected_tensors(recipe: Recipe, broken: Path) -> None:
    state = torch.load(broken / "1epoch.pth", weights_only=True)
    del state["ctc.ctc_lo.bias"]
    torch.save(state, broken / "1epoch.pth")
    assert "lacks tensor ctc.ctc_lo.bias" in train(recipe)
    torch.save({**state, "ctc.ctc_lo.bias": torch.zeros(7), "extra": torch.zeros(1)}, broken / "1epoch.pth")
    assert "unexpected tensor extra" in train(recipe)
    torch.save({**state, "ctc.ctc_lo.bias": torch.zeros(3)}, broken / "1epoch.pth")
    assert "ctc.ctc_lo.bias is (3,)" in train(recipe)


def test_a_tensor_that_is_not_finite(recipe: Recipe, broken: Path) -> None:
    state = torch.load(broken / "1epoch.pth", weights_only=True)
    name = "encoder.encoders.1.feed_forward.w_2.weight"
    state[name][0, 0] = float("nan")
    torch.save(state, broken / "1epoch.pth")
    assert f"valid.acc.ave.pth: {name} has values that are not finite: its training diverged" in train(recipe)


def test_targets_that_are_not_finite(recipe: Recipe, broken: Path) -> None:
    """Of tensors that are; also of one member of an ensemble."""
    state = torch.load(broken / "1epoch.pth", weights_only=True)
    state["ctc.ctc_lo.weight"] = torch.full_like(state["ctc.ctc_lo.weight"], 3e38)
    torch.save(state, broken / "1epoch.pth")
    for teachers in ("exp/broken", ["exp/teacher", "exp/broken"]):
        message = train(recipe, teacher={"exp": teachers})
        assert message.startswith("teacher exp/broken gives values at ctc.ctc_lo that are not finite: its")


def test_the_first_batch_of_an_online_teacher_is_checked(recipe: Recipe) -> None:
    of = OnlineTeacher([load_experiment(recipe.root / "exp/teacher")], ["ctc.ctc_lo"])
    speech, lengths = torch.randn(2, 16000), torch.tensor([16000, 12000])
    speech[1, 100] = float("nan")
    batch = (speech, lengths, torch.tensor([[3], [4]]), torch.tensor([1, 1]))
    with pytest.raises(UserError, match="exp/teacher gives values at ctc.ctc_lo for utt-b that are not"):
        of.targets(*batch, ["utt-a", "utt-b"])
    speech[1, 100] = 0.0
    of.targets(*batch, ["utt-a", "utt-b"])


def test_another_sampling_rate(recipe: Recipe, broken: Path) -> None:
    conf = yaml.safe_load((broken / "config.yaml").read_text())["frontend_conf"]
    change_config(broken, frontend_conf={**conf, "fs": "8k"})
    message = train(recipe, teacher={"exp": ["exp/teacher", "exp/broken"]})
    assert "teacher exp/teacher takes speech at 16000 Hz, teacher exp/broken at 8000 Hz" in message


def test_other_tokens(recipe: Recipe, broken: Path) -> None:
    tokens = yaml.safe_load((broken / "config.yaml").read_text())["token_list"]
    change_config(broken, token_list=[*tokens[:4], "D", *tokens[5:]])
    message = train(recipe)
    assert "token 4 is 'B' for the student, 'D' for teacher exp/broken, and neither list contains" in message
    hidden = {"hid": {"type": "hidden", "tap": "encoder"}}
    copied = train(recipe, criteria=hidden, init_from_teacher={"ctc": True})
    assert "exp/broken: init_from_teacher: ctc needs the same" in copied


def test_other_frame_rate(recipe: Recipe) -> None:
    student = {**MODELS["student"]["encoder_conf"], "input_layer": "conv2d6"}
    message = train(recipe, "exp/teacher", encoder_conf=student)
    assert "criterion ctc: the student has 32 positions" in message and "the teacher 49" in message


@pytest.fixture()
def fast(recipe: Recipe) -> Iterator[Path]:
    """A model with 50 frames a second where the teacher has 25."""
    changes = {"frontend_conf": {**MODELS["teacher"]["frontend_conf"], "hop_length": 80}}
    yield recipe.train("exp/fast", "teacher", **changes)
    shutil.rmtree(recipe.root / "exp/fast")


def test_an_ensemble_of_other_frame_rates(recipe: Recipe, fast: Path) -> None:
    message = train(recipe, ["exp/teacher", "exp/fast"])
    assert message.startswith("teacher exp/teacher has 49 positions at ctc.ctc_lo, teacher exp/fast 99 for")
    with contextlib.chdir(recipe.root), pytest.raises(UserError, match="the mean needs one frame rate"):
        Path("kd.yaml").write_text(yaml.safe_dump({"criteria": {"ctc": KL}}))
        words = ["--config", "kd.yaml", "--store", "exp/refused_store", "--data", "dump/raw/dev"]
        command.main([*words, "--teacher", "exp/teacher", "exp/fast"])


def test_a_model_that_takes_features(recipe: Recipe, broken: Path) -> None:
    change_config(broken, input_size=80, frontend=None, frontend_conf={})
    state = torch.load(broken / "1epoch.pth", weights_only=True)
    del state["frontend.logmel.melmat"]
    torch.save(state, broken / "1epoch.pth")
    message = "the student takes waveforms, teacher exp/broken features of size 80 (input_size): both read"
    assert message in train(recipe)
    assert "the student takes features (input_size: 80): give the teacher itself" in train(
        recipe, teacher={"store": "exp/nowhere"}, input_size=80
    )


def test_models_that_prepare_the_same_speech_in_other_ways(recipe: Recipe, broken: Path) -> None:
    change_config(broken, speech_volume_normalize=0.5)
    message = train(recipe, ["exp/teacher", "exp/broken"])
    assert "exp/teacher has speech_volume_normalize: None, exp/broken 0.5, but both get the same" in message


def test_augmentation_that_moves_frames(recipe: Recipe) -> None:
    effects = [[0.5, "lowpass", {"cutoff_freq": 1000}], [0.5, [[1.0, "reverse", {}]]]]
    conf = {"fs": 16000, "data_aug_effects": effects, "data_aug_prob": 0.5}
    message = train(recipe, "exp/teacher", preprocessor_conf=conf)
    assert "criterion ctc compares frames, but reverse of the student's data_aug_effects moves" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder": "rnn", "decoder_conf": {"hidden_size": 16, "sampling_probability": 0.4}},
            "the decoder of the student reads its own predictions (sampling_probability: 0.4)",
        ),
        (
            {"model_conf": {**MODELS["student"]["model_conf"], "lang_token_id": 3}},
            "the decoder of the student reads the token of a language first (lang_token_id)",
        ),
    ],
)
def test_a_decoder_that_reads_another_prefix(recipe: Recipe, changes: dict, message: str) -> None:
    att = {**KL, "tap": "decoder"}
    assert f"criterion att: {message}" in train(recipe, "exp/teacher", criteria={"att": att}, **changes)
    with pytest.raises(UserError) as error:
        recipe.train("exp/refused", "student", mutual={"criteria": {"att": att}}, **changes)
    assert f"criterion att: {message.replace('the student', 'peer 1')}" in str(error.value)


def test_a_layer_that_is_left_out_of_some_steps(recipe: Recipe) -> None:
    conf = {**MODELS["student"]["encoder_conf"], "layer_drop_rate": 0.3}
    hidden = {"type": "hidden", "student_tap": "encoder.encoders.0", "teacher_tap": "encoder.encoders.1"}
    message = "'encoder.encoders.0' of the student is left out of some steps by `layer_drop_rate: 0.3`"
    assert message in train(recipe, "exp/teacher", criteria={"hid": hidden}, encoder_conf=conf)


def test_statistics_of_the_teacher_are_gone(recipe: Recipe, broken: Path) -> None:
    change_config(broken, normalize_conf={"stats_file": "gone/feats_stats.npz"})
    assert "gone/feats_stats.npz" in train(recipe)


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ({**KL, "tap": "ctc.ctc_l"}, "no layer 'ctc.ctc_l' to tap; near it: ctc.ctc_lo"),
        ({**KL, "tap": "encoder.embed.conv"}, "a tensor of shape"),
        ({**KL, "tap": "normalize"}, "positions where the model has"),
        ({**KL, "tap": "ctc.ctc_loss"}, "ctc.ctc_loss"),
        ({**KL, "student_tap": "encoder"}, "has 16 values at a position"),
        ({**KL, "type": "k1"}, "did you mean kl?"),
        ({**KL, "temprature": 2}, "no option temprature; did you mean temperature?"),
        ({**KL, "tap": "decoder", "delay": {"max": 2}}, "are for the frames of CTC, not for decoder"),
        ({**KL, "weight": "much"}, "neither a number"),
        ({**KL, "weight": -0.5}, "ctc.weight: -0.5 is below 0"),
        ({**KL, "weight": {"schedule": "linear", "to": 1}}, "needs from, to and steps"),
        (
            {**KL, "weight": {"schedule": "linaer", "from": 0, "to": 1, "steps": 5}},
            "unknown schedule 'linaer'",
        ),
        ({"type": "kl"}, "give tap"),
        ({"weight": 1.0}, "write `ctc: {type"),
        ({"type": "hidden", "tap": "encoder", "projection": "none"}, "ctc"),
    ],
)
def test_wrong_criterion(recipe: Recipe, criterion: dict, expected: str) -> None:
    assert expected in train(recipe, "exp/teacher", criteria={"ctc": criterion})


TOPK = {"type": "topk", "tap": "decoder", "k": 8}  # of 7 classes
RAMP = {"schedule": "linear", "from": 0, "to": 1, "steps": 0.5}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"task_weight": -1}, "task_weight: -1 is below 0"),
        ({"task_weight": RAMP}, "task_weight.steps: 0.5 is not a whole number of batches"),
        ({"teacher": {}, "criteria": {}, "task_weight": 0.5}, "task_weight is 0.5, but there are no"),
        ({"teacher": {}, "criteria": {}, "targets": "soft"}, "targets: soft chooses criteria"),
        ({"teacher": {}, "criteria": {}, "targets": "sfot"}, "targets: 'sfot' is none of auto, soft, hard"),
        ({"criteria": {"att": TOPK}}, "criteria: att: k is 8, but the model has 7 classes"),
        (
            {"teacher": {}, "criteria": {}, "mutual": {"criteria": {"att": TOPK}}},
            "mutual: criteria: att: k is 8, but the model has 7 classes",
        ),
        ({"teacher": {"exp": "exp/teacher", "k": 8}}, "teacher: k is 8, but the model has 7 classes"),
        ({"teacher": {"exp": "exp/teacher", "k": 3}}, "that a target store keeps, but there is no store"),
        ({"teacher": {"exp": "exp/teacher", "language": "deu"}}, "teacher is no OWSM, and reads no language"),
        ({"teacher": {"exp": "exp/teacher", "checkpoint": 5}}, "teacher: checkpoint is 5, not the name"),
    ],
)
def test_options_that_cannot_be_meant(recipe: Recipe, options: dict, expected: str) -> None:
    assert expected in train(recipe, "exp/teacher", **options)


def test_time_warp_with_frame_targets(recipe: Recipe) -> None:
    conf = {**MODELS["student"]["specaug_conf"], "apply_time_warp": True}
    assert "apply_time_warp: false" in train(recipe, "exp/teacher", specaug_conf=conf)


def test_unknown_teacher_key(recipe: Recipe) -> None:
    assert "unknown key ecp; known: exp, checkpoint, " in train(
        recipe, "x", teacher={"ecp": "exp/teacher"}
    )


def test_several_teachers_without_common_space(recipe: Recipe) -> None:
    two = {"exp": ["exp/teacher", "exp/teacher"]}
    assert "hidden space" in train(recipe, teacher=two, criteria={"h": {"type": "hidden", "tap": "encoder"}})
    for weights in ([1], ["1", "2"], [1, -1], [1, None], 3):
        assert "weights is" in train(recipe, teacher={**two, "weights": weights})


@pytest.mark.parametrize(
    "option",
    ["--prune={target: 0.5, end: 9}", "--quantise={begin: 2}", "--scheduled_sampling={probability: 0.2}"],
)
def test_methods_without_teacher_refuse_data_parallel(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from espnet_kd.tasks.asr import ASRDistillationTask as Task

    monkeypatch.setattr(Task, "build_stock", lambda args: SimpleNamespace(token_list=["<blank>", "a", "b"]))
    args = Task.get_parser().parse_args(["--output_dir", "exp", "--ngpu", "2", option])
    with pytest.raises(UserError, match="multiprocessing_distributed"):
        Task.build_model(args)


def test_data_parallel_is_refused() -> None:
    import argparse

    from espnet_kd.methods import refuse_data_parallel

    with pytest.raises(UserError, match="multiprocessing_distributed"):
        refuse_data_parallel(argparse.Namespace(ngpu=2, multiprocessing_distributed=False))
    refuse_data_parallel(argparse.Namespace(ngpu=2, multiprocessing_distributed=True))
    refuse_data_parallel(argparse.Namespace(ngpu=1, multiprocessing_distributed=False))
