"""AN4's scripts of experiments, with a recipe that only notes how it is called."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from shell import TEMPLATE, script

AN4 = TEMPLATE.parents[1] / "an4" / "kd1"
# run.sh and python3: both note their calls; the best of some experiments is always the first.
NOTE = """#!/usr/bin/env bash
line=$(printf '%q ' "$@")
echo "$line" >> {calls}  # in one piece: two may come at once
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
    (root / "path.sh").write_text('PATH=$PWD/bin:$PATH\n')
    done = subprocess.run(
        [f"./{request.param}", "--an4", "speech"],
        cwd=root, env={**os.environ, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60,
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
    """Of every row, whose calls differ in nothing but the seed."""
    rows: dict[str, list[bool]] = {}
    for call in (call for call in calls if 9 in stages(call)):
        args = " ".join(call.get("--student_args", []))
        key = repr(call | {"--student_args": [re.sub(r"--seed \d+ ?", "", args).strip()]})
        rows.setdefault(key, []).append("--seed" in args)
    assert rows and all(not of_one[0] for of_one in rows.values())
    assert any(len(of_one) == 3 for of_one in rows.values())


def test_the_last_table_knows_every_way_of_decoding(calls: list[dict[str, list[str]]]) -> None:
    """A table has the results of two: a student's and the teacher's."""
    keys = ("--inference_config", "--teacher_inference_config")
    ways: dict[str, set[str]] = {}
    last: dict[str, set[str]] = {}
    for call in calls:
        table = "".join(call.get("--results_md", []))
        chosen = {"".join(call[key]) for key in keys if key in call}
        if 10 in stages(call):
            ways.setdefault(table, set()).update(chosen)
        if 11 in stages(call):
            last[table] = chosen
    assert all(ways[table] <= last[table] for table in ways)
