"""tools/install.sh: .venv follows setup.py, and an interrupted installation is done again."""

import shutil
import subprocess
from pathlib import Path

import pytest
from source import ROOT

# A Python that notes what it is asked to install; a file `offline` makes that fail, `no-uv` getting uv.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
    -c*) echo "$0" ;;
    -V) echo "Python 3.12.${minor:-1}" ;;
    "-m venv "*) echo venv >>log; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip install"*uv*) echo get-uv >>log; [[ ! -e no-uv ]] ;;
    "-m uv pip install"*) echo uv >>log; [[ ! -e offline ]] ;;
    "-m pip install"*) echo pip >>log ;;
    *) exit 9 ;;
esac
"""


class Checkout:
    """A copy of the tools in a folder of their own, with the fake Python."""

    def __init__(self, root: Path):
        self.root, self.log = root / "checkout", root / "checkout" / "log"
        shutil.copytree(ROOT / "tools", self.root / "tools")
        (self.root / "setup.py").write_text("first")
        self.python = root / "python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def install(self, **variables: str) -> tuple[int, list[str]]:
        """Exit status, and what the fake Python was asked for."""
        self.log.write_text("")
        env = {"PATH": "/usr/bin:/bin", "PYTHON": str(self.python), **variables}
        status = subprocess.run([self.root / "tools" / "install.sh"], env=env, capture_output=True).returncode
        return status, self.log.read_text().split()

    def stamps(self) -> int:
        return len(list((self.root / ".venv").glob(".installed-*")))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_second_time_there_is_nothing_to_do(checkout: Checkout) -> None:
    assert checkout.install() == (0, ["venv", "get-uv", "uv"])
    assert checkout.install() == (0, [])


def test_a_changed_setup_installs_again_into_the_same_environment(checkout: Checkout) -> None:
    checkout.install()
    (checkout.root / "setup.py").write_text("second")
    assert checkout.install() == (0, ["get-uv", "uv"])
    assert checkout.stamps() == 1


def test_without_uv_pip_does_it(checkout: Checkout) -> None:
    (checkout.root / "no-uv").touch()
    assert checkout.install() == (0, ["venv", "get-uv", "pip"])


def test_an_interrupted_installation_starts_afresh(checkout: Checkout) -> None:
    (checkout.root / "offline").touch()
    status, _ = checkout.install()
    assert status != 0 and checkout.stamps() == 0
    (checkout.root / "offline").unlink()
    assert checkout.install() == (0, ["venv", "get-uv", "uv"])


def test_half_an_environment_is_no_obstacle(checkout: Checkout) -> None:
    (checkout.root / ".venv" / "bin").mkdir(parents=True)
    (checkout.root / ".venv" / "bin" / "python").symlink_to("nowhere")
    assert checkout.install() == (0, ["venv", "get-uv", "uv"])


def test_an_interrupted_update_starts_afresh(checkout: Checkout) -> None:
    checkout.install()
    (checkout.root / "setup.py").write_text("second")
    (checkout.root / "offline").touch()
    assert checkout.install()[0] != 0
    (checkout.root / "offline").unlink()
    assert checkout.install() == (0, ["venv", "get-uv", "uv"])


def test_another_python_than_that_of_the_environment_is_refused(checkout: Checkout) -> None:
    checkout.install()
    other = checkout.python.with_name("other")
    other.write_text(FAKE_PYTHON.replace("minor:-1", "minor:-2"))
    other.chmod(0o755)
    status, asked = checkout.install(PYTHON=str(other))
    assert (status, asked) == (1, [])
