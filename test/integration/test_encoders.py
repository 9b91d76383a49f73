"""Encoders of ours train, decode by the stand-in for python3, and serve as teachers of one another."""

import contextlib
import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from fork_server import quick_python
from recipe import KL, Recipe

from espnet_kd import __main__ as cli

pytestmark = pytest.mark.slow(seconds=10)

JASPER = {
    "prologue": {"channels": 16, "kernel": 5, "stride": 4, "dropout": 0.1},
    "blocks": [{"channels": 16, "kernel": 5}, {"channels": 24, "kernel": 7}],
    "repeat": 2,
    "epilogue": [{"channels": 32, "kernel": 7, "dilation": 2}],
}
DEEPSPEECH2 = {
    "convolutions": [{"channels": 4, "kernel": [5, 11], "stride": [4, 2]}],
    "layers": 2,
    "hidden": 16,
}
CTC = {
    "decoder": None, "decoder_conf": {}, "model_conf": {"ctc_weight": 1.0},
    "best_model_criterion": [["valid", "cer_ctc", "min"]],
}  # fmt: skip
# The student's frames follow the teacher's hidden ones, most where the teacher emits.
CRITERIA = {
    "ctc": KL,
    "hidden": {
        "type": "hidden", "student_tap": "encoder.layers.1", "teacher_tap": "encoder.blocks.1",
        "frame_weights": "nonblank", "reduction": "utterance",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(recipe: Recipe) -> Path:
    """A CTC model with a convolutional encoder, after two steps."""
    return recipe.train("exp/jasper", "teacher", **CTC, encoder="jasper", encoder_conf=JASPER)


@pytest.fixture(scope="module")
def student(recipe: Recipe, teacher: Path) -> Path:
    """A CTC/attention model with a recurrent encoder, distilled from it."""
    return recipe.train(
        "exp/deepspeech2", "student", encoder="deepspeech2", encoder_conf=DEEPSPEECH2,
        teacher={"exp": "exp/jasper"}, criteria=CRITERIA,
    )  # fmt: skip


def decoding(exp: Path, model: str, ctc_weight: float) -> list[str]:
    """The words of stock decoding after ``python3``."""
    return [
        "-m", "espnet2.bin.asr_inference", "--asr_train_config", f"exp/{exp.name}/config.yaml",
        "--asr_model_file", f"exp/{exp.name}/{model}", "--output_dir", f"exp/{exp.name}/decoded",
        "--data_path_and_name_and_type", "dump/raw/dev/wav.scp,speech,sound", "--ngpu", "0",
        "--beam_size", "2", "--maxlenratio", "0.2", "--ctc_weight", str(ctc_weight),
    ]  # fmt: skip


def decoded(exp: Path) -> list[str]:
    """Keys of the hypotheses."""
    return [line.split()[0] for line in (exp / "decoded/1best_recog/text").read_text().splitlines()]


def test_a_convolutional_teacher_decodes(recipe: Recipe, teacher: Path) -> None:
    command = ("-m", "espnet_kd", *decoding(teacher, "valid.cer_ctc.ave.pth", 1.0))
    quick_python(*command, cwd=recipe.root, check=True)
    assert decoded(teacher) == ["dev-0", "dev-1", "dev-2"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_recurrent_student_decodes(recipe: Recipe, student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["espnet-kd"])
    with contextlib.chdir(recipe.root):
        cli.main(decoding(student, "valid.acc.ave.pth", 0.3))
    assert decoded(student) == ["dev-0", "dev-1", "dev-2"]


def test_a_convolutional_teacher_teaches_a_recurrent_student(student: Path) -> None:
    state = torch.load(student / "checkpoint.pth", weights_only=True)
    stats = state["reporter"]["stats"][1]["train"]
    total = stats["loss_task"] + stats["loss_kd_ctc"] + stats["loss_kd_hidden"]
    assert stats["loss"] == pytest.approx(total, rel=1e-5) and stats["loss_kd_hidden"] > 0


def test_a_recurrent_teacher_teaches_a_convolutional_student(recipe: Recipe, student: Path) -> None:
    mini = {**JASPER, "separable": True, "residual": "plain"}
    criteria = {
        "encoder": {**CRITERIA["hidden"], "student_tap": "encoder", "teacher_tap": "encoder.layers.0"}
    }
    exp = recipe.train(
        "exp/mini", "student", **CTC, encoder="jasper", encoder_conf=mini, teacher={"exp": str(student)},
        criteria=criteria,
    )  # fmt: skip
    assert (exp / "valid.cer_ctc.ave.pth").exists()


def test_a_conformer_teaches_a_recurrent_student(recipe: Recipe) -> None:
    exp = recipe.train(
        "exp/from-conformer", "student", **CTC, encoder="deepspeech2", encoder_conf=DEEPSPEECH2,
        teacher={"exp": "exp/teacher"}, criteria={"ctc": KL},
    )  # fmt: skip
    stats = torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["train"]
    assert stats["loss_kd_ctc"] > 0


def test_layers_are_listed(recipe: Recipe, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from espnet_kd.commands.inspect import main_layers

    main_layers([str(teacher)])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    # 1 s at a hop of 10 ms: 101 frames, by a stride of 4 one in 40 ms
    assert "encoder.prologue 26 frames x 16 25 per second" in lines
    assert "encoder.blocks.1 26 frames x 24 25 per second" in lines
    assert "ctc.ctc_lo 26 frames x 7 25 per second" in lines
    assert not any(line.startswith("encoder.blocks.1.layers.0") for line in lines)
    main_layers([str(recipe.root / "exp/teacher"), "--depth", "4"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "decoder 3 steps x 7 one per token and one for the end" in lines
    assert any(line.startswith("encoder.encoders.0.feed_forward ") for line in lines)


def test_rates_are_those_of_the_speech_that_a_model_hears(
    recipe: Recipe, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from espnet_kd.commands.inspect import main_layers

    exp = Path(shutil.copytree(teacher, recipe.root / "exp/telephone"))
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config["frontend_conf"]["fs"] = "8k"  # its hop is 20 ms then
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    main_layers([str(exp)])
    assert "12.5 per second" in capsys.readouterr().out


def test_the_task_module_alone_makes_the_encoders_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another GPU imports nothing else."""
    from espnet2.tasks.asr import encoder_choices

    import espnet_kd.tasks.asr as task
    from espnet_kd.encoders.register import ENCODERS

    stock = {name: c for name, c in encoder_choices.classes.items() if name not in ENCODERS}
    monkeypatch.setattr(encoder_choices, "classes", stock)
    monkeypatch.setattr(sys.modules["espnet_kd.tasks"], "asr", task)  # put back afterwards
    monkeypatch.delitem(sys.modules, task.__name__)
    assert "jasper" not in encoder_choices.choices()
    importlib.import_module(task.__name__)
    assert set(ENCODERS) <= set(encoder_choices.choices())


def test_a_wrong_layer_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="jasper: residual is 'dens'; known: dense, plain, none"):
        recipe.train(
            "exp/refused", "student", **CTC, encoder="jasper", encoder_conf={**JASPER, "residual": "dens"}
        )
