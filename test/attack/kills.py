"""Kill stages of a miniature recipe at random moments; the same command must then give the same result.

Either the whole process group is killed with -9, or one process of it, and its parents continue until they
end; or a second run of the same command is started meanwhile.
"""

import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fork_server
import numpy as np
import psutil
import torch
import yaml
from fork_server import QUICK_PYTHON
from harness import Outcome
from shell import environment, write_corpus, write_recipe

TRIES = 66
LONGEST = 180.0  # seconds of a command
WAYS = ("group", "one process", "two runs")
BUSY = ("another run", "another process", "is being", "works in")
WITH_TIMES = (".lock", ".contents.json", ".sources.json", "cost.json", "run.json")
KD = ("--kd_config", "conf/store.yaml")


@dataclass(frozen=True)
class Stages:
    """Some stages: the options that run them, and a function that returns digests of their files by name."""

    options: tuple[str, ...]
    result: Callable[[Path], dict[str, str]]


def files(*names: str) -> Callable[[Path], dict[str, str]]:
    """Return a function that reads all files below some directories, except locks, logs, and times."""

    def read(root: Path) -> dict[str, str]:
        found = {}
        for path in sorted(p for name in names for p in (root / name).rglob("*")):
            skipped = path.suffix == ".log" or path.name in WITH_TIMES or "logdir" in path.parts
            if path.is_file() and not skipped:
                found[str(path.relative_to(root))] = digest(path)
        return found

    return read


def digest(path: Path) -> str:
    """Return a digest of the content of a file: of tensors and arrays, not of the archive around them."""
    if path.suffix == ".pth":
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state) if path.name == "checkpoint.pth" else state
        parts = [(k, v.numpy().tobytes()) for k, v in sorted(state.items()) if isinstance(v, torch.Tensor)]
    elif path.suffix == ".npz":
        parts = [(k, v.tobytes()) for k, v in sorted(np.load(path).items())]
    else:
        parts = [("", path.read_bytes())]
    return hashlib.sha256(b"".join(k.encode() + v for k, v in parts)).hexdigest()[:16]


def models(root: Path) -> dict[str, str]:
    """Return the digests of the student's models, and whether run.json records that it is done."""
    found = {}
    for exp in sorted((root / "exp").glob("asr_student_*")):
        found |= {f"{exp.name}/{p.name}": digest(p) for p in sorted(exp.glob("*.pth"))}
        found[f"{exp.name} done"] = str(json.loads((exp / "run.json").read_text())["done"])
    return found


def decoded(root: Path) -> dict[str, str]:
    """Return the digests of the student's texts and scores."""
    names = ("text", "token", "score", "score.json", "result.txt")
    paths = sorted(p for p in (root / "exp").glob("asr_student_*/decode_*/**/*") if p.name in names)
    return {str(p.relative_to(root)): digest(p) for p in paths if "logdir" not in p.parts}


STAGES = {
    "1 to 3": Stages(("--stop_stage", "3"), files("data", "dump")),
    "4 to 6": Stages(("--stage", "4", "--stop_stage", "6"), files("dump", "data", "exp")),
    "8, targets": Stages((*KD, "--stage", "8", "--stop_stage", "8", "--nj", "1"), files("exp/targets")),
    "9": Stages((*KD, "--stage", "9", "--stop_stage", "9"), models),
    "10 to 11": Stages((*KD, "--teacher_config", "", "--stage", "10", "--stop_stage", "11"), decoded),
}  # fmt: skip
BETWEEN = {"8, targets": ("--stage", "7", "--stop_stage", "7")}  # what is run, and not killed, before


def run(seed: int, tries: int = TRIES, only: str | None = None) -> list[Outcome]:
    """Kill all groups of stages in all ways in turn."""
    outcomes = {f"{name}, {way}": Outcome(f"kill stages {name}, {way}") for name in STAGES for way in WAYS}
    kinds = [kind for kind in outcomes if only is None or only in kind]
    with tempfile.TemporaryDirectory(prefix="kills") as name:
        whole = Whole(Path(name))
        for number in range(tries):
            kind = kinds[number % len(kinds)]
            stages, _, way = kind.rpartition(", ")
            rng = random.Random(seed * 10**6 + number)
            root = Path(shutil.copytree(whole.before[stages], Path(name) / "try" / "kd1", symlinks=True))
            label = f"--seed {seed}, number {number}"
            action = functools.partial(attack, root, stages, way, rng, whole)
            outcomes[kind].attempt(label, action, seconds=4 * LONGEST)
            shutil.rmtree(root)
    return [outcomes[kind] for kind in kinds if outcomes[kind].tried]


class Whole:
    """A recipe that was not killed: a copy before each group of stages, results and times."""

    def __init__(self, folder: Path) -> None:
        corpus = write_corpus(folder / "corpus", train=16, dev=4, test=3)
        root = write_recipe(folder / "whole" / "kd1", corpus)
        student = yaml.safe_load((root / "conf/student.yaml").read_text())
        (root / "conf/student.yaml").write_text(yaml.safe_dump({**student, "max_epoch": 3}))
        terms = {"ctc": {"type": "topk", "k": 3, "tap": "ctc.ctc_lo", "reduction": "utterance"}}
        store = {"criteria": terms, "teacher": {"store": "exp/targets"}}
        (root / "conf/store.yaml").write_text(yaml.safe_dump(store))
        subprocess.run(
            [QUICK_PYTHON, "-m", "espnet_kd"], env=quickly(), capture_output=True
        )  # starts the server
        self.before, self.result, self.seconds = {}, {}, {}
        for name, stages in STAGES.items():
            for options in (BETWEEN.get(name), stages.options):
                if options is stages.options:
                    self.before[name] = Path(shutil.copytree(root, folder / "before" / name, symlinks=True))
                started = time.monotonic()
                if options is not None:
                    status, words = wait(start(root, options))
                    assert status == 0, words
            self.seconds[name] = time.monotonic() - started
            self.result[name] = stages.result(root)
            assert self.result[name]


def attack(root: Path, name: str, way: str, rng: random.Random, whole: Whole) -> None:
    """Disturb a run at a random moment, then repeat it and compare."""
    stages = STAGES[name]
    moment = rng.uniform(0, 1.05 * whole.seconds[name])
    first = start(root, stages.options)
    try:
        time.sleep(moment)
        if way == "two runs":
            wait(start(root, stages.options))
        elif way == "group":
            kill_group(first)
        elif found := family(first):
            ignore_ended(rng.choice(found).kill)
        wait(first)
    finally:
        kill_group(first)
    for _ in range(20):
        status, words = wait(start(root, stages.options))
        if status == 0 or not any(busy in words for busy in BUSY):
            break
        time.sleep(0.5)  # a child whose parent was killed goes on for a while
    assert status == 0, (
        f"at {moment:.2f} s of {whole.seconds[name]:.2f}: the repeated command fails: {words[-400:]}"
    )
    result = stages.result(root)
    expected = whole.result[name]
    differing = sorted(k for k in result.keys() | expected.keys() if result.get(k) != expected.get(k))
    assert not differing, f"at {moment:.2f} s of {whole.seconds[name]:.2f}: another {differing[:5]}"


def start(root: Path, options: tuple[str, ...]) -> subprocess.Popen:
    """Start a recipe in a process group of its own."""
    command = ["./run.sh", *options, "--python", str(QUICK_PYTHON)]
    output = tempfile.TemporaryFile("w+")
    process = subprocess.Popen(
        command, cwd=root, env=quickly(), stdout=output, stderr=output, start_new_session=True
    )
    process.words = output  # type: ignore[attr-defined]
    return process


def quickly() -> dict[str, str]:
    """Return an environment in which programs are forks of one that has imported ESPnet."""
    return environment(ESPNET_KD_FORK_SERVER=fork_server.start())


def wait(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for a process; return its exit status and output."""
    status = process.wait(LONGEST)
    process.words.seek(0)  # type: ignore[attr-defined]
    return status, process.words.read()  # type: ignore[attr-defined]


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes below a process."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_group(process: subprocess.Popen) -> None:
    """Kill the process group with -9."""
    ignore_ended(lambda: os.killpg(process.pid, signal.SIGKILL))


def ignore_ended(action: Callable[[], object]) -> None:
    """Run an action; ignore that the process has ended."""
    try:
        action()
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass
