"""Emission delays: measured on tiny transducers, chosen for a criterion, and shown."""

import argparse
import contextlib
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from recipe import MODELS, Recipe

from espnet_kd.commands import delay
from espnet_kd.config import read_config
from espnet_kd.encoders.deepspeech2 import DeepSpeech2
from espnet_kd.encoders.jasper import Jasper
from espnet_kd.errors import UserError
from espnet_kd.methods.delay import (
    Delays,
    emissions,
    frame_milliseconds,
    in_chunks,
    measure,
    read,
    set_delays,
)
from espnet_kd.tasks.asr import TransducerDistillationTask
from espnet_kd.teachers.experiment import load_experiment
from espnet_kd.teachers.options import term_options

SMALL = {Jasper: {"blocks": []}, DeepSpeech2: {"layers": 1, "hidden": 4}}
CHECKPOINT = "valid.loss_transducer.ave.pth"


@pytest.fixture(scope="module")
def student(recipe: Recipe) -> Path:
    """A streaming transducer of one epoch."""
    encoder = MODELS["transducer_student"]["encoder_conf"]
    chunks = {"dynamic_chunk_training": True, "short_chunk_size": 4, "num_left_chunks": 2}
    conf = {**encoder, "main_conf": {**encoder["main_conf"], **chunks}}
    return recipe.train("exp/streaming", "transducer_student", TransducerDistillationTask, encoder_conf=conf)


def test_the_choice_is_the_median_and_never_early() -> None:
    delays = Delays()
    delays.frames.update({0: 2, 3: 5, 7: 1})
    assert delays.choice == 3
    assert delays.histogram(10)[1] == "  +3 frames:      5 ##########"
    early = Delays()
    early.frames.update([-4, -2])
    assert early.choice == 0 and Delays().choice == 0


def test_chunks_limit_what_is_seen(student: Path) -> None:
    """Without chunks the first frames know the end of the speech, in chunks they do not."""
    model = load_experiment(student).model
    speech = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    other = torch.cat([speech[:, :12000], speech[:, 12000:].flip(1) * 2], 1)
    length = torch.tensor([16000])
    with torch.no_grad(), in_chunks(model, (2, 1)):
        one, two = (model.encode(x, length)[0][:, :2] for x in (speech, other))
    with torch.no_grad():
        three, four = (model.encode(x, length)[0][:, :2] for x in (speech, other))
    assert torch.allclose(one, two, atol=1e-4) and not torch.allclose(three, four, atol=1e-4)


def test_a_model_is_not_late_after_itself(
    recipe: Recipe, student: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [
        "--teacher",
        str(student),
        "--student",
        str(student),
        "--data",
        str(recipe.root / "dump/raw/dev"),
    ]
    with contextlib.chdir(recipe.root):
        delay.main([*command, "--utterances", "2"])
    found = json.loads((student / "delay.json").read_text())
    assert (found["mean_ms"], found["median_ms"], found["p90_ms"], found["utterances"]) == (0, 0, 0, 2)
    assert found["teacher_model"] == found["model"] and list(found["model"].values())[0]
    assert found["frame_ms"] == 40 and found["chunk_ms"] is None  # hop of 10 ms, every fourth frame
    assert "emits +0 ms after streaming on average" in capsys.readouterr().out


def test_utterances_are_from_all_over_the_data(recipe: Recipe, student: Path) -> None:
    """The first ids are often one speaker's."""
    dev = recipe.root / "dump/raw/dev"
    data = [(str(dev / "wav.scp"), "speech", "sound"), (str(dev / "text"), "text", "text")]
    with contextlib.chdir(recipe.root):
        everything, few = (list(read(read_config(student / "config.yaml"), data, n)) for n in (1000, 2))
    assert len(everything) > 2 == len(few)
    expected = everything[0], everything[len(everything) // 2]
    assert all((one[0] == other[0]).all() for one, other in zip(few, expected, strict=True))


def test_speech_without_a_frame_has_no_delay_and_nan_is_an_error(student: Path) -> None:
    model, tokens = load_experiment(student).model, torch.tensor([3, 4]).numpy()
    speech = [(torch.zeros(samples).numpy(), tokens) for samples in (700, 16000)]
    assert measure(model, model, speech).utterances == 1
    torch.nn.init.constant_(model.joint_network.lin_out.bias, torch.nan)
    with pytest.raises(UserError, match="delay: the model computes NaN"):
        measure(model, model, speech)


def test_models_without_a_lattice_are_aligned_by_ctc(recipe: Recipe, student: Path) -> None:
    ctc, transducer = (load_experiment(exp).model for exp in (recipe.root / "exp/teacher", student))
    few, many = torch.tensor([3, 4, 4]).numpy(), torch.tensor([3, 4] * 30).numpy()
    found = measure(ctc, ctc, [(torch.randn(16000).numpy(), few), (torch.randn(16000).numpy(), many)])
    assert (found.frames, found.utterances) == ({0: 3}, 1), "60 labels do not fit a second"
    mixed = measure(transducer, ctc, [(torch.randn(16000).numpy(), few)])
    assert sum(mixed.frames.values()) == 3, "by the CTC layer of both"


def test_a_late_student_has_a_positive_delay(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late, early = (load_experiment(student).model for _ in range(2))
    monkeypatch.setattr(
        "espnet_kd.methods.delay.emissions", lambda model, *speech: [5, 9] if model is late else [2, 7]
    )
    found = measure(late, early, [(torch.zeros(9).numpy(), torch.tensor([3, 4]).numpy())])
    assert found.frames == {3: 1, 2: 1}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("token_list", ["<blank>", "<unk>", "z", "b", "c", "<space>", "<sos/eos>"], "have different token"),
        ("frontend_conf", {"fs": 16000, "n_fft": 400, "hop_length": 80}, "frames of 40 ms, .* of 20 ms"),
        ("frontend_conf", {"fs": 8000, "n_fft": 400, "hop_length": 80}, "at 16000 Hz, .* at 8000 Hz"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    recipe: Recipe, student: Path, key: str, value: object, message: str
) -> None:
    other = Path(shutil.copytree(student, recipe.root / f"exp/other_{key}", dirs_exist_ok=True))
    config = yaml.safe_load((other / "config.yaml").read_text()) | {key: value}
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["--teacher", str(other), "--student", str(student), "--data", "dump/raw/dev"]
    with contextlib.chdir(recipe.root), pytest.raises(UserError, match=message):
        delay.main(command)


def test_options_of_decoding_say_what_chunks_are_seen(recipe: Recipe, student: Path) -> None:
    options = "--beam_size 2 --streaming true --decoding_window 320 --left_context=16"
    command = ["--teacher", str(student), "--student", str(student), "--data", "dump/raw/dev"]
    with contextlib.chdir(recipe.root):
        delay.main([*command, "--utterances", "1", "--inference_args", options])
    assert json.loads((student / "delay.json").read_text())["chunk_ms"] == 320


def test_emissions_follow_the_text(student: Path) -> None:
    model = load_experiment(student).model
    frames = emissions(model, torch.randn(16000).numpy(), torch.tensor([3, 4, 5]).numpy())
    assert len(frames) == 3 and frames == sorted(frames)


def test_auto_is_settled_by_a_trained_student(
    recipe: Recipe, student: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = [("dump/raw/dev/wav.scp", "speech", "sound"), ("dump/raw/dev/text", "text", "text")]
    args = argparse.Namespace(delay_student=str(student), valid_data_path_and_name_and_type=data)
    terms = term_options({"lattice": {"type": "transducer", "delay": "auto"}})
    with contextlib.chdir(recipe.root), caplog.at_level(logging.INFO):
        set_delays(args, terms, load_experiment(student))
    assert type(terms[0].options["delay"]) is int and "labels in 3 utterances" in caplog.text
    terms[0].build()
    args.delay_student = None
    terms = term_options({"lattice": {"type": "transducer", "delay": "auto"}})
    with pytest.raises(UserError, match="delay: auto measures a trained student: train it without criteria"):
        set_delays(args, terms, load_experiment(student))
    with pytest.raises(
        UserError, match="delay: auto compares student and teacher, but targets come from a store"
    ):
        set_delays(args, terms, None)


def test_a_student_is_built_with_the_delay_that_was_measured(recipe: Recipe, student: Path) -> None:
    more = {
        "teacher": {"exp": str(student)},
        "criteria": {"lattice": {"type": "transducer", "delay": "auto"}},
        "delay_student": str(student),
    }
    with contextlib.chdir(recipe.root):
        words = recipe.training("exp/delayed", "transducer_student", **more)
        args = TransducerDistillationTask.get_parser().parse_args(words)
        model = TransducerDistillationTask.build_model(args)
    assert type(model.kd_criteria["lattice"].delay) is int


def test_student_and_teacher_may_have_chosen_their_models_differently(recipe: Recipe, student: Path) -> None:
    other = Path(shutil.copytree(student, recipe.root / "exp/chosen_otherwise"))
    (other / CHECKPOINT).rename(other / "valid.loss.ave.pth")
    data = [("dump/raw/dev/wav.scp", "speech", "sound"), ("dump/raw/dev/text", "text", "text")]
    args = argparse.Namespace(delay_student=str(other), valid_data_path_and_name_and_type=data)
    terms = term_options({"lattice": {"type": "transducer", "delay": "auto"}})
    with contextlib.chdir(recipe.root):
        set_delays(args, terms, load_experiment(student, CHECKPOINT))
    assert terms[0].options["delay"] == 0


@pytest.mark.parametrize(
    ("encoder_conf", "milliseconds"),
    [
        ({"input_conf": {"subsampling_factor": 6}}, 60),
        ({"input_layer": "conv2d"}, 40),
        ({"input_layer": "conv2d6"}, 60),
        ({}, 40),
    ],
)
def test_the_encoder_says_how_long_its_frames_are(encoder_conf: dict, milliseconds: float) -> None:
    config = {"frontend_conf": {"fs": "16k", "hop_length": 160}, "encoder_conf": encoder_conf}
    assert frame_milliseconds(config) == milliseconds


@pytest.mark.parametrize(("encoder", "milliseconds"), [(Jasper, 20), (DeepSpeech2, 20)])
def test_encoders_of_ours_say_so_too(encoder: type, milliseconds: float) -> None:
    model = argparse.Namespace(encoder=encoder(40, **SMALL[encoder]))
    config = {"frontend_conf": {"fs": "16k", "hop_length": 160}, "encoder_conf": {}}
    assert frame_milliseconds(config, model) == milliseconds
    frames = [int(model.encoder(torch.zeros(1, n, 40), torch.tensor([n]))[1]) for n in (100, 200)]
    assert frames[1] - frames[0] == 1000 / milliseconds
