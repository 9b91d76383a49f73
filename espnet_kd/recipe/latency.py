"""The table of emission delays in RESULTS.md: what a transducer's error rate costs in time."""

import json
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.recipe.delay import NAME
from espnet_kd.recipe.groups import Group
from espnet_kd.recipe.tables import code, plain, table

NOTE = """\
Delay: of the moment in the speech at which a token is emitted, by the most probable alignments of student and
teacher with the reference, over tokens of the validation set. Chunk: speech that the encoder sees at a time,
for which it waits; all: the whole of it."""


def section(groups: list[Group], sets: list[str]) -> list[str]:
    """Heading, table and note; nothing where no delay was measured.

    Raises:
        UserError: a file of delays cannot be read.
    """
    metric, rows = groups[0].metric, []
    for group in groups:
        for run in group.runs:
            found = read(run.directory)
            if found is None:
                continue
            rates = [f"{run.scores[name].rate(metric):.1f}" if name in run.scores else "" for name in sets]
            chunk = "all" if found["chunk_ms"] is None else f"{found['chunk_ms']:.0f}"
            delays = [f"{found[f'{name}_ms']:+.0f}" for name in ("mean", "median", "p90")]
            rows.append([code(run.name), plain(group.label), *rates, chunk, *delays])
    if not rows:
        return []
    head = ["run", "model", *(f"{plain(name)} {metric.upper()} %" for name in sets), "chunk ms"]
    delays = ["mean delay ms", "median ms", "90 % below ms"]
    return ["## Emission delay", table([*head, *delays], rows), NOTE]


def read(directory: Path) -> dict[str, Any] | None:
    """What `delay` wrote for an experiment, or None.

    Raises:
        UserError: it is damaged.
    """
    path = directory / NAME
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        numbers = {key: float(found[key]) for key in ("mean_ms", "median_ms", "p90_ms")}
        chunk = found["chunk_ms"]
        return {"chunk_ms": None if chunk is None else float(chunk), **numbers}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is damaged: remove it and run stage 11 again") from None
