"""tools/find_python.sh: a Python that really runs, or one line on what to install."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from source import ROOT

BASH = shutil.which("bash")
WRONG_VERSION, NO_ENSUREPIP, BROKEN_SHIM = 3, 1, 127


class Machine:
    """A machine with only the interpreters that are put on it."""

    def __init__(self, root: Path):
        self.path, self.pyenv, self.variables = root / "bin", root / "pyenv", {}
        self.path.mkdir()

    def put(self, file: Path, status: int = 0) -> Path:
        """An interpreter that answers the probe with its path, or fails with this status."""
        file.parent.mkdir(parents=True, exist_ok=True)
        # One that lacks modules still runs an empty program; a broken shim runs nothing.
        empty = 0 if status == NO_ENSUREPIP else status
        answer = f'(( {status} )) || echo "$0"'
        lines = (f"#!{BASH}", f"[[ -n $2 ]] || exit {empty}", answer, f"exit {status}")
        file.write_text("\n".join(lines) + "\n")
        file.chmod(0o755)
        return file

    def find(self) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.path), "PYENV_ROOT": str(self.pyenv), **self.variables}
        command = [BASH, ROOT / "tools" / "find_python.sh"]
        return subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_real_interpreter_passes_the_probe(machine: Machine) -> None:
    machine.variables["PYTHON"] = sys.executable
    result = machine.find()
    assert result.returncode == 0, result.stderr
    version = subprocess.run([result.stdout.strip(), "-V"], capture_output=True, text=True).stdout
    assert version.split()[1] == sys.version.split()[0]


def test_the_first_on_the_path_is_taken(machine: Machine) -> None:
    machine.put(machine.path / "python3.13")
    expected = machine.put(machine.path / "python3.12")
    assert machine.find().stdout == f"{expected}\n"


def test_a_shim_that_does_not_run_is_passed_over_for_pyenvs_own(machine: Machine) -> None:
    machine.put(machine.path / "python3.12", BROKEN_SHIM)
    machine.put(machine.path / "python3", WRONG_VERSION)
    expected = machine.put(machine.pyenv / "versions" / "3.13.0" / "bin" / "python3.13")
    assert machine.find().stdout == f"{expected}\n"


def test_python3_is_the_last_resort(machine: Machine) -> None:
    expected = machine.put(machine.path / "python3")
    assert machine.find().stdout == f"{expected}\n"


def test_the_users_choice_comes_first(machine: Machine) -> None:
    machine.put(machine.path / "python3.12")
    expected = machine.put(machine.path / "mine")
    machine.variables["PYTHON"] = "mine"
    assert machine.find().stdout == f"{expected}\n"


def test_the_users_choice_is_not_replaced_when_it_does_not_fit(machine: Machine) -> None:
    machine.put(machine.path / "python3.12")
    machine.variables["PYTHON"] = str(machine.put(machine.path / "old", WRONG_VERSION))
    result = machine.find()
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"PYTHON={machine.path}/old is not a working Python 3.12 or 3.13")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (WRONG_VERSION, "no Python 3.12 or 3.13 found: install one"),
        (BROKEN_SHIM, "no Python 3.12 or 3.13 found: install one"),
        (NO_ENSUREPIP, "python3.12 lacks venv, ensurepip, ssl or ctypes: install them"),
    ],
)
def test_without_one_a_single_line_says_what_to_install(machine: Machine, status: int, message: str) -> None:
    machine.put(machine.path / "python3.12", status)
    result = machine.find()
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert message in result.stderr
