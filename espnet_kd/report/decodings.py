"""How the sets of a report were decoded: rows that were not decoded alike, or not with the present model.

kd.sh leaves what a set was decoded with in ``EXP/TAG/SET/logdir/inputs``, see ``decode`` of
``utils/decoding.sh``: the lines of ``cksum`` for tables, configuration and model, and then a fingerprint of
the speech with the options of decoding behind it. Sets that other tools have decoded have no such file.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from espnet_kd.report.run import Run

INPUTS = "logdir/inputs"
HOW = re.compile(r"^[0-9a-f]{32}( .*|)\Z", re.MULTILINE | re.DOTALL)  # speech and options
PROGRAM = re.compile(r" asr(_transducer)?_inference(_streaming)?")  # named with --use_streaming
CHECKSUM = re.compile(r"^(\d+ \d+) (.+\.pth)$", re.MULTILINE)


def warnings(runs: Iterable[Run], sets: Iterable[str]) -> list[tuple[str, str]]:
    """Return names of runs, each with what is wrong with how it was decoded."""
    found, runs = [], list(runs)
    for name in sets:
        texts = [(run, _read(run, name)) for run in runs if name in run.scores]
        ways = {run.name: PROGRAM.sub("", how[0]) for run, text in texts if (how := HOW.search(text))}
        counted = Counter((run.inference_tag, ways[run.name]) for run, _ in texts if run.name in ways)
        usual = {tag: way for (tag, way), _ in reversed(counted.most_common())}  # the most common one is last
        for run, text in texts:
            if run.name in ways and ways[run.name] != usual[run.inference_tag]:
                found.append((run.name, f"was decoded on {name} with other options or speech than others"))
            models = [(run.directory / Path(path).name, old) for old, path in CHECKSUM.findall(text)]
            if models and _is_other(*models[0]):  # others are of language models
                found.append((run.name, f"was decoded on {name} with another checkpoint than it has now"))
    return found


def tags(runs: Iterable[Run]) -> list[str]:
    """Return the different tags under which the shown sets of some runs were decoded."""
    return list(dict.fromkeys(str(run.inference_tag) for run in runs if run.scores))


def _read(run: Run, name: str) -> str:
    """Return what a set was decoded with; empty if that is unknown.

    What a scorer of the corpus has made, such as eval2000_swbd, is a part of the set without the last word.
    """
    for part in (name, name.rpartition("_")[0]):
        path = run.directory / str(run.inference_tag) / part / INPUTS
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
    return ""


def _is_other(model: Path, checksum: str) -> bool:
    """Return whether a file has another checksum; False if it is gone."""
    return model.is_file() and checksum != (_cksum(model, model.stat().st_mtime_ns) or checksum)


@cache
def _cksum(path: Path, _: int) -> str:
    """Return checksum and size of a file as ``cksum`` prints them; empty without that program."""
    try:
        printed = subprocess.run(["cksum", path], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return " ".join(printed.split()[:2])
