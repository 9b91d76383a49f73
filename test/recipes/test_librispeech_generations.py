"""The recipe for LibriSpeech from a tree of it to the second generation of students, on a miniature."""

import json
from pathlib import Path

import pytest
import yaml
from miniature_librispeech import write_librispeech
from shell import TEMPLATE, copy_recipe, failure, make_loud, model, run

pytestmark = [pytest.mark.slow(seconds=55), pytest.mark.long]

RECIPE = TEMPLATE.parents[1] / "librispeech" / "kd1"
PARTS = {"dev-clean": 2, "dev-other": 2, "train-clean-100": 24, "train-clean-360": 6}
OPTIONS = (
    "--train_set", "train_clean_100", "--lang", "en_100", "--test_sets", "dev_clean dev_other",
    "--nbpe", "30",
    "--unlabelled_sets", "train_clean_360", "--unlabelled_share", "0.5", "--generation", "2",
    "--pseudo_label_args", "--max_rate 1000 --max_repeats 1000",
    "--teacher_config", "conf/t.yaml", "--student_config", "conf/s.yaml", "--kd_config", "conf/kl.yaml",
    "--inference_config", "conf/greedy.yaml", "--speed_perturb_factors", "", "--ngpu", "0",
    "--nj", "1", "--inference_nj", "1",
)  # fmt: skip
STUDENT = "asr_s_kl_raw_en_100_bpe30_train_clean_360_share0.5_max_rate1000_max_repeats1000_gen{}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipe with models of seconds; they hear nothing, but speak, see ``make_loud``."""
    root = copy_recipe(RECIPE, tmp_path_factory.mktemp("librispeech") / "kd1", "local")
    quick = {"init_param": ["loud.pth"]}
    configs = {
        "t": model(1) | quick,
        "s": model(1) | quick,
        "kl": {"criteria": {"ctc": {"type": "kl", "weight": 1.0, "tap": "ctc.ctc_lo"}}},
        "greedy": {"beam_size": 1, "ctc_weight": 0.0, "maxlenratio": 0.1, "minlenratio": 0.05},
    }
    (root / "conf").mkdir()
    for name, config in configs.items():
        (root / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return root


def check_student_alone(recipe: Path) -> None:
    """By itself run.sh trains the student without a teacher as well, on the transcripts alone."""
    record = json.loads((recipe / "exp/asr_s_raw_en_100_bpe30/run.json").read_text())
    assert (record["role"], record["teachers"], record["mix"], record["done"]) == ("student", [], None, True)
    rows = (recipe / "RESULTS.md").read_text().partition("## dev_clean")[2].partition("##")[0]
    assert [f"| {kind}" in rows for kind in ("teacher", "student", "distilled: ctc")] == [True] * 3


def check_development_set(recipe: Path, output: str) -> None:
    """It is never decoded, because it consists of two test sets; it has their hypotheses, and a score."""
    for exp in (recipe / "exp").glob("asr_[st]_*"):
        tag = exp / "greedy_asr_model_valid.acc.ave"
        parts = [(tag / name / "text").read_text() for name in ("dev_clean", "dev_other")]
        assert (tag / "dev/text").read_text() == "".join(sorted("".join(parts).splitlines(keepends=True)))
        assert (tag / "dev/score.json").exists() and not (tag / "dev/logdir/keys.1.scp").exists()
    assert "/dev: decoded" not in output and output.count("/dev_clean: decoded by 1 jobs") >= 4


def check_dry_run(recipe: Path, command: tuple[str, ...]) -> None:
    """It says what every stage does and costs, from lists and statistics, and changes nothing."""
    before = {path: path.stat().st_mtime_ns for path in recipe.rglob("*")}
    output = run(recipe, *command, "--dry_run", "true")
    assert {path: path.stat().st_mtime_ns for path in recipe.rglob("*")} == before
    heads = [line.partition(":")[0] for line in output.splitlines() if line.startswith("stage ")]
    assert heads == [f"stage {n}" for n in range(1, 13)]
    assert "(train_clean_100 has 0.0 hours of speech, dump/raw/train_clean_100; measured with" in output
    assert "data/dev (is there)" in output and " s of speech on the CPU at a time, " in output
    assert "nothing was done" in output.splitlines()[-2] and "--generation 2" in output.splitlines()[-1]


def test_all_stages_and_a_second_generation(recipe: Path, tmp_path: Path) -> None:
    corpus = write_librispeech(tmp_path / "LibriSpeech", PARTS)
    command = ("--librispeech", str(corpus), *OPTIONS)
    output = run(recipe, *command, "--stop_stage", "5")
    make_loud(recipe / "data/en_100_token_list/bpe_unigram30/tokens.txt", recipe / "loud.pth")
    output += run(recipe, *command, "--stage", "6")
    assert [line.partition(":")[0] for line in output.splitlines() if ": took " in line] == [
        *(f"stage {n}" for n in (*range(1, 12), *range(8, 13)))
    ]
    first, second = (recipe / "exp" / STUDENT.format(g) for g in (1, 2))
    for exp, teacher in ((first, "asr_t_raw_en_100_bpe30"), (second, first.name)):
        record = json.loads((exp / "run.json").read_text())
        assert record["teachers"] == [record["mix"]["teacher"]] == [f"exp/{teacher}"]
        assert record["mix"]["pseudo"][0]["references"]["decoded"]["wer"]["reference"] > 0
        data = recipe / "dump/raw/pseudo" / exp.name / "mix"
        names = [line.split()[0] for line in (data / "speech_shape").read_text().splitlines()]
        pseudo = [name for name in names if name.startswith("pseudo-")]
        assert names == [line.split()[0] for line in (data / "text").read_text().splitlines()]
        assert "share_per_batch: pseudo-labelled speech is " in (exp / "train.log").read_text()
        assert len(pseudo) > 6 and len(names) - len(pseudo) == 24  # those that were kept, repeatedly
    table = (recipe / "RESULTS.md").read_text().partition("## Generations")[2]
    assert "| 1 | " in table and "| 2 | " in table
    assert len(list((recipe / "exp").glob("asr_s_*_gen?/*.zip"))) == 1
    stopped = "generation 2 is not better on dev" in output
    assert stopped == (not list(second.glob("*.zip")))
    check_student_alone(recipe)
    check_development_set(recipe, output)
    check_dry_run(recipe, command)
    other = ("--unlabelled_share", "0.7", "--stage", "9", "--stop_stage", "9")
    assert "needs dump/raw/pseudo/" in failure(recipe, *command, *other)
