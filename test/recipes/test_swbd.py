"""egs/swbd/kd1 on miniature Switchboard and Hub5'00, without training."""

import shutil
from pathlib import Path

import pytest
import yaml
from miniature_switchboard import write_eval2000, write_switchboard
from shell import TEMPLATE, failure, link_template, run, script, sh

from espnet_kd.recipe import scores

RECIPE = TEMPLATE.parents[1] / "swbd" / "kd1"
# What the miniature cannot have of the size of the real one.
SMALL = (
    "--local_data_opts",
    "--dev_utterances 6",
    "--nbpe",
    "36",
    "--ngpu",
    "0",
    "--nj",
    "2",
    "--inference_nj",
    "1",
)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = tmp_path_factory.mktemp("corpora")
    train, test = write_switchboard(root / "swbd", 32), write_eval2000(root / "hub5", 4, per_side=1)
    parts = [str(train / part) for part in ("LDC97S62", "swb_ms98_transcriptions")]
    return ("--swbd", *parts, "--eval2000", str(test))


@pytest.fixture()
def recipe(tmp_path: Path) -> Path:
    root = link_template(tmp_path / "swbd" / "kd1")
    for name in ("run.sh", "db.sh"):
        shutil.copy(RECIPE / name, root)
    for name in ("local", "conf"):
        shutil.copytree(RECIPE / name, root / name)
    return root


def keys(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


def test_the_corpora_must_be_given(recipe: Path, corpora: tuple[str, ...]) -> None:
    assert "error: give --swbd DIRECTORY" in failure(recipe, "--stop_stage", "1")
    errors = failure(recipe, "--stop_stage", "1", *corpora[:3])
    assert "error: give --eval2000 DIRECTORY" in errors and not (recipe / "data").exists()


def test_data_audio_and_tokens(recipe: Path, corpora: tuple[str, ...]) -> None:
    run(recipe, *corpora, *SMALL, "--stop_stage", "5")
    raw = recipe / "dump/raw"
    assert [len(keys(raw / s / "text")) for s in ("train_nodup_sp", "train_dev", "eval2000")] == [78, 6, 4]
    samples = dict(line.split() for line in (raw / "eval2000/utt2num_samples").read_text().splitlines())
    # 0.15 to 0.95 s at 16 kHz, from one channel of a file at 8 kHz
    assert samples["en_4156-A_000025-000085"] == "12800"
    assert "i b m" in (raw / "train_nodup_sp/text").read_text()
    assert (recipe / "data/en_token_list/bpe_unigram36/tokens.txt").read_text().startswith("<blank>\n<unk>\n")


@pytest.mark.parametrize("path", sorted((RECIPE / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_a_configuration_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ") and isinstance(yaml.safe_load(text), dict)
    assert all(f"\n# {word}:" in text for word in ("Needs", "Command", "Cost"))


def test_the_official_scorer_runs_on_the_test_set_alone(recipe: Path, corpora: tuple[str, ...]) -> None:
    run(recipe, *corpora, *SMALL, "--stop_stage", "1")
    out = recipe / "exp/student/decode/eval2000"
    out.mkdir(parents=True)
    shutil.copy(recipe / "data/eval2000/text", out)
    result = sh(recipe, "local/score.sh", "eval2000", str(out))
    assert result.returncode == 0 and result.stdout.startswith("scored by "), result.stderr
    parts = [
        scores.read(out.with_name(f"eval2000_{part}")).total["wer"] for part in ("swbd", "callhm", "all")
    ]
    assert parts[0] + parts[1] == parts[2] and parts[2].errors == 0 and parts[2].reference > 0
    assert sh(recipe, "local/score.sh", "train_dev", "nowhere").stdout == ""


def test_stage_11_scores_and_tabulates_the_parts_of_the_test_set(recipe: Path, tmp_path: Path) -> None:
    student = "exp/asr_student_conformer_kd_kl_raw_en_bpe2000_sp/decode_asr_model_valid.acc.ave"
    for name in ("train_dev", "eval2000"):
        for file in (f"dump/raw/{name}/wav.scp", f"dump/raw/{name}/text", f"{student}/{name}/text"):
            script(recipe / file, "")
    notes = '#!/usr/bin/env bash\necho "$*" >> "${calls}"\n[ "$3" != peers ] || echo "$4"\n'
    python = script(tmp_path / "python", notes)  # only notes its calls
    options = ("--stage", "11", "--stop_stage", "11", "--kd_config", "conf/kd_kl.yaml")
    run(recipe, *options, "--teacher_config", "", "--python", str(python), calls=str(tmp_path / "calls"))
    called = [
        line.removeprefix("-m espnet_kd ") for line in (tmp_path / "calls").read_text().splitlines()[1:]
    ]
    assert [line.split()[0] for line in called] == ["peers", "score", "score", "score-eval2000", "report"]
    assert called[3] == f"score-eval2000 {student}/eval2000 --data data/eval2000"
    assert " --test_sets eval2000_swbd eval2000_callhm eval2000_all --valid_set train_dev " in called[4]
