"""A miniature recipe: untouched, and after all twelve stages."""

from pathlib import Path

import pytest
from shell import Finished, run, write_corpus, write_recipe


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directories; there is a space in their path."""
    return write_corpus(tmp_path_factory.mktemp("a corpus"), train=12, dev=4, test=3)


@pytest.fixture()
def recipe(tmp_path: Path, corpus: Path) -> Path:
    """A recipe of which no stage has run."""
    return write_recipe(tmp_path / "mini" / "kd1", corpus)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Finished:
    """A recipe of which every stage has run; tests leave it as it is."""
    root = write_recipe(tmp_path_factory.mktemp("finished") / "kd1", corpus)
    return Finished(root, run(root, "--kd_config", "conf/kl.yaml"))
