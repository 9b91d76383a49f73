"""AN4's scripts of experiments, with a recipe that only notes how it is called."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from shell import TEMPLATE, script

AN4 = TEMPLATE.parents[1] / "an4" / "kd1"
# run.sh and python3: both note their calls; the best of some experiments is always the first.
NOTE = """#!/usr/bin/env bash
printf '%q ' "$@" >> {calls}
echo >> {calls}
[ "$3" != best ] || for word; do [[ $word != exp* ]] || {{ echo "$word"; break; }}; done
"""


@pytest.fixture(params=sorted(path.name for path in AN4.glob("experiments*.sh")))
def calls(request: pytest.FixtureRequest, tmp_path: Path) -> list[dict[str, list[str]]]:
    """The options of each call of run.sh, while the script ran to its end."""
    root = tmp_path / "kd1"
    shutil.copytree(AN4 / "conf", root / "conf")
    for name in ("run", "python"):
        script(root / "bin" / name, NOTE.format(calls=shlex.quote(str(root / name))))
    shutil.copy(root / "bin/run", root / "run.sh")
    shutil.copy(root / "bin/python", root / "bin/python3")
    shutil.copy(AN4 / request.param, root / request.param)
    (root / "path.sh").touch()
    path = f"{root / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [f"./{request.param}", "--an4", "speech"],
        cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [options(shlex.split(line)) for line in (root / "run").read_text().splitlines()]
    for call in found:
        for value in (word for words in call.values() for word in words):
            for file in value.split():
                assert not file.endswith(".yaml") or (root / file).is_file(), f"{file} does not exist"
    return found


def options(words: list[str]) -> dict[str, list[str]]:
    """Option to its words; the last of several counts, as in a recipe."""
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--") and " " not in word:
            found[current := word] = []
        else:
            found[current].append(word)
    return found


def student(call: dict[str, list[str]]) -> tuple[object, ...]:
    """What names a student."""
    keys = ("--student_config", "--student_args", "--kd_config", "--expdir")
    return tuple(" ".join(call.get(key, ())) for key in keys)


def stages(call: dict[str, list[str]]) -> range:
    return range(int(call.get("--stage", ["1"])[0]), 1 + int(call.get("--stop_stage", ["12"])[0]))


def test_the_table_is_made_after_all_trainings(calls: list[dict[str, list[str]]]) -> None:
    assert 11 in stages(calls[-1])
    trained = {student(call) for call in calls if 9 in stages(call)}
    assert student(calls[-1]) in trained, "stage 11 needs a student that was trained"


def test_first_seeds_come_first(calls: list[dict[str, list[str]]]) -> None:
    """A student's first seed before its others."""
    seeds: dict[object, list[bool]] = {}
    for call in calls:
        if 9 in stages(call):
            key = (*call.get("--expdir", ()), *call.get("--student_config", ()), *call.get("--kd_config", ()))
            seeds.setdefault(key, []).append("--seed" in " ".join(call.get("--student_args", [])))
    assert seeds and all(not of_one[0] for of_one in seeds.values())
