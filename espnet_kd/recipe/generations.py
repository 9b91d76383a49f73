"""The table of generations in RESULTS.md: who labelled how much speech how well, and who learnt from it."""

from pathlib import Path
from typing import Any

from espnet_kd.recipe.experiments import Run
from espnet_kd.recipe.groups import Group
from espnet_kd.recipe.tables import code, plain, table

NOTE = """\
Hours: of unlabelled speech, what the filters kept of what was decoded. Pseudo-labels: {err} of what was
kept, and in brackets of all that was decoded, where references exist; nothing else uses those. Share: of
pseudo-labelled speech in what the student is trained on, where it was asked for."""


def section(groups: list[Group], sets: list[str]) -> list[str]:
    """Heading, table and note; nothing where no student learnt from pseudo-labels or from another student.

    Args:
        groups: all of them, teachers too.
        sets: scored ones.
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
    rows = [_row(run, known.get(teacher_of(run) or Path()), sets, metric) for run in runs]
    return ["## Generations", table(head, rows), NOTE.format(err=err)]


def teacher_of(run: Run) -> Path | None:
    """Directory of who labelled its speech, or else of its only teacher; None if there are several."""
    mix = run.info.get("mix") or {}
    if mix.get("teacher"):
        return Path(mix["teacher"]).resolve()
    return run.teachers[0] if len(run.teachers) == 1 else None


def check(run: Run) -> None:
    """Read what the table shows of a run.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: its record is not one of ours.
    """
    teacher_of(run)
    _row(run, None, [], "wer")


def _family(run: Run) -> str:
    return run.name.removesuffix(f"_gen{run.generation}")


def _row(run: Run, teacher: Run | None, sets: list[str], metric: str) -> list[str]:
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
