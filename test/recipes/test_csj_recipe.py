"""The recipe for CSJ on a miniature of it, Japanese without spaces; and a recipe that trains peers."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from miniature_csj import make_parts, write_csj
from shell import TEMPLATE, copy_recipe, failure, model, run

pytestmark = [pytest.mark.slow(seconds=30), pytest.mark.long]

RECIPE = TEMPLATE.parents[1] / "csj" / "kd1"
TALKS = {"A01F0055": 8, "A01M0110": 3, "A01M0056": 3, "S00M0112": 3, "S01F0001": 12, "D01F0002": 2}
MINIATURE = "--allow_missing_eval --dev_utterances 4"
CONFIGS = {
    "tiny": model(1),
    "mutual": {
        "mutual": {"criteria": {"att": {"type": "kl", "tap": "decoder", "reduction": "utterance"}}},
        "scheduled_sampling": {"probability": 0.5},
    },
    "greedy": {"beam_size": 1, "ctc_weight": 0.5, "maxlenratio": 0.1},
}
PEERS = (
    "--student_config", "conf/tiny.yaml", "--kd_config", "conf/mutual.yaml",
    "--inference_config", "conf/greedy.yaml", "--test_sets", "eval1", "--ngpu", "0", "--inference_nj", "1",
)  # fmt: skip
STUDENT = "asr_tiny_mutual_raw_jp_char_sp"
TAG = "greedy_asr_model_valid.acc.ave"
SETS = ("train", "train_dev", "train_nodev", "train_nodup", "eval1", "eval2", "eval3")


@pytest.fixture(scope="module")
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    talks = {talk: make_parts(count, seed) for seed, (talk, count) in enumerate(TALKS.items())}
    layout = getattr(request, "param", "usb")
    return write_csj(tmp_path_factory.mktemp("a corpus") / "CSJ", talks, layout)


@pytest.fixture()
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe."""
    return copy_recipe(RECIPE, tmp_path / "csj" / "kd1", "local", "conf")


def options(corpus: Path, last: int) -> tuple[str, ...]:
    return ("--csj", str(corpus), "--local_data_opts", MINIATURE, "--nj", "1", "--stop_stage", str(last))


def keys(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("corpus", "like_espnet", "dialogues"),
    [("usb", "true", False), ("dvd", "false", True)],
    indirect=["corpus"],
)
def test_stage_1_makes_all_sets(recipe: Path, corpus: Path, like_espnet: str, dialogues: bool) -> None:
    run(recipe, *options(corpus, 1), "--csj_like_espnet", like_espnet)
    assert {p.name for p in (recipe / "data").iterdir()} == set(SETS)
    assert len(keys(recipe / "data" / "train_dev" / "text")) == 4
    speakers = {line.split()[1] for line in (recipe / "data/train/utt2spk").read_text().splitlines()}
    assert ("D01F0002-L" in speakers) is dialogues


def test_the_language_model_learns_the_text_of_espnets_recipe(recipe: Path) -> None:
    (line,) = (line for line in run(recipe, "--help").splitlines() if "--lm_train_text" in line)
    assert "data/train_nodev/text" in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "local/data.sh: error: --csj is required"),
        (("--csj", "."), "espnet-kd: error: . is not CSJ: neither"),
        (("--csj", ".", "--csj_like_espnet", "True"), "local/data.sh: error: --csj_like_espnet is True"),
    ],
)
def test_a_corpus_is_required(recipe: Path, given: tuple[str, ...], message: str) -> None:
    errors = failure(recipe, *given, "--stop_stage", "1")
    assert errors.startswith(message) and errors.count("\n") == 1


def test_all_stages_with_peers(recipe: Path, corpus: Path) -> None:
    """Only the first is decoded here: a process that imports ESPnet takes long."""
    for name, config in CONFIGS.items():
        (recipe / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    output = run(recipe, *options(corpus, 12), *PEERS, "--peers", "first")
    assert [line.partition(":")[0] for line in output.splitlines() if ": took " in line] == [
        f"stage {n}" for n in range(1, 13)
    ]
    assert (recipe / "exp/asr_tiny_raw_jp_char_sp/valid.acc.ave.pth").exists()  # the student alone
    dry = run(recipe, *options(corpus, 12), *PEERS, "--dry_run", "true")
    assert "stage 9: student\n" in dry and "nothing was done" in dry
    check_dump(recipe)
    check_results(recipe)
    run(recipe, *options(corpus, 12), *PEERS, "--stage", "12")
    check_packed_peers(recipe / "exp" / STUDENT)


def check_dump(recipe: Path) -> None:
    """Audio is cut, tokens are characters."""
    dump = recipe / "dump" / "raw"
    assert len(keys(dump / "train_nodup_sp" / "wav.scp")) == 3 * (8 + 12 - 4)
    assert len(keys(dump / "eval1" / "wav.scp")) == 3
    tokens = (recipe / "data/jp_token_list/char/tokens.txt").read_text().splitlines()
    assert tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>"
    assert {"音", "声", "Ａ", "え", "ー"} < set(tokens) and "<space>" not in tokens
    assert all(len(token) == 1 for token in tokens[2:-1])


def check_results(recipe: Path) -> None:
    for data in ("train_dev", "eval1"):
        text = recipe / "exp" / f"{STUDENT}_peer1" / TAG / data / "text"
        assert keys(text) == keys(recipe / "dump/raw" / data / "text")
    table = (recipe / "RESULTS.md").read_text()
    assert "| errors/characters |" in table and "| distilled: mutual learning |" in table
    assert f"- Not scored: `{STUDENT}_peer2`.\n" in table
    assert (recipe / "images/posteriors.png").exists()


def check_packed_peers(exp: Path) -> None:
    """Each has its own tensors only, and no teacher."""
    assert json.loads((exp / "run.json").read_text())["teachers"] == []
    for place, peer in ((exp, f"{STUDENT}_peer1"), (exp / "peer2", f"{STUDENT}_peer2")):
        trained = torch.load(place / "valid.acc.ave.pth", weights_only=True)
        with zipfile.ZipFile(exp.with_name(peer) / f"{peer}_valid.acc.ave.zip") as packed:
            (file,) = (name for name in packed.namelist() if name.endswith(".pth"))
            content = packed.read(file)
        own = torch.load(io.BytesIO(content), weights_only=True)
        assert own.keys() == trained.keys() and not any(name.startswith("kd_") for name in own)
        assert all(torch.equal(value, trained[name]) for name, value in own.items())
