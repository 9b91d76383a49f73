"""tools/espnet_versions.sh: two environments or three, a line for each, and what broke in ESPnet."""

import shutil
import subprocess
from pathlib import Path

import pytest
from source import ROOT

# A Python that resolves packages to the version in a file, and whose tests end with the result in a file.
FAKE_PYTHON = """#!/usr/bin/env bash
root=@ROOT@ name=$(basename "$(dirname "$(dirname "$0")")")
case "$*" in
    -c*) echo "$0" ;;
    -V) echo "Python 3.12.1" ;;
    "-m venv "*) echo "venv $(basename "$3")" >>"${root}/log"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip install"*) ;;
    "-m uv pip compile"*)
        while [[ $1 != --output-file ]]; do shift; done
        version=202611
        grep -q '<202612' "$3" || version=$(cat "${root}/newest" 2>/dev/null || echo 202611)
        printf 'espnet==%s\\ntorch==2.11.0\\nnumpy==2.0.0\\n' "${version}" >"$2" ;;
    "-m uv pip sync"*) echo "sync $(basename "${!#}" .txt)" >>"${root}/log" ;;
    "-m pytest"*)
        if [[ -e ${root}/broken.${name} ]]; then
            echo "E   AssertionError: ESPnet has no thing any more: used by host/models.py"
            echo "E   assert None is not None"
            echo "1 failed, 2 passed in 3.00s"
            exit 1
        fi
        echo "3 passed in 2.00s" ;;
    *) exit 9 ;;
esac
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the tools, with the fake Python beside it."""
    shutil.copytree(ROOT / "tools", tmp_path / "checkout" / "tools")
    shutil.copy(ROOT / "setup.py", tmp_path / "checkout" / "setup.py")
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON.replace("@ROOT@", str(tmp_path)))
    python.chmod(0o755)
    return tmp_path


def run(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "PYTHON": str(root / "python")}
    command = [str(root / "checkout" / "tools" / "espnet_versions.sh"), *options]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_both_ends_of_the_range_are_tested_in_environments_that_stay(root: Path) -> None:
    result = run(root, "--dir", str(root / "envs"))
    line = "espnet 202611, torch 2.11.0, numpy 2.0.0, Python 3.12.1: 3 passed in 2.00s"
    assert result.stdout.splitlines() == [f"oldest: {line}", f"newest: {line}"] and result.returncode == 0
    assert (root / "log").read_text().split("\n")[:2] == ["venv uv", "venv oldest"]
    run(root, "--dir", str(root / "envs"))
    assert (root / "log").read_text().count("venv") == 3
    assert (root / "log").read_text().count("sync newest") == 2


def test_what_broke_in_espnet_is_shown(root: Path) -> None:
    (root / "broken.oldest").touch()
    result = run(root, "--dir", str(root / "envs"))
    lines = result.stdout.splitlines()
    assert result.returncode == 1 and lines[0].endswith(": 1 failed, 2 passed in 3.00s")
    assert lines[1] == "    AssertionError: ESPnet has no thing any more: used by host/models.py"
    assert lines[2] == f"    see {root}/envs/oldest.log" and lines[3].startswith("newest: ")


def test_a_release_beyond_the_range_is_tried_when_there_is_one(root: Path) -> None:
    result = run(root, "--dir", str(root / "envs"), "--next", "true")
    assert result.stdout.splitlines()[2] == "next: there is no ESPnet newer than 202611"
    (root / "newest").write_text("202701")
    (root / "broken.next").touch()
    result = run(root, "--dir", str(root / "envs"), "--next", "true")
    assert result.returncode == 1
    assert result.stdout.splitlines()[2].startswith("next: espnet 202701, ")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "usage: tools/espnet_versions.sh --dir FOLDER"),
        (["--dri", "x"], "espnet_versions: unknown option --dri"),
        (["--dir"], "espnet_versions: --dir needs a value"),
    ],
)
def test_a_wrong_option_is_refused(root: Path, options: list[str], error: str) -> None:
    result = run(root, *options)
    assert result.returncode == 1 and result.stderr.startswith(error)
