"""Targets that are computed on a device, where no tensor may be mixed with those of the host."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from bench import transducer
from bench.device_step import CTC, DECODER, ENCODER, SIZE, teacher_of
from bench.speech_model import TOKENS, build
from bench.stand_in_device import DEVICE, counted, to_device
from espnet_kd.criteria.codebooks import CENTROIDS
from espnet_kd.targets import worker
from espnet_kd.targets.format import TapFormat, TargetRecord
from espnet_kd.targets.quantiser import Quantiser
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.taps import LATTICE

pytestmark = pytest.mark.slow(seconds=4)

V, WIDTH, RATE = len(TOKENS), SIZE.width, 16000
SAMPLES = (20000, 32000, 17000)
CASES: dict[str, tuple[Callable[[], Any], dict[str, TapFormat], int]] = {
    "classes": (lambda: build(SIZE), {CTC: TapFormat("topk", V, 4), DECODER: TapFormat("topk", V, 4)}, 1),
    "mean": (lambda: build(SIZE), {CTC: TapFormat("topk", V, 4), DECODER: TapFormat("topk", V, 4)}, 2),
    "vectors": (lambda: build(SIZE), {ENCODER: TapFormat("values", WIDTH)}, 1),
    "codes": (lambda: build(SIZE), {ENCODER: TapFormat("codes", 2)}, 1),
    "CTC scores": (lambda: build(SIZE), {CTC: TapFormat("score", V)}, 1),
    "paths, mean": (lambda: transducer.build(SIZE, V), {LATTICE: TapFormat("path", V, 4)}, 2),
    **{
        kind: (lambda: transducer.build(SIZE, V), {LATTICE: TapFormat(kind, size, k)}, 1)
        for kind, size, k in (("path", V, 4), ("collapsed", V, 0), ("score", V, 0), ("joint", 2 * WIDTH, 0))
    },
}


@pytest.fixture
def utterances(tmp_path: Path) -> list[tuple[str, tuple[str, str]]]:
    random = np.random.default_rng(0)
    found = []
    for i, samples in enumerate(SAMPLES):
        soundfile.write(tmp_path / f"{i}.wav", random.uniform(-0.5, 0.5, samples), RATE)
        text = " ".join(map(str, random.integers(2, V - 1, 4 + i)))
        found.append((f"u{i}", (str(tmp_path / f"{i}.wav"), text)))
    return found


@pytest.mark.parametrize("seconds", [0.0, 10.0], ids=["alone", "batch"])
@pytest.mark.parametrize("name", CASES)
def test_a_device_gives_what_the_cpu_gives(
    monkeypatch: pytest.MonkeyPatch, utterances: list[Any], name: str, seconds: float
) -> None:
    make, taps, count = CASES[name]
    monkeypatch.setattr(worker, "build_preprocess", lambda _: prepared)
    monkeypatch.setattr(OnlineTeacher, "_move", move)
    models = [make] * count
    monkeypatch.setattr(worker, "build_teacher", lambda *_: teacher_of([m() for m in models], list(taps)))
    spec = worker.spec(SimpleNamespace(sources=()), taps, RATE, "cpu", seconds)

    def write(device: torch.device) -> list[TargetRecord]:
        monkeypatch.setattr(worker, "device_of_worker", lambda _: device)
        torch.manual_seed(0)
        observer = worker.Observer(spec)
        if name == "codes":
            made = Quantiser(torch.zeros(WIDTH), torch.randn(2, CENTROIDS, WIDTH))
            observer.quantisers = {ENCODER: made.to(device)}
        return list(observer.records(utterances))

    on_host = write(torch.device("cpu"))
    with counted():
        on_device = write(DEVICE)
    for one, other in zip(on_host, on_device, strict=True):
        for tap, rows in one.rows.items():
            assert len(rows) == len(other.rows[tap]) > 0, one.utt
            for column in rows.dtype.names:  # sums may be rounded otherwise
                np.testing.assert_allclose(other.rows[tap][column], rows[column], 2e-3, 1e-4, err_msg=one.utt)


def prepared(utt: str, data: dict[str, Any]) -> dict[str, Any]:
    """What ESPnet's preprocessing gives: numbers of tokens."""
    text = np.array(list(map(int, data["text"].split()))) if "text" in data else None
    return {"speech": data["speech"].astype(np.float32)} | ({} if text is None else {"text": text})


def move(teacher: OnlineTeacher, device: torch.device) -> None:
    """Move the models, as torch does to a real device."""
    if device == DEVICE:
        for experiment in teacher.experiments:
            to_device(experiment.model)
