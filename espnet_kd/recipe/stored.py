"""The table of stored targets in RESULTS.md: what each store takes on disk."""

import json
from pathlib import Path

from espnet_kd.errors import UserError
from espnet_kd.recipe.groups import Group
from espnet_kd.recipe.tables import code, table
from espnet_kd.store import Manifest, Store
from espnet_kd.store.manifest import NAME

NOTE = """\
MB: all of a store but its manifest. Of all values: against what every class or feature at the same positions
takes in float16."""
FLOAT16 = 2  # bytes


def section(groups: list[Group]) -> list[str]:
    """Heading, table and note of the stores beside the experiments; nothing where there is none."""
    parents = {run.directory.parent for group in groups for run in group.runs}
    found = sorted(path.parent for parent in parents for path in parent.glob(f"*/{NAME}") if _is_store(path))
    if not found:
        return []
    head = ["store", "keeps", "teachers", "hours of speech", "MB", "MB per hour", "of all values"]
    return ["## Stored targets", table(head, [_row(path) for path in found]), NOTE]


def _is_store(manifest: Path) -> bool:
    """False for the manifest of pseudo-labels, say; what cannot be read may be one."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(content, dict) and "taps" in content


def _row(directory: Path) -> list[str]:
    try:
        store = Store(directory)
        manifest, whole = store.manifest, _whole(store)
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
    except (UserError, OSError, TypeError, AttributeError, ArithmeticError):  # or values of other types
        return [code(directory.name), "damaged or of another version: make it again", *[""] * 5]


def _kept(manifest: Manifest) -> str:
    return ", ".join(
        f"{tap.k} of {tap.size} classes at {path}" if tap.kind == "topk" else f"{tap.kind} at {path}"
        for path, tap in manifest.taps.items()
    )


def _whole(store: Store) -> int | None:
    """Bytes of all values of the taps; None where one is a transducer's lattice."""
    total = 0
    for path, tap in store.manifest.taps.items():
        if tap.kind not in ("topk", "values"):
            return None
        files = (store.directory / shard.name / path for shard in store.manifest.shards)
        total += sum(file.stat().st_size for file in files) // tap.row.itemsize * tap.size * FLOAT16
    return total
