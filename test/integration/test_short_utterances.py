"""Utterances that are too short for a model: the training names them."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from recipe import RATE, Recipe

from espnet_kd.errors import UserError
from espnet_kd.tasks.asr import ASRDistillationTask, TransducerDistillationTask
from espnet_kd.teachers import short
from espnet_kd.teachers.short import NoFramesError, TrackedBatches

TASKS = {"transducer_student": TransducerDistillationTask, "student": ASRDistillationTask}
WAV = "dump/raw/train/wav.scp"


def train(recipe: Recipe, samples: int, name: str, **changes: object) -> None:
    """Train with one utterance, train-5, of so many samples."""
    out = Path(f"short/{name}-{samples}-{changes['batch_size']}")
    with contextlib.chdir(recipe.root):
        Path("short").mkdir(exist_ok=True)
        soundfile.write("short/one.wav", 0.1 * np.ones(samples), RATE)
        lines = [line.split() for line in Path(WAV).read_text().splitlines()]
        table = "".join(f"{utt} {'short/one.wav' if utt == 'train-5' else file}\n" for utt, file in lines)
        Path("short/wav.scp").write_text(table)
        words = recipe.training(out, name, **changes)
        TASKS[name].main(cmd=[word.replace(WAV, "short/wav.scp") for word in words])


CASES = [
    ("transducer_student", 4, 700, "is too short: the model has no frame of it after"),
    ("transducer_student", 1, 700, "frames and is too short for subsampling (it needs more than"),
    ("student", 1, 700, "frames and is too short for subsampling (it needs more than"),
    ("student", 1, 10, "is too short: it has fewer samples than a window"),
]


@pytest.mark.parametrize(("name", "batch_size", "samples", "reason"), CASES)
def test_the_utterance_is_named(
    recipe: Recipe, name: str, batch_size: int, samples: int, reason: str
) -> None:
    with pytest.raises(UserError) as error:
        train(recipe, samples, name, batch_size=batch_size)
    message = str(error.value)
    assert message.startswith(f"utterance train-5, {samples} samples, ") and reason in message
    assert "leave it out" in message and "\n" not in message


def test_targets_name_the_file(recipe: Recipe, tmp_path: Path) -> None:
    from espnet_kd.targets import worker
    from espnet_kd.targets.format import TapFormat
    from espnet_kd.teachers.options import teacher_options

    wav = str(tmp_path / "one.wav")
    soundfile.write(wav, 0.1 * np.ones(700), RATE)
    teacher = teacher_options({"exp": str(recipe.root / "exp/teacher")})
    observer = worker.load(worker.spec(teacher, {"encoder": TapFormat("values", size=32)}, RATE, "cpu"))
    with pytest.raises(UserError, match=f"{wav} of a: the teacher cannot take it: has 5 frames and is too"):
        observer("a", wav, "A B")


def test_what_ctc_cannot_align_is_named(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(short, "warn_once", warnings.append)
    train(recipe, 3000, "student", batch_size=4)
    assert warnings and all(w.startswith("utterance train-5 has ") for w in warnings)


def test_a_blank_between_equal_labels_needs_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    from espnet2.asr.ctc import CTC

    warnings: list[str] = []
    monkeypatch.setattr(short, "warn_once", warnings.append)
    ctc, labels = CTC(5, 4), torch.tensor([[3, 3, 4], [3, 4, -1], [4, -1, -1]])
    batches = TrackedBatches([(["a", "b", "c"], {"speech_lengths": torch.tensor([9, 8, 7])})])
    with batches.naming(ctc):
        for _ in batches:
            ctc(torch.randn(3, 3, 4), torch.tensor([3, 2, 1]), labels, torch.tensor([3, 2, 1]))
    # a: 3 labels and a blank between the first two; b and c: as many frames as labels
    assert [w.split(",")[0] for w in warnings] == ["utterance a has 3 frames"] and "needs 4" in warnings[0]


def test_other_errors_pass() -> None:
    batches = TrackedBatches([(["a"], {"speech_lengths": torch.tensor([9])})])
    with pytest.raises(RuntimeError, match="out of memory"), batches.naming(torch.nn.Linear(1, 1)):
        list(batches)
        raise RuntimeError("out of memory")
    with pytest.raises(UserError, match="utterance a, 9 samples"), batches.naming(torch.nn.Linear(1, 1)):
        list(batches)
        raise NoFramesError("is too short")
