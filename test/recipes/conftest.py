"""A miniature recipe: untouched, and after all twelve stages."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
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
    """A recipe of which every stage has run; tests leave it as it is. Processes of pytest-xdist share it."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    root, output = common / "finished" / "kd1", common / "finished" / "output"
    with FileLock(common / "finished.lock"):
        if not output.exists():
            shutil.rmtree(root, ignore_errors=True)  # of a process that failed
            write_recipe(root, corpus)
            output.write_text(run(root, "--kd_config", "conf/kl.yaml"))
    return Finished(root, output.read_text())
