"""A recipe of ESPnet3, unedited but for its YAML, trains distilled students; its own stages decode them."""

import argparse
import importlib.resources
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from espnet_kd.errors import UserError

pytestmark = pytest.mark.slow(seconds=20)
lightning = pytest.importorskip("lightning")
SPH2PIPE = """#!/usr/bin/env python3
import io, sys, soundfile
samples, rate = soundfile.read(sys.argv[-1], dtype="int16")
out = io.BytesIO()
soundfile.write(out, samples, rate, format="WAV")
sys.stdout.buffer.write(out.getvalue())
"""
CTC = "{ctc: {type: kl, tap: ctc.ctc_lo}, hidden: {type: hidden, tap: encoder.encoders.1}}"
LATTICE = "{lattice: {type: transducer, kind: collapsed, normalize: nodes}}"
ATTENTION, TRANSDUCER = "training_asr_transformer", "training_transducer_asr_conformer_rnnt"
Train = Callable[..., Path]


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    """ESPnet3 lowers the precision of products for the whole process."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of ESPnet3's recipe mini_an4, with its data prepared by its own stages."""
    from espnet3.systems.esp2_asr.system import ASRSystem
    from espnet3.systems.launch import launch

    directory = tmp_path_factory.mktemp("mini_an4")
    with importlib.resources.as_file(importlib.resources.files("egs3.mini_an4.esp2_asr")) as source:
        shutil.copytree(source, directory, dirs_exist_ok=True)
    program = directory / "bin/sph2pipe"
    program.parent.mkdir()
    program.write_text(SPH2PIPE.replace("/usr/bin/env python3", sys.executable))
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        patch.syspath_prepend(str(directory))
        config = "conf/training_asr_transformer.yaml"
        launch(ASRSystem, argv=["--stages", "create_dataset", "train_tokenizer", "--training_config", config])
    for part in ("train", "valid"):  # what collect_stats, which starts a cluster of Dask, would write
        shapes = directory / "exp/stats" / part / "feats_shape"
        shapes.parent.mkdir(parents=True)
        manifest = (directory / f"data/manifest/{part}.tsv").read_text().splitlines()
        shapes.write_text("".join(f"{n} 100,80\n" for n in range(len(manifest))))
    return directory


@pytest.fixture
def train(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Return a function that trains by a changed configuration of the recipe, and returns the directory."""
    from espnet3.systems.esp2_asr.system import ASRSystem
    from espnet3.systems.launch import launch

    monkeypatch.chdir(recipe)
    monkeypatch.syspath_prepend(str(recipe))

    def run(name: str, stock: str, lines: dict[str, str], model: str = "") -> Path:
        text = Path(f"conf/{stock}.yaml").read_text()
        for key, value in lines.items():
            text = re.sub(rf"^( *){key}: .*$", rf"\g<1>{key}: {value}", text, flags=re.M)
        text = text.replace("\nmodel:\n", f"\nmodel:\n{model}", 1)
        Path(f"conf/{name}.yaml").write_text(text)
        launch(ASRSystem, argv=["--stages", "train", "--training_config", f"conf/{name}.yaml"])
        return Path(f"exp/{name}")

    return run


def block(teacher: Path, checkpoint: str, criteria: str) -> str:
    return f"  teacher: {{exp: {teacher}, checkpoint: {checkpoint}}}\n  criteria: {criteria}\n"


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(checkpoint, weights_only=True)["state_dict"])


@pytest.fixture
def teacher(train: Train) -> Path:
    exp = Path(f"exp/{ATTENTION}")
    return exp if (exp / "last.ckpt").exists() else train(ATTENTION, ATTENTION, {})


def test_a_ctc_attention_student_learns_from_a_checkpoint_of_lightning(train: Train, teacher: Path) -> None:
    exp = train(
        "kd", ATTENTION, {"task": "espnet_kd.tasks.espnet3.ASRTask"}, model=block(teacher, "last.ckpt", CTC)
    )
    assert "loss_kd_ctc" in (exp / "train.log").read_text()
    student, stock = tensors_of(exp / "last.ckpt"), tensors_of(teacher / "last.ckpt")
    assert student.keys() == stock.keys()  # nothing of the teacher and of the criteria is in it
    assert any((student[name] != stock[name]).any() for name in stock)


def test_the_stages_of_espnet3_decode_the_student(train: Train, teacher: Path) -> None:
    from espnet2.bin.asr_inference import Speech2Text

    exp = Path("exp/kd")
    recogniser = Speech2Text(exp / "config.yaml", exp / "last.ckpt", beam_size=1, ctc_weight=0.3)
    assert isinstance(recogniser(torch.zeros(16000).numpy())[0][0], str)


def test_a_training_that_is_continued_is_the_same_as_one_without_a_break(train: Train, teacher: Path) -> None:
    """The regression of the hidden criterion and its state of the optimizer are in Lightning's checkpoint."""
    task = {"task": "espnet_kd.tasks.espnet3.ASRTask", "limit_train_batches": "2"}
    # Lightning does not save the states of random number generators.
    task |= {"dropout_rate": "0.0", "positional_dropout_rate": "0.0", "data_aug_prob": "0.0"}
    task |= {"init": "xavier_uniform\n\nseed: 1"}
    model = block(teacher, "last.ckpt", CTC)
    whole = train("whole", ATTENTION, {**task, "max_epochs": "2"}, model=model)
    train("broken", ATTENTION, task, model=model)
    lines = {**task, "max_epochs": "2", "strategy": "auto\n\nfit: {ckpt_path: exp/broken/last.ckpt}"}
    broken = train("broken", ATTENTION, lines, model=model)
    one, two = (torch.load(exp / "last.ckpt", weights_only=True) for exp in (whole, broken))
    assert one["global_step"] == two["global_step"] == 4
    own = [state["optimizer_states"][0]["espnet_kd"]["tensors"] for state in (one, two)]
    assert int(own[0]["kd_step"]) == 4 and any("hidden" in name for name in own[0])
    for left, right in ((one["state_dict"], two["state_dict"]), own):
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, msg=name)


def test_a_transducer_learns_from_a_transducer(train: Train, teacher: Path) -> None:
    task = {"task": "espnet_kd.tasks.espnet3.TransducerTask", "batch_size": "2"}
    other = train("rnnt", TRANSDUCER, task)
    exp = train("kd_rnnt", TRANSDUCER, task, model=block(other, "last.ckpt", LATTICE))
    assert "loss_kd_lattice" in (exp / "train.log").read_text()
    assert tensors_of(exp / "last.ckpt").keys() == tensors_of(other / "last.ckpt").keys()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "  teacher: {store: exp/targets}\n  criteria: {ctc: {type: kl, tap: ctc.ctc_lo}}\n",
            "teacher: store: ESPnet3",
        ),
        ("  mutual: {criteria: {ctc: {type: kl, tap: ctc.ctc_lo}}}\n", "mutual needs peers"),
        ("  share_per_batch: true\n", "share_per_batch needs batches"),
        (
            "  consistency: {criteria: {ctc: {type: kl, tap: ctc.ctc_lo}}}\n",
            "consistency: split_batches: ESPnet3 makes the batches itself",
        ),
        (
            "  teacher: {exp: exp/none}\n  criteria: {ctc: {type: kl, tap: ctc.ctc_lo}}\n  targets: soft\n",
            "targets: soft: pseudo-labels are left out of the task loss by the names of utterances",
        ),
        ("  init_param: [exp/kd/last.ckpt]\n", "model: init_param is an option of ESPnet2's trainer, which"),
        ("  init_from_techer: {ctc: true}\n", "model: unknown key init_from_techer; did you mean init_"),
        ("  consistency: [ctc]\n", r"consistency: \['ctc'\] is not a mapping"),
        (
            "  teacher: {exp: exp/none}\n  criteria: {ctc: {type: kl, tap: ctc.ctc_lo}}\n",
            "exp/none does not exist",
        ),
    ],
)
def test_what_espnet3_cannot_do_is_refused(train: Train, teacher: Path, model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train("refused", ATTENTION, {"task": "espnet_kd.tasks.espnet3.ASRTask"}, model=model)


def test_a_package_that_is_only_on_the_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would not know the callback, and criteria would start anew with every training."""
    from espnet_kd.tasks import espnet3

    monkeypatch.setattr(espnet3, "entry_points", lambda group: ())
    with pytest.raises(UserError, match="on the path, but not installed"):
        espnet3.ASRTask.build_model(argparse.Namespace(teacher={"exp": "exp/t"}, criteria={"ctc": {}}))


def test_a_stock_training_gets_the_callback_and_is_left_alone(teacher: Path) -> None:
    states = torch.load(teacher / "last.ckpt", weights_only=True)
    assert "espnet_kd" not in states["optimizer_states"][0]
