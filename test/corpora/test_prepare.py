import importlib.util
from pathlib import Path

import pytest
from miniature import write_an4

from espnet_kd.corpora.prepare import CORPORA, main
from espnet_kd.errors import UserError


def test_a_corpus_gets_its_arguments(tmp_path: Path) -> None:
    main(["an4", str(write_an4(tmp_path / "an4")), str(tmp_path / "data")])
    assert (tmp_path / "data" / "dev" / "wav.scp").exists()


def test_an_unknown_corpus_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown corpus 'an5': known are an4, "):
        main(["an5", "data"])


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_help_lists_the_corpora(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    main(argv)
    assert all(f"  {name} " in capsys.readouterr().out for name in ["an4"])


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_has_a_module(name: str) -> None:
    assert importlib.util.find_spec(CORPORA[name][0])
