"""The first stages of the recipe for LibriSpeech, on a miniature of it."""

from pathlib import Path

import pytest
from miniature_librispeech import write_librispeech
from shell import TEMPLATE, copy_recipe, failure, run

pytestmark = pytest.mark.slow(seconds=10)

RECIPE = TEMPLATE.parents[1] / "librispeech" / "kd1"
PARTS = {"dev-clean": 2, "dev-other": 2, "test-clean": 3, "train-clean-100": 24, "train-clean-360": 2}
HUNDRED_HOURS = ("--train_set", "train_clean_100", "--lang", "en_100", "--test_sets", "test_clean")


@pytest.fixture()
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe."""
    return copy_recipe(RECIPE, tmp_path / "kd1", "local", "conf")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_librispeech(tmp_path_factory.mktemp("corpora") / "LibriSpeech", PARTS)


def test_stage_1_prepares_the_parts_that_the_sets_need(recipe: Path, corpus: Path) -> None:
    command = ("--librispeech", str(corpus), "--stop_stage", "1")
    run(recipe, *command, *HUNDRED_HOURS)
    assert {p.name for p in (recipe / "data").iterdir()} == {
        "dev_clean", "dev_other", "dev", "test_clean", "train_clean_100"
    }  # fmt: skip
    errors = failure(recipe, *command)
    assert "but not test-other train-other-500: get them from" in errors and errors.count("\n") == 1
    run(recipe, *command, "--librispeech_parts", "train-clean-360")
    assert (recipe / "data" / "train_clean_360" / "text").exists()


def test_audio_and_tokens(recipe: Path, corpus: Path) -> None:
    run(
        recipe, "--librispeech", str(corpus), *HUNDRED_HOURS, "--nbpe", "40", "--nj", "1", "--stop_stage", "5"
    )
    dump = recipe / "dump" / "raw"
    assert len((dump / "train_clean_100_sp" / "wav.scp").read_text().splitlines()) == 3 * 24
    assert len((dump / "dev" / "wav.scp").read_text().splitlines()) == 4
    tokens = (recipe / "data/en_100_token_list/bpe_unigram40/tokens.txt").read_text().splitlines()
    assert tokens[0] == "<blank>" and tokens[-1] == "<sos/eos>" and any(t.startswith("▁") for t in tokens)
