"""utils/parse_options.sh: values, lists, help, and what is refused."""

from pathlib import Path

import pytest
from shell import link_template, script, sh

PROBE = r"""#!/usr/bin/env bash
set -euo pipefail
# options
# Numbers
nj=4                # processes
max_size=$((2 * 5)) # computed
# Models
teacher_config=     # list: teachers
student_args=       # options of training
student_config=     # the student
# end of options
helper=unseen
. utils/parse_options.sh probe.sh -- "$@"
printf '%s|' "${nj}" "${max_size}" "${teacher_config}" "${student_args}" "${student_config}" "${helper}"
"""


@pytest.fixture()
def probe(tmp_path: Path) -> Path:
    script(link_template(tmp_path / "recipe") / "probe.sh", PROBE)
    return tmp_path / "recipe"


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], "4|10||||unseen|"),
        (["--nj", "7"], "7|10||||unseen|"),
        (["--nj=7", "--max-size", "3"], "7|3||||unseen|"),
        (["--nj", "7", "--nj", "8"], "8|10||||unseen|"),
        (["--teacher_config", "a.yaml", "b.yaml", "--nj", "2"], "2|10|a.yaml b.yaml|||unseen|"),
        (["--teacher_config", "a.yaml b.yaml"], "4|10|a.yaml b.yaml|||unseen|"),
        (["--student_args", "--seed 2"], "4|10||--seed 2||unseen|"),
        (["--student_args=--seed=2"], "4|10||--seed=2||unseen|"),
        (["--student_config", "my conf/$(touch x).yaml"], "4|10|||my conf/$(touch x).yaml|unseen|"),
        (["--student_config", ""], "4|10||||unseen|"),
    ],
)
def test_values(probe: Path, words: list[str], values: str) -> None:
    result = sh(probe, "./probe.sh", *words)
    assert (result.stdout, result.stderr, result.returncode) == (values, "", 0)
    assert not (probe / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--student_confg", "a"],
            "unknown option --student_confg; did you mean --student_config or --student_args?",
        ),
        (["--helper", "a"], "unknown option --helper; --help lists them all"),
        (["--nj"], "--nj needs a value"),
        (["--student_config", "--nj", "3"], "--student_config needs a value"),
        (["--nj", "3", "4"], "--nj takes one value: '3' is followed by '4'"),
        (["stray"], "'stray' is not an option"),
    ],
)
def test_mistakes_are_one_line(probe: Path, words: list[str], message: str) -> None:
    result = sh(probe, "./probe.sh", *words)
    assert result.returncode == 2
    assert result.stderr.startswith(f"probe.sh: error: {message}")
    assert result.stderr.count("\n") == 1


def test_help_shows_groups_comments_and_defaults(probe: Path) -> None:
    lines = sh(probe, "./probe.sh", "--help").stdout.splitlines()
    assert lines[0] == "usage: ./probe.sh [--option value]..."
    assert "Numbers" in lines and "Models" in lines
    assert [line.split() for line in lines if "--max_size" in line] == [
        ["--max_size", "computed", "(default:", '"10")']
    ]
    assert not [line for line in lines if "helper" in line]
