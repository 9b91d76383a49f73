"""The first stages of the recipe for AN4, on a miniature of it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from miniature import contents, write_an4
from shell import TEMPLATE, copy_recipe, run, sh

RECIPE = TEMPLATE.parents[1] / "an4" / "kd1"


@pytest.mark.parametrize(
    ("words", "distils"),
    [
        ([], True),
        (["--an4", "x", "--stage", "9"], True),
        (["--student_config", "conf/student_jasper_mini.yaml"], False),
        (["--asr_task=asr_transducer"], False),
        (["--teacher_config", ""], False),
    ],
)
def test_the_bare_recipe_distils_and_another_model_does_not(
    words: list[str], distils: bool, tmp_path: Path
) -> None:
    (tmp_path / "run.sh").write_text((RECIPE / "run.sh").read_text())
    (tmp_path / "kd.sh").write_text('printf "%s\\n" "$@"\n')
    (tmp_path / "kd.sh").chmod(0o755)
    given = sh(tmp_path, "bash", "run.sh", *words).stdout.splitlines()
    assert given[len(given) - len(words) :] == words
    assert ("conf/kd_kl_hidden.yaml" in given, "--student_alone" in given) == (distils, distils)


@pytest.mark.slow(seconds=15)
@pytest.mark.long
def test_folds_at_the_same_time_keep_apart_and_leave_the_official_sets(tmp_path: Path) -> None:
    recipe = copy_recipe(RECIPE, tmp_path / "kd1", "local", "conf")
    corpus = write_an4(tmp_path / "an4")
    options = ["--an4", str(corpus), "--nj", "1", "--stop_stage", "5", "--speed_perturb_factors", ""]
    options += ["--min_wav_duration", "0.05"]
    run(recipe, *options)
    official = contents(recipe / "data") | contents(recipe / "dump")

    def prepare(fold: int) -> None:
        sets = {"train": "--train_set", "dev": "--valid_set", "test": "--test_sets"}
        names = [word for name, option in sets.items() for word in (option, f"{name}_fold{fold}")]
        run(recipe, *options, "--an4_folds", "3", *names, "--lang", f"en_fold{fold}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(prepare, (1, 2)))
    made = contents(recipe / "data") | contents(recipe / "dump")
    assert {name: made[name] for name in official} == official
    for fold, speaker in ((1, "fclc"), (2, "fash")):  # of the training set
        text = (recipe / f"dump/raw/train_fold{fold}/text").read_text()
        assert {line.split("-")[0] for line in text.splitlines()} == {speaker}
        tokens = (recipe / f"data/en_fold{fold}_token_list/char/tokens.txt").read_text().split()
        words = [line.split(maxsplit=1)[1] for line in text.splitlines()]
        assert set(tokens[1:-1]) - {"<unk>", "<space>"} == set("".join(words)) - {" "}
