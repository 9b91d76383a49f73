"""Sections of RESULTS.md on emission delays, generations of noisy students, and target stores."""

import json
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.files import changed_file
from espnet_kd.report.groups import RunGroup
from espnet_kd.report.run import Run
from espnet_kd.report.tables import code, plain, table
from espnet_kd.targets.format import MANIFEST, Manifest
from espnet_kd.targets.store import Store

DELAYS_FILE = "delay.json"  # beside a student
DELAYS_NOTE = """\
Delay: of the moment in the speech at which a token is emitted, by the most probable alignments of student and
teacher with the reference, over tokens of the validation set. Chunk: speech that the encoder sees at a time,
for which it waits; all: the whole of it."""


def delays(groups: list[RunGroup], sets: list[str]) -> list[str]:
    """Return heading, table and note on delays; empty if none was measured.

    Raises:
        UserError: a file of delays cannot be read.
    """
    metric, rows = groups[0].metric, []
    for group in groups:
        for run in group.runs:
            found = read_delays(run.directory)
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
    return ["## Emission delay", table([*head, *delays], rows), DELAYS_NOTE]


def read_delays(directory: Path) -> dict[str, Any] | None:
    """Read what ``espnet-kd delay`` wrote for an experiment; None if there is none of the present models.

    Raises:
        UserError: it is damaged.
    """
    path = directory / DELAYS_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # Older files do not name them.
        models = {directory: found.get("model"), Path(found.get("teacher") or ""): found.get("teacher_model")}
        if any(changed_file(place, dict(known or {})) for place, known in models.items()):
            return None
        numbers = {key: float(found[key]) for key in ("mean_ms", "median_ms", "p90_ms")}
        chunk = found["chunk_ms"]
        return {"chunk_ms": None if chunk is None else float(chunk), **numbers}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged: remove it and run stage 11 again") from None


GENERATIONS_NOTE = """\
Hours: of unlabelled speech, what the filters kept of what was decoded. Pseudo-labels: {err} of what was
kept, and in brackets of all that was decoded, where references exist; nothing else uses those. Share: of
pseudo-labelled speech in what the student is trained on, where it was asked for."""


def generations(groups: list[RunGroup], sets: list[str]) -> list[str]:
    """Return heading, table and note on generations; empty if there are none and no pseudo-labels.

    Args:
        groups: all groups, with teachers.
        sets: names of scored sets.
    """
    runs = [run for group in groups if group.kind == "distilled" for run in group.runs]
    runs = [run for run in runs if run.info.get("mix") or run.generation > 1]
    if not runs:
        return []
    runs.sort(key=lambda run: (_family(run), run.generation))
    known = {run.directory.resolve(): run for group in groups for run in group.runs}
    metric = groups[0].metric
    err = metric.upper()
    teacher, student = ([f"{who} {err} % {plain(name)}" for name in sets] for who in ("teacher", "student"))
    head = ["student", "generation", *teacher, "hours", f"pseudo-labels {err} %", "share", *student]
    rows = [_generation_row(run, known.get(teacher_of(run) or Path()), sets, metric) for run in runs]
    return ["## Generations", table(head, rows), GENERATIONS_NOTE.format(err=err)]


def teacher_of(run: Run) -> Path | None:
    """Return the teacher that made the pseudo-labels of a run, or else its only teacher; None for several."""
    mix = run.info.get("mix") or {}
    if mix.get("teacher"):
        return Path(mix["teacher"]).resolve()
    return run.teachers[0] if len(run.teachers) == 1 else None


def check_generation(run: Run) -> None:
    """Read the values of a run that the table of generations shows.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: run.json has wrong values.
    """
    teacher_of(run)
    _generation_row(run, None, [], "wer")


def _family(run: Run) -> str:
    return run.name.removesuffix(f"_gen{run.generation}")


def _generation_row(run: Run, teacher: Run | None, sets: list[str], metric: str) -> list[str]:
    mix = run.info.get("mix") or {}
    parts = mix.get("pseudo") or []
    hours = [sum(part[which]["hours"] for part in parts) for which in ("kept", "decoded")]
    return [
        code(_family(run)),
        str(run.generation),
        *_rates(teacher, sets, metric),
        f"{hours[0]:.2f} of {hours[1]:.2f}" if parts else "",
        _quality(parts, metric),
        _share(mix),
        *_rates(run, sets, metric),
    ]


def _rates(run: Run | None, sets: list[str], metric: str) -> list[str]:
    return [f"{run.scores[name].rate(metric):.1f}" if run and name in run.scores else "" for name in sets]


def _quality(parts: list[dict[str, Any]], metric: str) -> str:
    found = [part["references"] for part in parts if part.get("references")]
    rates = []
    for which in ("kept", "decoded"):
        errors, words = (sum(part[which][metric][key] for part in found) for key in ("errors", "reference"))
        rates.append(f"{100 * errors / words:.1f}" if words else "unknown")
    return f"{rates[0]} ({rates[1]})" if found else ""


def _share(mix: dict[str, Any]) -> str:
    return f"{100 * mix['share']:.0f} %" if mix.get("share") else ""


STORES_NOTE = """\
MB: all of a store but its manifest. Of all values: against what every class or feature at the same positions
takes in float16."""
FLOAT16 = 2  # bytes


def stores(groups: list[RunGroup]) -> list[str]:
    """Return heading, table and note on the target stores beside the experiments; empty if there are none."""
    parents = {run.directory.parent for group in groups for run in group.runs}
    manifests = (path for parent in parents for path in parent.glob(f"*/{MANIFEST}"))
    found = sorted(path.parent for path in manifests if _is_store(path))
    if not found:
        return []
    head = ["store", "keeps", "teachers", "hours of speech", "MB", "MB per hour", "of all values"]
    return ["## Stored targets", table(head, [_store_row(path) for path in found]), STORES_NOTE]


def _is_store(manifest: Path) -> bool:
    """Return False for other manifests, as of pseudo-labels; one that cannot be read may be of a store."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(content, dict) and "taps" in content


def _store_row(directory: Path) -> list[str]:
    try:
        store = Store(directory)
        manifest, whole = store.manifest, _full_size(store)
        megabytes = manifest.size / 1e6
        return [
            code(store.directory.name),
            _kept(manifest),
            str(len(manifest.teachers)),
            f"{manifest.hours:.2f}",
            f"{megabytes:.2f}",
            f"{megabytes / manifest.hours:.2f}",
            f"{100 * manifest.size / whole:.1f} %" if whole else "",
        ]
    except (UserError, OSError, TypeError, AttributeError, ArithmeticError):  # or values of wrong types
        return [code(directory.name), "damaged or of another version: make it again", *[""] * 5]


def _kept(manifest: Manifest) -> str:
    return ", ".join(
        f"{tap.k} of {tap.size} classes at {path}" if tap.kind == "topk" else f"{tap.kind} at {path}"
        for path, tap in manifest.taps.items()
    )


def _full_size(store: Store) -> int | None:
    """Return the bytes of all values of the layers; None if one is the lattice of a transducer."""
    total = 0
    for path, tap in store.manifest.taps.items():
        if tap.kind not in ("topk", "values"):
            return None
        files = (store.directory / shard.name / path for shard in store.manifest.shards)
        total += sum(file.stat().st_size for file in files) // tap.row.itemsize * tap.size * FLOAT16
    return total
