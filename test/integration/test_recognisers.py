"""Experiments as recognisers: the texts of stock ESPnet, whole and in chunks."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.asr_transducer.frontend.online_audio_processor import OnlineAudioProcessor
from recipe import MODELS, Recipe

from espnet_kd.commands import measure
from espnet_kd.errors import UserError
from espnet_kd.host.streaming import frames_of_processor, why_uneven
from espnet_kd.measure.experiment import ExperimentRecogniser, why_whole
from espnet_kd.measure.recogniser import DecodingOptions, chunks, load_recogniser

pytestmark = pytest.mark.slow(seconds=15)

SPEECH = np.random.default_rng(5).normal(0, 0.1, 29000).astype(np.float32)  # 1.8 s
TRANSDUCER = "valid.loss_transducer.ave.pth"


def load(exp: Path, words: str = "", **options: Any) -> ExperimentRecogniser:
    found = load_recogniser(exp, DecodingOptions(inference_args=words, **options))
    assert isinstance(found, ExperimentRecogniser)
    return found


def talkative(exp: Path, name: str) -> Path:
    """Make the weights of an experiment large, so that a training of one epoch has something to say."""
    state = torch.load(exp / name, weights_only=True)
    for key, value in state.items():
        if key.startswith(("decoder", "joint", "ctc")):
            value.mul_(3)
    torch.save(state, exp / name)
    return exp


@pytest.fixture(scope="module")
def transducer(recipe: Recipe) -> Path:
    """A transducer that was trained on chunks."""
    from espnet_kd.tasks.asr import TransducerDistillationTask

    encoder = MODELS["transducer_student"]["encoder_conf"]
    own_chunks = {"dynamic_chunk_training": True, "short_chunk_size": 4, "num_left_chunks": 2}
    main = {**encoder["main_conf"], **own_chunks}
    options = {"encoder_conf": {**encoder, "main_conf": main}}
    exp = recipe.train("exp/in_chunks", "transducer_student", TransducerDistillationTask, **options)
    return talkative(exp, TRANSDUCER)


@pytest.fixture(scope="module")
def blockwise(recipe: Recipe) -> Path:
    """A model with a contextual block encoder, distilled with a window for its delay."""
    conf = {
        "output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "block_size": 8,
        "hop_size": 4, "look_ahead": 4, "input_layer": "conv2d",
    }  # fmt: skip
    delayed = {"type": "kl", "tap": "ctc.ctc_lo", "delay": {"max": 2}, "frames": "symmetric"}
    exp = recipe.train(
        "exp/blockwise", "student", encoder="contextual_block_transformer", encoder_conf=conf,
        teacher={"exp": "exp/teacher"}, criteria={"ctc": delayed},
    )  # fmt: skip
    found = torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["train"]
    assert 0 < found["loss_kd_ctc"] < float("inf")
    return talkative(exp, "valid.acc.ave.pth")


def stock_files(exp: Path, checkpoint: str) -> dict[str, str]:
    return {"asr_train_config": str(exp / "config.yaml"), "asr_model_file": str(exp / checkpoint)}


def test_a_transducer_in_chunks_has_the_text_of_stock_espnet(recipe: Recipe, transducer: Path) -> None:
    from espnet2.bin.asr_transducer_inference import Speech2Text

    with contextlib.chdir(recipe.root):
        stock = Speech2Text(
            **stock_files(transducer, TRANSDUCER), beam_size=2, streaming=True, decoding_window=320
        )
    partial, size = [], 5120
    for samples, last in chunks(SPEECH, size):
        hypotheses = stock.streaming_decode(torch.tensor(samples), is_final=last)
        best = max(hypotheses, key=lambda h: h.score)  # ESPnet has the worst first, but for the last chunk
        partial.append(stock.hypotheses_to_results([best])[0][0])
    ours = load(transducer, "--beam_size 2 --decoding_window 320", stream=True)
    assert (ours.chunk, ours.rate, ours.whole) == (size, 16000, "") and partial[-1]
    stream = ours.stream()
    stream.accept(SPEECH[:size], last=False)  # an utterance that does not end
    stream = ours.stream()
    assert [stream.accept(samples, last) for samples, last in chunks(SPEECH, size)] == partial
    assert ours.decode(SPEECH) == partial[-1] and ours.decode(SPEECH[:0]) == ""
    by_option = load(transducer, "--beam_size 2 --decoding_window 320 --streaming true")
    assert by_option.chunk == size and by_option.decode(SPEECH) == partial[-1]


def test_a_block_encoder_in_chunks_has_the_text_of_stock_espnet(recipe: Recipe, blockwise: Path) -> None:
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

    with contextlib.chdir(recipe.root):
        stock = Speech2TextStreaming(**stock_files(blockwise, "valid.acc.ave.pth"), beam_size=2)
    size = 4 * 4 * 160  # frames of the hop, subsampling, samples of a frame
    texts = [stock(torch.tensor(samples), is_final=last) for samples, last in chunks(SPEECH, size)]
    ours = load(blockwise, "--beam_size 2", stream=True)
    assert ours.chunk == size and ours.decode(SPEECH) == texts[-1][0][0] != ""
    for samples in (1, 300, size, 5 * size):  # too short for the model, and nothing left over at the end
        assert isinstance(ours.decode(SPEECH[:samples]), str)
    assert ours.decode(SPEECH[:300]) == ""
    assert isinstance(load(blockwise, "--beam_size 20", stream=True).decode(SPEECH), str), "of 7 tokens"
    whole = load(blockwise, "--beam_size 2")
    assert whole.chunk == 0 and isinstance(whole.decode(SPEECH), str)


def test_what_whole_utterances_need_is_told(recipe: Recipe) -> None:
    teacher = load(recipe.root / "exp/teacher", "--beam_size 2", stream=True)
    assert teacher.chunk == 0 and teacher.whole == "has an encoder that needs the whole of it (conformer)"
    from espnet2.bin.asr_inference import Speech2Text

    with contextlib.chdir(recipe.root):
        stock = Speech2Text(**stock_files(recipe.root / "exp/teacher", "valid.acc.ave.pth"), beam_size=2)
    assert teacher.decode(SPEECH) == stock(SPEECH)[0][0]
    assert teacher.parameters == sum(p.numel() for p in stock.asr_model.parameters())
    assert teacher.decode(SPEECH[:10]) == "", "less than a window of the front end"
    counted = teacher.operations(SPEECH)
    assert counted.encoder and counted.total > counted.encoder
    assert [path.name for path in teacher.files] == ["valid.acc.ave.pth", "config.yaml", "feats_stats.npz"]


def test_a_beam_larger_than_the_tokens(recipe: Recipe) -> None:
    """Of 7 tokens the first step can keep 6; with the blank ESPnet's best hypothesis would have score 0."""
    teacher = recipe.root / "exp/teacher"
    found = load(teacher, "--ctc_weight 0.5 --beam_size 20").search("u", SPEECH, 0)
    assert found[0][3].score < -1
    text = load(teacher, "--ctc_weight 1.0 --beam_size 20").decode(SPEECH)
    assert text == load(teacher, "--ctc_weight 1.0 --beam_size 6").decode(SPEECH)


def test_files_of_a_language_model_count_and_quantised_products_are_unknown(recipe: Recipe) -> None:
    teacher = load(recipe.root / "exp/teacher", "--beam_size 2")
    options = {"lm_file": "lm.pth", "lm_train_config": "lm.yaml", "word_lm_file": None}
    teacher.setup = replace(teacher.setup, options=options)
    assert [path.name for path in teacher.files][-2:] == ["lm.yaml", "lm.pth"]
    for quantised in ("quantize_asr_model", "quantize_lm"):
        teacher.setup = replace(teacher.setup, options={quantised: True})
        assert teacher.operations(SPEECH) is None, "torch counts only what is not quantised"


@pytest.mark.parametrize(
    ("change", "asked", "reason"),
    [
        ({"joint_network_conf": {}}, False, "was not trained on chunks (dynamic_chunk_training)"),
        ({"joint_network_conf": {}}, True, ""),
        ({"encoder": "contextual_block_conformer"}, False, ""),
        ({"encoder": "e_branchformer"}, False, "has an encoder that needs the whole of it (e_branchformer)"),
        (
            {"encoder": "contextual_block_conformer", "speech_volume_normalize": 1.0},
            False,
            "normalises the volume of a whole utterance (speech_volume_normalize)",
        ),
    ],
)
def test_why_a_model_cannot_stream(change: dict[str, Any], asked: bool, reason: str) -> None:
    assert why_whole(change, asked) == reason


def shipped_front_ends() -> Iterator[tuple[str, dict[str, Any]]]:
    """The front ends of the recipes' students that are trained on chunks, with their options."""
    for path in sorted((Path(__file__).parents[2] / "egs").glob("*/kd1/conf/*.yaml")):
        config = yaml.safe_load(path.read_text())
        if ((config.get("encoder_conf") or {}).get("main_conf") or {}).get("dynamic_chunk_training"):
            yield config.get("frontend", "default"), config.get("frontend_conf") or {}


def test_sizes_of_features_that_do_not_fit_together_in_chunks_are_named() -> None:
    """ESPnet keeps 512 - 160 samples, of which it has two frames more, and trims two at either side."""
    from espnet2.asr.frontend.default import DefaultFrontend

    from espnet_kd.encoders.register import FRONTENDS

    def found(name: str, **conf: Any) -> str:
        front_end = {**FRONTENDS, "default": DefaultFrontend}[name](**conf)
        processor = OnlineAudioProcessor(front_end, None, 640, 4, conf, torch.device("cpu"))
        model = SimpleNamespace(_extract_feats=front_end)
        return why_uneven(model, processor.decoding_samples, frames_of_processor(processor))

    assert found("default") == found("default", n_fft=400, hop_length=160) == ""
    lost = r"leaves out 1 of the frames of features between two chunks of speech, .* such as n_fft 400"
    assert re.search(lost, found("default", n_fft=512, hop_length=160))
    assert re.search(lost, found("spectrogram")), "ESPnet takes its own hop where none is written"
    assert found("spectrogram", n_fft=320, hop_length=160) == ""
    shipped = [found(name, **conf) for name, conf in shipped_front_ends()]
    assert len(shipped) > 2 and not any(shipped)


def test_a_checkpoint_of_another_model_is_refused(recipe: Recipe, transducer: Path, tmp_path: Path) -> None:
    """ESPnet would decode with random weights."""
    state = torch.load(transducer / TRANSDUCER, weights_only=True)
    name = next(key for key in state if key.startswith("encoder"))
    other = transducer / "other.pth"
    torch.save({("renamed" if key == name else key): value for key, value in state.items()}, other)
    with pytest.raises(UserError, match=rf"other\.pth lacks tensor {name} .*does not belong to its config"):
        load(transducer, checkpoint="other.pth")
    torch.save({**state, "kd_ctc.weight": torch.zeros(3)}, other)  # of a checkpoint of distillation
    assert load(transducer, checkpoint="other.pth").decode(SPEECH) == load(transducer).decode(SPEECH)
    other.write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"other\.pth"):
        load(transducer, checkpoint="other.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 80}, "takes features instead of waveforms"),
        ({"preprocessor": "s2t"}, "is of the task s2t: use `espnet-kd evaluate-teacher` instead"),
    ],
)
def test_models_of_other_kinds_are_refused(
    recipe: Recipe, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = yaml.safe_load((recipe.root / "exp/teacher/config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | change))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.long
def test_teacher_and_student_are_measured(
    recipe: Recipe, transducer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = recipe.root / "exp/teacher"
    with contextlib.chdir(recipe.root):
        measure.main([
            str(teacher), str(transducer), "--data", "dump/raw/dev", "--rounds", "1", "--stream",
            "--inference_tag", "fast", "--inference_args", "--beam_size 2",
        ])  # fmt: skip
    found = [json.loads((exp / "fast/dev/measure.json").read_text()) for exp in (teacher, transducer)]
    assert [record["chunk_ms"] for record in found] == [None, 640]
    assert all(record["memory_mb"] > 200 and record["multiply_adds_per_s"] > 1e5 for record in found)
    assert found[0]["encoder_multiply_adds_per_s"] < found[0]["multiply_adds_per_s"]
    assert set(found[0]["machine"]["versions"]) == {"python", "torch", "espnet"}
    assert "| final text s |" in capsys.readouterr().out


def test_a_file_is_transcribed(
    transducer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from espnet_kd.commands import transcribe

    soundfile.write(tmp_path / "a.wav", SPEECH, 16000, "FLOAT")
    transcribe.main([str(transducer), str(tmp_path / "a.wav"), "--inference_args", "--beam_size 2"])
    out = capsys.readouterr().out
    assert out == load(transducer, "--beam_size 2", stream=True).decode(SPEECH) + "\n"
