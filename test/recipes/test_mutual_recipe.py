"""What a recipe refuses of peers; all stages with them are in test_csj_recipe.py."""

from pathlib import Path

import pytest
from shell import failure

OPTIONS = ("--kd_config", "conf/mutual.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--peers", "all"), "--peers all is not each, first or ensemble"),
        (
            ("--peers", "ensemble", "--asr_task", "asr_transducer"),
            "--peers ensemble: transducers cannot be decoded together",
        ),
        (("--generation", "2"), "--kd_config conf/mutual.yaml: peers have no teacher: leave out"),
        (("--unlabelled_sets", "extra"), "--kd_config conf/mutual.yaml: peers have no teacher: leave out"),
    ],
)
def test_options_that_do_not_fit(recipe: Path, options: tuple[str, ...], message: str) -> None:
    (recipe / "conf" / "mutual.yaml").write_text("mutual: {peers: 2}\n")
    errors = failure(recipe, *OPTIONS, *options)
    assert errors.startswith(f"kd.sh: error: {message}") and errors.count("\n") == 1
