"""A tiny stock ESPnet recipe: noise as speech, five letters as text, a trained teacher."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from recipe import RATE, TOKENS, Recipe


@pytest.fixture(autouse=True)
def _quiet_logging() -> Iterator[None]:
    """ESPnet configures the root logger once a process; leave it as it was."""
    import logging

    handlers = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = handlers


def write_set(root: Path, name: str, count: int, seed: int) -> None:
    """Write wav files and Kaldi tables below dump/raw."""
    rng = np.random.default_rng(seed)
    directory = root / "dump" / "raw" / name
    directory.mkdir(parents=True)
    tables: dict[str, list[str]] = {"wav.scp": [], "text": []}
    for i in range(count):
        samples = rng.normal(0, 0.1, rng.integers(RATE, RATE * 2))
        path = directory / f"{name}-{i}.wav"
        soundfile.write(path, samples, RATE)
        tables["wav.scp"].append(f"{name}-{i} {path.relative_to(root)}")
        tables["text"].append(f"{name}-{i} " + " ".join(rng.choice(["A", "B", "AB", "CA"], 3)))
    for table, lines in tables.items():
        (directory / table).write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A stock recipe directory with data, statistics and a teacher of one epoch, all made by stock ESPnet."""
    from espnet2.tasks.asr import ASRTask

    root = tmp_path_factory.mktemp("stock recipe")
    write_set(root, "train", 8, seed=0)
    write_set(root, "dev", 3, seed=1)
    (root / "tokens.txt").write_text("".join(f"{t}\n" for t in TOKENS))
    recipe = Recipe(root)
    with contextlib.chdir(root):
        for name in ("train", "dev"):
            keys = [line.split()[0] for line in Path(f"dump/raw/{name}/text").read_text().splitlines()]
            Path(f"dump/raw/{name}/keys").write_text("".join(f"{k} 0\n" for k in keys))
        ASRTask.main(cmd=recipe.options("teacher") + [
            "--collect_stats", "true", "--output_dir", "stats", "--batch_type", "unsorted",
            "--batch_size", "2",
            "--train_shape_file", "dump/raw/train/keys", "--valid_shape_file", "dump/raw/dev/keys",
        ])  # fmt: skip
    for part in ("train", "valid"):
        shapes = (root / f"stats/{part}/text_shape").read_text().splitlines()
        (root / f"stats/{part}/text_shape.char").write_text("".join(f"{s},{len(TOKENS)}\n" for s in shapes))
    recipe.train("exp/teacher", "teacher", task=ASRTask)
    return recipe


@pytest.fixture()
def kd_yaml(tmp_path: Path):
    """Write a configuration file of the given options."""

    def write(**options: object) -> Path:
        path = tmp_path / "kd.yaml"
        path.write_text(yaml.safe_dump(options))
        return path

    return write
