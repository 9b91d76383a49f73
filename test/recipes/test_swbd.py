"""egs/swbd/kd1 on miniature Switchboard and Hub5'00, from the discs to a packed student."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from miniature_switchboard import write_eval2000, write_rt03, write_switchboard
from shell import TEMPLATE, Finished, copy_recipe, failure, make_loud, model, run, script, sh

from espnet_kd.scoring import alignment
from espnet_kd.targets.store import Store

pytestmark = [pytest.mark.slow(seconds=30), pytest.mark.long]

RECIPE = TEMPLATE.parents[1] / "swbd" / "kd1"
# What the miniature cannot have of the size of the real one.
SMALL = (
    "--local_data_opts", "--dev_utterances 6", "--nbpe", "36", "--ngpu", "0", "--nj", "1",
    "--inference_nj", "1", "--teacher_config", "conf/t.yaml", "--student_config", "conf/s.yaml",
    "--inference_config", "conf/greedy.yaml",
)  # fmt: skip
TEACHER = "exp/asr_t_raw_en_bpe36_sp"
# The teacher twice: an ensemble for the price of one training.
ESSENCE = (
    "--kd_config", "conf/essence.yaml", "--teacher_exp", f"{TEACHER} {TEACHER}",
    "--targets_args", "--shards 3",
)  # fmt: skip
TOPK = {"type": "topk", "k": 3, "weight": 0.5, "reduction": "utterance"}
CONFIGS = {
    "t": model(1) | {"init_param": ["loud.pth"]},
    "s": model(1) | {"init_param": ["loud.pth"]},
    "essence": {
        "teacher": {"store": "exp/targets_essence"},
        "task_weight": 0.5,
        "criteria": {"ctc": {**TOPK, "tap": "ctc.ctc_lo"}, "att": {**TOPK, "tap": "decoder"}},
    },
    "greedy": {"beam_size": 1, "ctc_weight": 0.0, "maxlenratio": 0.2, "minlenratio": 0.05},
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = tmp_path_factory.mktemp("corpora")
    train, test = write_switchboard(root / "swbd", 32), write_eval2000(root / "hub5", 4, per_side=1)
    parts = [str(train / part) for part in ("LDC97S62", "swb_ms98_transcriptions")]
    return ("--swbd", *parts, "--eval2000", str(test))


@pytest.fixture()
def recipe(tmp_path: Path) -> Path:
    return copy_recipe(RECIPE, tmp_path / "swbd" / "kd1", "local", "conf")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, corpora: tuple[str, ...]) -> Finished:
    """All twelve stages with models of seconds."""
    root = copy_recipe(RECIPE, tmp_path_factory.mktemp("swbd") / "kd1", "local", "conf")
    for name, config in CONFIGS.items():
        (root / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    others = tmp_path_factory.mktemp("others")
    (others / "fisher").mkdir()
    (others / "fisher/fe_03_00001.txt").write_text("0.1 0.5 A: yeah i._b._m.\n")
    more = ("--rt03", str(write_rt03(others / "rt03")), "--fisher", str(others / "fisher"))
    output = run(root, *corpora, *more, *SMALL, "--stop_stage", "5")
    make_loud(root / "data/en_token_list/bpe_unigram36/tokens.txt", root / "loud.pth")
    output += run(root, *SMALL, "--stage", "6", "--stop_stage", "7")
    return Finished(root, output + run(root, *SMALL, *ESSENCE, "--stage", "8"))


def keys(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


def test_the_corpora_must_be_given(recipe: Path, corpora: tuple[str, ...]) -> None:
    assert "error: give --swbd DIRECTORY" in failure(recipe, "--stop_stage", "1")
    errors = failure(recipe, "--stop_stage", "1", *corpora[:3])
    assert "error: give --eval2000 DIRECTORY" in errors and not (recipe / "data").exists()


@pytest.mark.parametrize(
    ("recipe_of", "given", "used", "warned"),
    [
        ("swbd", {"rt03": "a"}, {"test_sets": "eval2000 rt03"}, "what --rt03 makes"),
        (
            "swbd",
            {"fisher": "a", "use_lm": "true"},
            {"lm_train_text": "data/lm_train.txt"},
            "what --fisher makes",
        ),
        ("librispeech", {"librilight": "a"}, {"unlabelled_sets": "librilight"}, "what --librilight makes"),
    ],
)
def test_data_that_no_stage_uses_are_named(
    tmp_path: Path, recipe_of: str, given: dict[str, str], used: dict[str, str], warned: str
) -> None:
    """Stage 1 would make them and nothing more: no table would have such a set, no model learn from it."""
    root = copy_recipe(TEMPLATE.parents[1] / recipe_of / "kd1", tmp_path / "kd1", "local")
    plain = {"swbd": "a", "eval2000": "a", "librispeech": "a", "test_sets": "eval2000", "python": "true"}
    found = [sh(root, "local/data.sh", **{**plain, **given, **more}) for more in ({}, used)]
    assert [result.returncode for result in found] == [0, 0], found
    assert warned in found[0].stderr and "not used without" in found[0].stderr and not found[1].stderr


def test_data_audio_and_tokens(done: Finished) -> None:
    raw = done.root / "dump/raw"
    assert [len(keys(raw / s / "text")) for s in ("train_nodup_sp", "train_dev", "eval2000")] == [78, 6, 4]
    samples = dict(line.split() for line in (raw / "eval2000/utt2num_samples").read_text().splitlines())
    # 0.15 to 0.95 s at 16 kHz, from one channel of a file at 8 kHz
    assert samples["en_4156-A_000025-000085"] == "12800"
    assert "i b m" in (raw / "train_nodup_sp/text").read_text()
    assert keys(done.root / "data/rt03/text")[0] == "fsh_60262-A_000025-000065"
    text = (done.root / "data/lm_train.txt").read_text()
    assert text.startswith("fe_03_00001-A-000010-000050 yeah i b m\n") and "\nsw02" in text
    tokens = done.root / "data/en_token_list/bpe_unigram36/tokens.txt"
    assert tokens.read_text().startswith("<blank>\n<unk>\n")


def test_a_student_learns_the_essence_of_an_ensemble_and_is_scored_and_packed(done: Finished) -> None:
    stages = [line.partition(":")[0] for line in done.output.splitlines() if ": took " in line]
    assert stages == [f"stage {n}" for n in range(1, 13)]
    store = Store(done.root / "exp/targets_essence").manifest
    assert (store.utterances, len(store.teachers), {tap.k for tap in store.taps.values()}) == (84, 2, {3})
    assert len(store.shards) == 3
    student = done.root / "exp/asr_s_essence_raw_en_bpe36_sp"
    assert json.loads((student / "run.json").read_text())["teachers"] == [TEACHER, TEACHER]
    assert "loss_kd_att" in (student / "train.log").read_text()
    assert (
        done.output.count("\nscored by ") == 4
    )  # the ensemble's two members, the student alone and distilled
    alone = json.loads((done.root / "exp/asr_s_raw_en_bpe36_sp/run.json").read_text())
    assert alone["done"] and alone["teachers"] == []
    parts = [
        alignment.read_score(student / "greedy_asr_model_valid.acc.ave" / f"eval2000_{part}").total["wer"]
        for part in ("swbd", "callhm", "all")
    ]
    assert parts[0].reference + parts[1].reference == parts[2].reference > 0
    assert parts[2].reference > parts[2].deletions  # not every word is missing
    table = (done.root / "RESULTS.md").read_text()
    for heading in ("eval2000_swbd", "eval2000_callhm", "eval2000_all", "train_dev", "Stored targets"):
        assert f"\n## {heading}" in table
    assert table.count("| distilled: att, ctc |") >= 4 and table.count("| student |") >= 4
    output = run(done.root, *SMALL, *ESSENCE, "--dry_run", "true")
    assert "stage 9: student\n" in output and "nothing was done" in output
    assert len(list(student.glob("*.zip"))) == 1


@pytest.mark.parametrize("path", sorted((RECIPE / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_a_configuration_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ") and isinstance(yaml.safe_load(text), dict)
    assert all(f"\n# {word}:" in text for word in ("Needs", "Command", "Cost"))


def test_the_official_scorer_runs_on_the_test_set_alone(done: Finished) -> None:
    out = done.root / "perfect/decode/eval2000"
    out.mkdir(parents=True)
    shutil.copy(done.root / "data/eval2000/text", out)
    result = sh(done.root, "local/score.sh", "eval2000", str(out))
    assert result.returncode == 0 and result.stdout.startswith("scored by "), result.stderr
    parts = [
        alignment.read_score(out.with_name(f"eval2000_{part}")).total["wer"]
        for part in ("swbd", "callhm", "all")
    ]
    assert parts[0] + parts[1] == parts[2] and parts[2].errors == 0 and parts[2].reference > 0
    assert sh(done.root, "local/score.sh", "train_dev", "nowhere").stdout == ""


def test_stage_11_scores_and_tabulates_the_parts_of_the_test_set(recipe: Path, tmp_path: Path) -> None:
    tag = "decode_asr_model_valid.acc.ave"
    student, other = f"exp/asr_student_conformer_kd_kl_raw_en_bpe2000_sp/{tag}", f"exp/other/{tag}"
    for name in ("train_dev", "eval2000"):
        decoded = [f"{directory}/{name}/text" for directory in (student, other)]
        for file in (f"dump/raw/{name}/wav.scp", f"dump/raw/{name}/text", *decoded):
            os.utime(script(recipe / file, ""), (1, 1))  # the scores are newer, but one
    script(recipe / f"exp/still_decoding/{tag}/train_dev/text", "")
    for directory, scored in ((student, 2), (f"exp/scored/{tag}", 2), (other, 0)):  # it was decoded again
        for name in ("train_dev", "eval2000"):
            for file, time in (("text", 1), ("score.json", scored)):
                os.utime(script(recipe / directory / name / file, ""), (time, time))
    notes = '#!/usr/bin/env bash\necho "$*" >> "${calls}"\n[ "$3" != peers ] || echo "$4"\n'
    python = script(tmp_path / "python", notes)  # only notes its calls
    options = ("--stage", "11", "--stop_stage", "11", "--student_alone", "false")
    run(recipe, *options, "--teacher_config", "", "--python", str(python), calls=str(tmp_path / "calls"))
    called = [
        line.removeprefix("-m espnet_kd ") for line in (tmp_path / "calls").read_text().splitlines()[1:]
    ]
    each = ["score", "score", "score-eval2000"]
    assert [line.split()[0] for line in called] == ["peers", *each, *each, "report"]
    assert called[3] == f"score-eval2000 {student}/eval2000 --data data/eval2000"
    assert called[6] == f"score-eval2000 {other}/eval2000 --data data/eval2000"
    assert " --test_sets eval2000_swbd eval2000_callhm eval2000_all --valid_set train_dev " in called[7]
