"""A language model in the miniature recipe: statistics, training, perplexity, decoding, refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from fork_server import quick_python
from shell import Finished, failure, run
from test_twelve_stages import KD, STUDENT, TAG, TEACHER

pytestmark = [pytest.mark.slow(seconds=25), pytest.mark.long]

MODEL = {
    "lm": "seq_rnn", "lm_conf": {"unit": 8, "nlayers": 1}, "optim": "adam", "optim_conf": {"lr": 0.05},
    "batch_type": "sorted", "batch_size": 4, "max_epoch": 2, "num_workers": 0, "use_matplotlib": False,
    "keep_nbest_models": 1, "best_model_criterion": [["valid", "loss", "min"]],
}  # fmt: skip
LM = ("--use_lm", "true", "--lm_config", "conf/train_lm.yaml", "--num_splits_lm", "2")
WEIGHT = ("--inference_args", "--lm_weight 0.3")
EXP = Path("exp/lm_train_lm_char")
LM_TAG = "decode_lm_weight0.3_lm_lm_train_lm_char_valid.loss.ave_asr_model_valid.acc.ave"


def copy(source: Path, root: Path) -> Path:
    shutil.copytree(source, root, symlinks=True)
    (root / "conf/train_lm.yaml").write_text(yaml.safe_dump(MODEL))
    return root


@pytest.fixture(scope="module")
def with_lm(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The finished recipe, continued with a language model."""
    root = copy(finished.root, tmp_path_factory.mktemp("lm") / "kd1")
    return Finished(root, run(root, *KD, *LM, *WEIGHT, "--stage", "6"))


@pytest.fixture()
def again(with_lm: Finished, tmp_path: Path) -> Path:
    """A copy of it, to run stages in."""
    return copy(with_lm.root, tmp_path / "kd1")


def test_statistics_count_the_tokens_of_the_unperturbed_transcripts(with_lm: Finished) -> None:
    stats = with_lm.root / "exp/lm_stats_char"
    vocabulary = (with_lm.root / "data/token_list/char/tokens.txt").read_text().count("\n")
    for part, text in (("train", "data/train/text"), ("valid", "dump/raw/org/dev/text")):
        counted = (stats / part / "text_shape.char").read_text().splitlines()
        lines = (line.split(maxsplit=1) for line in (with_lm.root / text).read_text().splitlines())
        assert sorted(counted) == sorted(f"{utt} {len(words)},{vocabulary}" for utt, words in lines)
    assert "exp/lm_stats_char: made from 12 lines" in with_lm.output
    assert not list((with_lm.root / "exp").glob("*.partial"))


def test_the_language_model_is_on_record_and_has_a_perplexity(with_lm: Finished) -> None:
    record = json.loads((with_lm.root / EXP / "run.json").read_text())
    assert record["done"] and (record["role"], record["configs"]) == ("lm", ["conf/train_lm.yaml"])
    assert {"training text", "development text", "token list"} <= record["data"].keys()
    perplexity = float((with_lm.root / EXP / "perplexity_test/ppl").read_text())
    assert 1 < perplexity < 20
    assert f"{EXP}: perplexity {perplexity} on dump/raw/test/text" in with_lm.output
    assert "stage 7: train the teacher, and the language model\n" in with_lm.output


@pytest.mark.parametrize("model", [TEACHER, STUDENT])
def test_shallow_fusion_changes_the_scores_of_every_model(with_lm: Finished, model: Path) -> None:
    for data in ("dev", "test"):
        without, fused = (with_lm.root / model / tag / data / "score" for tag in (TAG, LM_TAG))
        assert without.read_text() != fused.read_text()
        assert (fused.parent / "score.json").exists()
    assert f"decoded as `{LM_TAG}`" in (with_lm.root / "RESULTS.md").read_text()


def test_a_weight_of_zero_gives_the_scores_without_a_language_model(again: Path) -> None:
    tag = LM_TAG.replace("0.3", "0")
    run(again, *LM, "--inference_args", "--lm_weight 0", "--stage", "8", "--stop_stage", "8")
    scores = [(again / TEACHER / name / "dev/score").read_text() for name in (TAG, tag)]
    assert scores[0] == scores[1]


def test_the_packed_model_has_its_language_model_and_decodes_elsewhere(again: Path) -> None:
    packed = f"{STUDENT}/{STUDENT.name}_valid.acc.ave.zip"
    inside = quick_python("-m", "zipfile", "-l", str(again / packed), check=True).stdout
    checkpoint = (again / EXP / "valid.loss.ave.pth").resolve().name  # ESPnet packs what a link leads to
    assert f"{EXP}/{checkpoint}" in inside and f"{EXP}/perplexity_test/ppl" in inside
    shutil.copy(again / packed, again / "published.zip")
    for folder in (STUDENT, TEACHER, EXP):
        shutil.rmtree(again / folder)
    options = ("--download_model", "published.zip", "--use_lm", "true", *WEIGHT, "--student_config", "")
    output = run(again, *options, "--stage", "7", "--stop_stage", "8")
    assert "exp/published/lm is trained already" in output
    tag = LM_TAG.replace("lm_train_lm_char", "lm")
    assert f"exp/published/{tag}/dev: decoded by 1 jobs" in output


def test_a_second_run_does_nothing_again(again: Path) -> None:
    output = run(again, *KD, *LM, *WEIGHT, "--stage", "6", "--stop_stage", "10")
    assert "exp/lm_stats_char: already there" in output and f"{EXP}: already trained" in output
    assert output.count("already decoded") == 5 and "decoded by" not in output


def test_an_interrupted_training_gives_the_model_of_an_uninterrupted_one(again: Path) -> None:
    whole = torch.load(again / EXP / "2epoch.pth", weights_only=True)
    shutil.rmtree(again / EXP)
    stage = (*LM, *WEIGHT, "--stage", "7", "--stop_stage", "7")
    (again / "conf/train_lm.yaml").write_text(yaml.safe_dump(MODEL | {"max_epoch": 1}))
    run(again, *stage)
    (again / "conf/train_lm.yaml").write_text(yaml.safe_dump(MODEL))
    errors = failure(again, *stage)
    assert errors.startswith(f"espnet-kd: error: {EXP} was trained with another configuration than conf/")
    assert "--lm_tag" in errors
    # As if the training of two epochs had been killed after the first.
    (again / EXP / "train.yaml").write_text(yaml.safe_dump(MODEL))
    record = json.loads((again / EXP / "run.json").read_text())
    (again / EXP / "run.json").write_text(json.dumps(record | {"done": False}))
    run(again, *stage)
    resumed = torch.load(again / EXP / "2epoch.pth", weights_only=True)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert json.loads((again / EXP / "run.json").read_text())["interruptions"] == 1


def test_a_language_model_with_other_tokens_is_refused_in_one_line(again: Path) -> None:
    shutil.copytree(again / EXP, again / "exp/other")
    config = yaml.safe_load((again / EXP / "config.yaml").read_text())
    config["token_list"][2:4] = reversed(config["token_list"][2:4])
    (again / "exp/other/config.yaml").write_text(yaml.safe_dump(config))
    other = ("--use_lm", "true", "--lm_exp", "exp/other", *WEIGHT, "--stage", "8", "--stop_stage", "8")
    errors = failure(again, *other)
    assert errors.startswith("espnet-kd: error: exp/other/config.yaml has other tokens than exp/asr_teach")
    assert errors.count("\n") == 1
    config = yaml.safe_load((again / EXP / "config.yaml").read_text())
    config["lm_conf"]["unit"] = 9
    (again / "exp/other/config.yaml").write_text(yaml.safe_dump(config))
    assert "its config.yaml makes" in failure(again, *other)


def test_a_missing_language_model_is_named(again: Path) -> None:
    missing = ("--use_lm", "true", "--lm_exp", "exp/none", *WEIGHT, "--stage", "8", "--stop_stage", "8")
    errors = failure(again, *missing)
    assert errors.startswith("kd.sh: error: --lm_exp exp/none has no config.yaml or no valid.loss.ave.pth: ")


def test_pseudo_labels_and_ensembles_take_the_language_model(again: Path) -> None:
    lm = ("--lm_train_config", f"{EXP}/config.yaml", "--lm_file", f"{EXP}/valid.loss.ave.pth")
    common = ("--inference_config", "conf/decode.yaml", "--inference_args=--lm_weight 0.3", "--data")
    command = ("-m", "espnet_kd", "pseudo-label", "--teacher", str(TEACHER), "--dst", "dump/raw/labels")
    made = quick_python(*command, *lm, *common, "dump/raw/dev", cwd=again)  # all hypotheses may be empty
    assert "4 utterances decoded" in made.stdout, made.stderr
    best = json.loads(next((again / "dump/raw/labels/decode").glob("0*.jsonl")).read_text().split("\n")[0])
    assert best["nbest"][0]["scores"]["lm"] < 0
    twice = ("--teacher_exp", f"{TEACHER} {TEACHER}", "--decode_ensemble", "true")
    output = run(again, *twice, *LM, *WEIGHT, "--stage", "8", "--stop_stage", "8")
    assert "ensemble_of_2:\ndev  WER " in output
    shard = next((again / "exp/ensemble_of_2" / LM_TAG / "dev/decode").glob("0*.jsonl"))
    record = json.loads(shard.read_text().split("\n")[0])
    assert record["nbest"][0]["scores"]["lm"] < 0


def test_a_training_in_parts_and_with_another_normalisation(again: Path) -> None:
    options = (*KD, "--student_tag", "parts", "--stage", "9", "--stop_stage", "9", "--num_splits_asr", "2")
    run(again, *options, "--feats_normalize", "utterance_mvn")
    config = yaml.safe_load((again / "exp/asr_parts/config.yaml").read_text())
    assert config["normalize"] == "utterance_mvn" and config["multiple_iterator"] is True
    assert (again / "exp/asr_stats_raw_char_sp/train/splits2/wav.scp/split.1").exists()
    errors = failure(again, *options)
    expected = "exp/asr_parts was trained with --feats_normalize utterance_mvn, not with the defaults"
    assert errors.startswith(f"espnet-kd: error: {expected}")
