"""The recipe for CSJ on a miniature of it: what its stages make of Japanese without spaces."""

import shutil
from pathlib import Path

import pytest
from miniature_csj import make_parts, write_csj
from shell import TEMPLATE, failure, link_template, run

RECIPE = TEMPLATE.parents[1] / "csj" / "kd1"
TALKS = {"A01F0055": 8, "A01M0110": 3, "A01M0056": 3, "S00M0112": 3, "S01F0001": 12, "D01F0002": 2}
MINIATURE = "--allow_missing_eval --dev_utterances 4"
SETS = ("train", "train_dev", "train_nodev", "train_nodup", "eval1", "eval2", "eval3")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    talks = {talk: make_parts(count, seed) for seed, (talk, count) in enumerate(TALKS.items())}
    return write_csj(tmp_path_factory.mktemp("a corpus") / "CSJ", talks)


@pytest.fixture()
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe."""
    root = link_template(tmp_path / "csj" / "kd1")
    for name in ("run.sh", "db.sh"):
        shutil.copy(RECIPE / name, root / name)
    for name in ("local", "conf"):
        shutil.copytree(RECIPE / name, root / name)
    return root


def options(corpus: Path, last: int) -> tuple[str, ...]:
    return ("--csj", str(corpus), "--local_data_opts", MINIATURE, "--nj", "1", "--stop_stage", str(last))


def keys(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("like_espnet", "dialogues"), [("true", False), ("false", True)])
def test_stage_1_makes_all_sets(recipe: Path, corpus: Path, like_espnet: str, dialogues: bool) -> None:
    run(recipe, *options(corpus, 1), "--csj_like_espnet", like_espnet)
    assert {p.name for p in (recipe / "data").iterdir()} == set(SETS)
    assert len(keys(recipe / "data" / "train_dev" / "text")) == 4
    speakers = {line.split()[1] for line in (recipe / "data/train/utt2spk").read_text().splitlines()}
    assert ("D01F0002-L" in speakers) is dialogues


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "local/data.sh: error: --csj is required"),
        (("--csj", "."), "espnet-kd: error: . is not CSJ: neither"),
    ],
)
def test_a_corpus_is_required(recipe: Path, given: tuple[str, ...], message: str) -> None:
    errors = failure(recipe, *given, "--stop_stage", "1")
    assert errors.startswith(message) and errors.count("\n") == 1


def test_audio_is_cut_and_tokens_are_characters(recipe: Path, corpus: Path) -> None:
    run(recipe, *options(corpus, 5))
    dump = recipe / "dump" / "raw"
    assert len(keys(dump / "train_nodup_sp" / "wav.scp")) == 3 * (8 + 12 - 4)
    assert len(keys(dump / "eval1" / "wav.scp")) == 3
    tokens = (recipe / "data/jp_token_list/char/tokens.txt").read_text().splitlines()
    assert tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>"
    assert {"音", "声", "Ａ", "え", "ー"} < set(tokens) and "<space>" not in tokens
    assert all(len(token) == 1 for token in tokens[2:-1])
