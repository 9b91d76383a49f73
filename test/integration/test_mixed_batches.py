"""Batches with one share of pseudo-labelled speech each."""

import contextlib
import logging
import random
from argparse import Namespace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from espnet2.train.distributed_utils import DistributedOption
from recipe import RATE, TOKENS, Recipe

from espnet_kd.errors import UserError
from espnet_kd.methods.mixed_batches import APART, MixedBatchesMethod, interleave, sides, spread
from espnet_kd.tasks.asr import ASRDistillationTask


def lengths(seed: int, **counts: int) -> dict[str, int]:
    """Samples of utterances, half a second to ten seconds."""
    rng = random.Random(seed)
    return {
        f"{name}-{i}": rng.randrange(RATE // 2, 10 * RATE) for name, n in counts.items() for i in range(n)
    }


@pytest.mark.parametrize("seed", range(5))
def test_any_run_of_the_order_has_about_the_share_of_the_whole(seed: int) -> None:
    length = lengths(seed, pseudo=200, a=40)
    order = interleave(length)
    assert sorted(order) == sorted(length)
    rng = random.Random(seed)
    for _ in range(50):
        start = rng.randrange(200)
        assert seconds_off(order[start : rng.randrange(start, 240) + 1], length) < 2 * 10


def test_copies_are_kept_apart() -> None:
    length = lengths(0, pseudo=400) | {
        f"a-{i}-{copy}": 1000 * i + 8000 for i in range(100) for copy in range(4)
    }
    labelled = [utt.rpartition("-")[0] for utt in interleave(length) if utt.startswith("a-")]
    assert all(len(set(labelled[i : i + APART])) == APART for i in range(0, 384, APART))
    assert spread(["b", "a"], {"a": 1, "b": 2}) == ["a", "b"]


@pytest.fixture
def mixture(recipe: Recipe, tmp_path: Path) -> dict[str, int]:
    """Much pseudo-labelled speech, longer utterances with transcripts; lengths are in the tables only."""
    length = lengths(1, pseudo=60) | {f"a-{i}": (5 * RATE + 5 * RATE * i // 20) for i in range(20)}
    audio = next((recipe.root / "dump/raw/train").glob("*.wav"))
    tables = {
        "wav.scp": dict.fromkeys(length, str(audio)),
        "text": dict.fromkeys(length, "A B"),
        "speech_shape": {u: str(n) for u, n in length.items()},
        "text_shape.char": dict.fromkeys(length, f"3,{len(TOKENS)}"),
    }
    for name, table in tables.items():
        (tmp_path / name).write_text("".join(f"{key} {value}\n" for key, value in table.items()))
    return length


def arguments(recipe: Recipe, data: Path, **changes: Any) -> Namespace:
    """A training on the mixture, with batches of a hundred seconds."""
    settings = {"share_per_batch": True, "batch_type": "numel", "batch_bins": 100 * RATE} | changes
    command = recipe.training(data / "exp", "student", **settings)
    with contextlib.chdir(recipe.root):
        args = ASRDistillationTask.get_parser().parse_args(command)
    args.train_data_path_and_name_and_type = [
        (str(data / "wav.scp"), "speech", "sound"),
        (str(data / "text"), "text", "text"),
    ]
    args.train_shape_file = [str(data / name) for name in ("speech_shape", "text_shape.char")]
    args.token_list = list(TOKENS)
    return args


def batches(recipe: Recipe, args: Namespace, distributed: bool = False) -> list[list[str]]:
    """Utterances of an epoch's batches, as a process of the training gets them."""
    option = DistributedOption()
    option.distributed = distributed
    with contextlib.chdir(recipe.root):
        factory = ASRDistillationTask.build_iter_factory(args, option, "train")
        return [keys for keys, _ in factory.build_iter(1)]


def share(batch: list[str], length: dict[str, int]) -> float:
    return sum(length[u] for u in sides(batch)[1]) / sum(length[u] for u in batch)


def seconds_off(batch: list[str], length: dict[str, int]) -> float:
    """Return by how many seconds the transcribed speech of a batch is off its share."""
    transcribed, pseudo = (sum(length[u] for u in side) / RATE for side in sides(batch))
    whole = share(list(length), length)
    return abs(transcribed - pseudo * (1 - whole) / whole)


def test_each_batch_has_the_share_of_the_set(
    recipe: Recipe, tmp_path: Path, mixture: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    whole = share(list(mixture), mixture)
    with caplog.at_level(logging.INFO):
        mixed = batches(recipe, arguments(recipe, tmp_path))
    assert f"share_per_batch: pseudo-labelled speech is {100 * whole:.0f}"[:-1] in caplog.text
    assert sorted(chain(*mixed)) == sorted(mixture)
    assert max(seconds_off(batch, mixture) for batch in mixed) < 10  # the longest utterance
    stock = batches(recipe, arguments(recipe, tmp_path, share_per_batch=False))
    assert max(seconds_off(batch, mixture) for batch in stock) > 20
    for batch in mixed:  # recurrent encoders need the longest first
        assert [mixture[u] for u in batch] == sorted((mixture[u] for u in batch), reverse=True)


@pytest.mark.parametrize("kind", ["numel", "length", "sorted", "folded", "unsorted"])
def test_no_batch_is_larger_than_stock_ones_may_be(
    recipe: Recipe, tmp_path: Path, mixture: dict[str, int], kind: str
) -> None:
    settings = {"batch_type": kind, "batch_size": 12, "fold_length": [5 * RATE, 150]}
    mixed, stock = (
        batches(recipe, arguments(recipe, tmp_path, share_per_batch=on, **settings)) for on in (True, False)
    )
    assert sorted(chain(*mixed)) == sorted(chain(*stock)) == sorted(mixture)
    if kind in ("numel", "length"):
        size, stock_size = (
            max(len(b) * max(mixture[u] for u in b) for b in found) for found in (mixed, stock)
        )
        assert size < 1.15 * stock_size  # stock batches, too, have an utterance more than there is room for
    else:
        assert max(map(len, mixed)) <= max(map(len, stock))


def test_each_process_has_its_part_of_every_batch(
    recipe: Recipe, tmp_path: Path, mixture: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        parts.append(batches(recipe, arguments(recipe, tmp_path), distributed=True))
    assert sorted(chain(*parts[0], *parts[1])) == sorted(mixture)
    together = [[*first, *second] for first, second in zip(*parts, strict=True)]
    assert max(seconds_off(batch, mixture) for batch in together) < 10


def test_speech_of_one_kind_is_as_stock(recipe: Recipe, tmp_path: Path, mixture: dict[str, int]) -> None:
    for name in ("wav.scp", "text", "speech_shape", "text_shape.char"):
        lines = (tmp_path / name).read_text().splitlines(keepends=True)
        (tmp_path / name).write_text("".join(line for line in lines if line.startswith("pseudo-")))
    both = [batches(recipe, arguments(recipe, tmp_path, share_per_batch=on)) for on in (True, False)]
    assert both[0] == both[1]


def test_where_it_is_not_asked_for_the_settings_are_those_of_older_trainings() -> None:
    assert ASRDistillationTask.get_default_config()["share_per_batch"] is None


def test_what_would_undo_the_mixture_is_refused(
    recipe: Recipe, tmp_path: Path, mixture: dict[str, int]
) -> None:
    for change in ({"iterator_type": "chunk"}, {"shuffle_within_batch": True}):
        with pytest.raises(UserError, match="share_per_batch: needs `iterator_type: sequence` without"):
            MixedBatchesMethod().check(arguments(recipe, tmp_path, **change), classes=5)
