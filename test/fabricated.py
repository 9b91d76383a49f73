"""Experiment directories as a recipe leaves them, without any training."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet_kd.scoring import alignment
from espnet_kd.scoring.alignment import align

TAG = "decode_asr_model_valid.acc.ave"
UTTERANCES = 40
CRITERIA = {"ctc": {"type": "kl", "weight": 1.0, "tap": "ctc.ctc_lo"}}


def config(seed: int = 1, **options: Any) -> dict[str, Any]:
    """The part of a config.yaml that matters here."""
    base = {"token_list": ["<blank>", "a"], "encoder": "conformer", "encoder_conf": {"output_size": 8}}
    return {**base, "seed": seed, "max_epoch": 2, "accum_grad": 1, "output_dir": f"exp/s{seed}", **options}


def distilled(seed: int = 1, **options: Any) -> dict[str, Any]:
    """The configuration of a student that was taught."""
    return config(seed, teacher={"exp": "exp/teacher"}, criteria=CRITERIA, **options)


def write_experiment(directory: Path, settings: dict[str, Any], info: dict[str, Any] | None = None) -> Path:
    """config.yaml, run.json and a model of 6 parameters, 3 buffers and a projection of our own."""
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    if info is not None:
        (directory / "run.json").write_text(json.dumps(info))
    state = {
        "encoder.weight": torch.zeros(2, 3),
        "encoder.norm.running_mean": torch.zeros(2),
        "normalize.std": torch.zeros(1),
        "kd_ctc.weight": torch.zeros(5, 5),
    }
    torch.save(state, directory / "valid.acc.ave.pth")
    return directory


def write_checkpoint(directory: Path, batches: int, epochs: int = 2, **valid: float) -> None:
    """What ESPnet's reporter keeps in checkpoint.pth; ``batches`` are those of an epoch."""
    stats = {
        e: {
            "train": {"loss": 9.0 / e, "time": {"__timedelta_seconds__": 90.0}, "total_count": batches * e},
            "valid": {**{k: v / e for k, v in valid.items()}, "time": {"__timedelta_seconds__": 10.0}},
        }
        for e in range(1, epochs + 1)
    }
    torch.save({"model": {}, "reporter": {"stats": stats, "epoch": epochs}}, directory / "checkpoint.pth")


def write_score(directory: Path, name: str, wrong: int) -> None:
    """Score a set of ``UTTERANCES`` two-word utterances, the first ``wrong`` of which have one wrong word."""
    utterances = [f"u{i:02d}" for i in range(UTTERANCES)]
    hypotheses = ["one too" if i < wrong else "one two" for i in range(UTTERANCES)]
    counts = {}
    for kind, unit in alignment.UNITS.items():
        aligned = align(["one two"] * UTTERANCES, hypotheses, unit)
        counts[kind] = {u: a.counts for u, a in zip(utterances, aligned, strict=True)}
    alignment.write_score(directory / TAG / name, counts)


def write_recipe(exp: Path) -> None:
    """Teacher, student, student trained longer and distilled student; two seeds of each student."""
    teacher = write_experiment(exp / "teacher", config(encoder_conf={"output_size": 99}), {"role": "teacher"})
    runs = {teacher: (50, 2, 4)}  # batches an epoch, epochs, wrong utterances
    for seed, more in ((1, 0), (2, 2)):
        command = {"role": "student", "command": f"./run.sh --seed {seed}", "commit": "c0ffee"}
        tail = "" if seed == 1 else f"_seed{seed}"
        runs[write_experiment(exp / f"student{tail}", config(seed), command)] = (50, 2, 30 + more)
        longer = config(seed, max_epoch=4)
        runs[write_experiment(exp / f"student_max_epoch4{tail}", longer, command)] = (50, 4, 29 + more)
        runs[write_experiment(exp / f"taught{tail}", distilled(seed), command)] = (50, 2, 10 + more)
    for directory, (batches, epochs, wrong) in runs.items():
        write_checkpoint(directory, batches, epochs, cer_ctc=0.5, acc=0.6, loss=20.0)
        write_score(directory, "test", wrong)
        write_score(directory, "dev", wrong)
