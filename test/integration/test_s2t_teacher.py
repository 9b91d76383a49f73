"""OWSM, a model of the task s2t or s2t_ctc, teaches a student whose tokens are a part of its own."""

import argparse
import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from espnet2.s2t.espnet_ctc_model import ESPnetS2TCTCModel
from recipe import KL, RATE, TOKENS, Recipe

from espnet_kd.commands import token_from
from espnet_kd.errors import UserError
from espnet_kd.targets import command
from espnet_kd.teachers.experiment import load_experiment
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.model import SpeechError
from espnet_kd.teachers.speech import speech_for

pytestmark = pytest.mark.slow(seconds=8)

SECONDS = 10
PROMPT = ["<eng>", "<asr>", "<notimestamps>"]
THEIRS = ["<blank>", "<unk>", "<na>", *PROMPT, "<deu>", "C", "B", "A", "<space>", "<0.00>",
          "<10.00>", "<sos>", "<eos>", "<sop>"]  # fmt: skip
SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
BATCH = (
    torch.randn(2, 2 * RATE, generator=torch.Generator().manual_seed(0)),
    torch.tensor([2 * RATE, RATE + 100]),
    torch.tensor([[9, 8, 9], [7, 9, -1]]),
    torch.tensor([3, 2]),
)


def write_experiment(directory: Path, task: Any, config: dict[str, Any]) -> Path:
    """Write a config.yaml, and a model of random weights."""
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = task.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), directory / "valid.acc.ave.pth")
    return directory


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of the task s2t with random weights."""
    from espnet2.tasks.s2t import S2TTask

    directory = tmp_path_factory.mktemp("exp") / "s2t"
    directory.mkdir()
    config = S2TTask.get_default_config() | {
        "token_list": THEIRS, "token_type": "char", "preprocessor": "s2t", "normalize": None,
        "preprocessor_conf": {
            "fs": RATE, "speech_length": SECONDS, "notime_symbol": "<notimestamps>",
            "first_time_symbol": "<0.00>", "last_time_symbol": "<10.00>", "speech_resolution": 0.02,
        },
        "encoder": "transformer", "encoder_conf": {**SIZES, "input_layer": "conv2d"},
        "decoder": "transformer", "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1},
        "frontend_conf": {"fs": RATE, "n_fft": 400, "hop_length": 160}, "specaug": None,
    }  # fmt: skip
    return write_experiment(directory, S2TTask, config)


@pytest.fixture(scope="module")
def without_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of the task s2t_ctc with random weights."""
    from espnet2.tasks.s2t_ctc import S2TTask

    directory = tmp_path_factory.mktemp("exp") / "s2t_ctc"
    directory.mkdir()
    small = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "linear_units": 32}
    config = S2TTask.get_default_config() | {
        "token_list": [*THEIRS, "<nolang>"], "token_type": "char", "preprocessor": "s2t_ctc",
        "normalize": None, "preprocessor_conf": {"fs": RATE, "speech_length": SECONDS},
        "encoder": "e_branchformer_ctc", "encoder_conf": {**small, "input_layer": "conv2d", "use_ffn": True},
        "promptencoder": "transformer", "promptencoder_conf": small,
        "frontend_conf": {"fs": RATE, "n_fft": 400, "hop_length": 160}, "specaug": None,
    }  # fmt: skip
    return write_experiment(directory, S2TTask, config)


def test_speech_for_figures_needs_no_text(exp: Path) -> None:
    samples = BATCH[0][1].numpy()
    assert (speech_for(load_experiment(exp), samples, RATE) == samples).all()


def test_speech_is_padded_and_the_text_follows_the_prompt(exp: Path) -> None:
    teacher = load_experiment(exp)
    with torch.no_grad():
        seen = teacher.observer(["ctc.ctc_lo", "decoder"])(*BATCH)
        model, second = teacher.model, BATCH[0][1:, : RATE + 100]
        whole = torch.nn.functional.pad(second, (0, SECONDS * RATE - second.shape[1]))
        encoded, lengths = model.encode(whole, torch.tensor([SECONDS * RATE]))
        prefix = torch.tensor([[THEIRS.index(t) for t in ("<sos>", *PROMPT, "C", "A")]])
        steps, _ = model.decoder(encoded, lengths, prefix, torch.tensor([6]))
    assert seen["decoder"].lengths.tolist() == [4, 3]
    torch.testing.assert_close(seen["decoder"].tensor[1, :3], steps[0, 3:], rtol=1e-4, atol=1e-5)
    frames = -(-(RATE + 100) * int(lengths) // (SECONDS * RATE))  # 25.15 of 249, rounded up
    assert seen["ctc.ctc_lo"].lengths.tolist()[1] == frames == 26
    expected = model.ctc.ctc_lo(encoded)[0, :frames]
    torch.testing.assert_close(seen["ctc.ctc_lo"].tensor[1, :frames], expected, rtol=1e-4, atol=1e-5)


def test_the_encoder_of_owsm_ctc_reads_the_prompt(without_decoder: Path) -> None:
    teacher = load_experiment(without_decoder)
    model, second, size = teacher.model, BATCH[0][1:, : RATE + 100], SECONDS * RATE
    with torch.no_grad():
        seen = teacher.observer(["ctc.ctc_lo", "encoder"])(*BATCH)
        whole = torch.nn.functional.pad(second, (0, size - second.shape[1]))
        na, prompt = (torch.tensor([[THEIRS.index(t) for t in names]]) for names in (["<na>"], PROMPT[:2]))
        encoded, lengths = ESPnetS2TCTCModel.encode(
            model, whole, torch.tensor([size]), na, torch.tensor([1]), prompt, torch.tensor([2])
        )
    speech = model.frames(encoded, prompt)
    frames = -(-(RATE + 100) * (int(lengths) - 2) // size)
    assert int(lengths) == speech.shape[1] + 2 and frames == 26
    assert [seen[tap].lengths.tolist()[1] for tap in seen] == [frames, frames]
    torch.testing.assert_close(seen["encoder"].tensor[1, :frames], speech[0, :frames], rtol=1e-4, atol=1e-5)
    expected = model.ctc.ctc_lo(speech)[0, :frames]
    torch.testing.assert_close(seen["ctc.ctc_lo"].tensor[1, :frames], expected, rtol=1e-4, atol=1e-5)
    german = load_experiment(without_decoder, prompt=("deu", "asr"))
    with torch.no_grad():
        other = german.observer(["encoder"])(*BATCH)["encoder"].tensor
    assert not torch.allclose(other[1, :frames], seen["encoder"].tensor[1, :frames], atol=1e-3)
    assert teacher.layers(2)["encoder"] == (teacher.layers(2)["ctc.ctc_lo"][0], 16)


def test_a_student_of_owsm_ctc(
    recipe: Recipe, without_decoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        recipe.train("exp/of_s2t_ctc", "student", teacher={"exp": str(without_decoder)}, criteria={"ctc": KL})
    assert f"7 of its {len(THEIRS) + 1} tokens are the student's" in caplog.text


def test_a_student_with_a_part_of_the_tokens(
    recipe: Recipe, exp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    criteria = {"ctc": KL, "att": {**KL, "tap": "decoder"}}
    with caplog.at_level("INFO"):
        recipe.train("exp/of_s2t", "student", teacher={"exp": str(exp)}, criteria=criteria)
    assert f"7 of its {len(THEIRS)} tokens are the student's, which has {len(TOKENS)}" in caplog.text


def test_sorted_distributions_of_a_teacher_of_another_case(recipe: Recipe, exp: Path, tmp_path: Path) -> None:
    """At the steps of the decoder, whose numbers of classes differ."""
    other = tmp_path / "lower"
    shutil.copytree(exp, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(
        yaml.safe_dump({**config, "token_list": [t.lower() if len(t) == 1 else t for t in THEIRS]})
    )
    uld = {"att": {**KL, "tap": "decoder", "type": "uld"}}
    recipe.train("exp/of_lower", "student", teacher={"exp": str(other)}, criteria=uld)
    with pytest.raises(
        UserError, match=r"neither list contains the other .* sorted distributions \(`type: uld`\)"
    ):
        recipe.train("exp/refused", "student", teacher={"exp": str(other)}, criteria={"ctc": KL})


def test_its_tokens_for_a_student(exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    token_from.main([str(exp), "--token_type", "char", "--out", str(tmp_path)])
    found = (tmp_path / "tokens.txt").read_text().split()
    assert found == ["<blank>", "<unk>", "C", "B", "A", "<space>", "<sos/eos>"]
    with pytest.raises(
        UserError, match="--token_type bpe: .*s2t has tokens of the type char: give it"
    ):
        token_from.main([str(exp), "--token_type", "bpe", "--out", str(tmp_path)])


def test_stored_posteriors_train_as_the_model_beside_the_student(recipe: Recipe, exp: Path) -> None:
    store, alone = recipe.root / "exp/s2t_targets", {"batch_size": 1, "criteria": {"ctc": KL}}
    with contextlib.chdir(recipe.root):
        Path("s2t.yaml").write_text(yaml.safe_dump({"criteria": {"ctc": KL}}))
        words = ["--config", "s2t.yaml", "--store", str(store), "--teacher", str(exp), "--workers", "1"]
        command.main([*words, "--number", "float32", "--data", "dump/raw/train", "dump/raw/dev"])
    online = recipe.train("exp/s2t_online", "student", teacher={"exp": str(exp)}, **alone)
    stored = recipe.train("exp/s2t_stored", "student", teacher={"store": str(store)}, **alone)
    ours, theirs = (torch.load(out / "1epoch.pth", weights_only=True) for out in (stored, online))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["exp", "without_decoder"])
def test_it_is_decoded_by_espnet(kind: str, request: pytest.FixtureRequest) -> None:
    (text, tokens, score), _ = load_experiment(request.getfixturevalue(kind)).transcribe(*BATCH[:2])
    assert tokens > 0 and score < 0 and "<" not in text


def test_what_is_refused(exp: Path) -> None:
    with pytest.raises(UserError, match="has no token <fra> for `language`; .*known: "):
        Source("exp", str(exp), (("language", "fra"),)).load()
    assert load_experiment(exp, prompt=("deu", "asr")).prompt[0] == THEIRS.index("<deu>")
    long = torch.zeros(1, SECONDS * RATE + 1)
    with pytest.raises(SpeechError, match="has 160001 samples, but teacher .* takes 160000 at most"):
        load_experiment(exp).observer(["encoder"])(long, torch.tensor([long.shape[1]]), *BATCH[2:])


def test_another_prompt_is_another_teacher(exp: Path) -> None:
    """A store of one language is not that of another."""
    german, default, english = (
        Source("exp", str(exp), prompt).fingerprint()
        for prompt in ((("language", "deu"),), (), (("language", "<eng>"), ("task", "asr")))
    )
    assert german != default == english
