"""Run the shell parts of a recipe, and make a miniature recipe of links to the template."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fork_server
import numpy as np
import soundfile
import yaml
from fork_server import QUICK_PYTHON

# Time and place, which start what kd.sh logs.
LOG_PLACE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d \([\w.]+\.sh:\d+:\w+\) ", re.MULTILINE)
TEMPLATE = Path(__file__).parents[2] / "egs" / "TEMPLATE" / "kd1"
LETTERS = "abcd"
RATE = 16000
RUN_SH = """#!/usr/bin/env bash
set -euo pipefail
run_line=$(printf '%q ' "$0" "$@") ./kd.sh \\
    --train_set train --valid_set dev --test_sets test --speed_perturb_factors "0.9 1.0" \\
    --teacher_config conf/teacher.yaml --student_config conf/student.yaml \\
    --inference_config conf/decode.yaml --nj 2 --inference_nj 1 \\
    "$@"
"""
DATA_SH = """#!/usr/bin/env bash
set -euo pipefail
mkdir -p data
cp -r "${corpus}"/* data
"""


@dataclass(frozen=True)
class Finished:
    """A recipe and what its stages printed."""

    root: Path
    output: str


def environment(**changes: str) -> dict[str, str]:
    """Ours, with the interpreter that runs the tests first in the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **changes}


def sh(cwd: Path, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command; what it wrote is in stdout and stderr."""
    return subprocess.run(
        command, cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=3000
    )


def quickly(cwd: Path, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe without importing ESPnet anew for each of its programs."""
    python = () if "--python" in options else ("--python", str(QUICK_PYTHON))
    return sh(cwd, "./run.sh", *options, *python, **changes, ESPNET_KD_FORK_SERVER=fork_server.start())


def run(cwd: Path, *options: str, **changes: str) -> str:
    """Run a recipe that must succeed; returns what it printed, without the time and place of log lines."""
    result = quickly(cwd, *options, **changes)
    assert result.returncode == 0, result.stdout + result.stderr
    return LOG_PLACE.sub("", result.stdout)


def failure(cwd: Path, *options: str, **changes: str) -> str:
    """Run a recipe that must fail; returns its errors."""
    result = quickly(cwd, *options, **changes)
    assert result.returncode != 0, result.stdout
    return result.stderr


def kill_when(condition: Callable[[], bool], cwd: Path, *options: str, **changes: str) -> None:
    """Start a recipe and kill -9 all of its processes as soon as the condition holds."""
    process = subprocess.Popen(
        ["./run.sh", *options], cwd=cwd, env=environment(**changes), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not condition():
            assert process.poll() is None, "the recipe ended before it could be killed"
            assert time.monotonic() < deadline, "the moment to kill never came"
            time.sleep(0.005)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def link_template(root: Path) -> Path:
    """A directory with the template's files as a recipe has them."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("kd.sh", "path.sh", "cmd.sh", "utils"):
        (root / name).symlink_to(TEMPLATE / name)
    return root


def copy_recipe(recipe: Path, root: Path, *folders: str) -> Path:
    """A copy of a recipe of egs/: its scripts and some of its folders."""
    link_template(root)
    for name in ("run.sh", "db.sh"):
        shutil.copy(recipe / name, root / name)
    for name in folders:
        shutil.copytree(recipe / name, root / name)
    return root


def write_recipe(root: Path, corpus: Path) -> Path:
    """A recipe whose corpus is given as ``--corpus``; models that train in seconds."""
    link_template(root)
    script(root / "run.sh", RUN_SH)
    script(root / "local" / "data.sh", DATA_SH)
    (root / "db.sh").write_text(f"# options\n# Corpus\ncorpus='{corpus}'  # directory\n# end of options\n")
    configs = {
        "teacher": model(2),
        "student": model(1),
        "kl": {"criteria": {"ctc": {"type": "kl", "weight": 1.0, "tap": "ctc.ctc_lo"}}},
        "decode": {"beam_size": 1, "ctc_weight": 0.5, "maxlenratio": 0.1},
    }
    (root / "conf").mkdir()
    for name, config in configs.items():
        (root / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return root


def model(blocks: int) -> dict[str, object]:
    """A model of a few thousand parameters."""
    common = {"attention_heads": 2, "linear_units": 16}
    return {
        "encoder": "transformer", "encoder_conf": {**common, "output_size": 16, "num_blocks": blocks},
        "decoder": "transformer", "decoder_conf": {**common, "num_blocks": 1},
        "model_conf": {"ctc_weight": 0.3}, "frontend_conf": {"n_fft": 400, "hop_length": 160},
        "optim": "adam", "optim_conf": {"lr": 0.005},
        "batch_type": "sorted", "batch_size": 8, "max_epoch": 1, "num_workers": 0, "use_matplotlib": False,
        "keep_nbest_models": 1, "best_model_criterion": [["valid", "acc", "max"]],
    }  # fmt: skip


def make_loud(tokens: Path, out: Path) -> None:
    """Return a bias that makes a decoder with almost no training emit letters, and nothing else."""
    import torch

    biases = [9.0 if name.isalpha() else -9.0 for name in tokens.read_text().splitlines()]
    torch.save({"decoder.output_layer.bias": torch.tensor(biases)}, out)


def write_corpus(root: Path, **utterances: int) -> Path:
    """Data directories by name and size: letters as tones, three to five an utterance."""
    rng = np.random.default_rng(0)
    time_axis = np.arange(RATE // 5) / RATE
    tones = {letter: np.sin(2 * np.pi * (300 + 250 * i) * time_axis) * np.hanning(len(time_axis)) / 3
             for i, letter in enumerate(LETTERS)}  # fmt: skip
    for name, count in utterances.items():
        directory = root / name
        directory.mkdir(parents=True)
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": [], "spk2utt": []}
        for i in range(count):
            speaker, utt = f"{name}{i:03d}", f"{name}{i:03d}-0"
            letters = rng.choice(list(LETTERS), rng.integers(3, 6))
            samples = np.concatenate([tones[letter] for letter in letters])
            soundfile.write(directory / f"{utt}.wav", samples + rng.normal(0, 0.003, len(samples)), RATE)
            tables["wav.scp"].append(f"{utt} {directory / utt}.wav")
            tables["text"].append(f"{utt} {' '.join(letters)}")
            tables["utt2spk"].append(f"{utt} {speaker}")
            tables["spk2utt"].append(f"{speaker} {utt}")
        for table, lines in tables.items():
            (directory / table).write_text("".join(f"{line}\n" for line in lines))
    return root
