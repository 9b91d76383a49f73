"""Draw the error rates and learning curves of groups of runs."""

from collections.abc import Mapping
from pathlib import Path

from espnet_kd.report import look, plots
from espnet_kd.report.groups import RunGroup
from espnet_kd.report.look import Kind
from espnet_kd.report.plots import LearningCurve, RateRow
from espnet_kd.report.run import architecture
from espnet_kd.scoring import alignment, bootstrap

KINDS: Mapping[str, Kind] = {"teacher": "teacher", "student": "alone", "distilled": "method"}


def draw_rates(groups: list[RunGroup], sets: list[str], directory: Path) -> dict[str, Path]:
    """Draw the error rates; return caption -> file.

    There is a picture for each architecture of students, and several if it has many groups.

    Args:
        groups: in the order of the table; those without a score are left out.
        sets: names of the scored sets; the last chooses which groups have colours, see `headline`.
        directory: of the pictures.
    """
    metric, drawn = groups[0].metric, {}
    teachers = [group for group in groups if group.kind == "teacher"]
    families: dict[str, list[RunGroup]] = {}
    for group in groups:
        if group.kind != "teacher":
            families.setdefault(architecture(group.runs[0]), []).append(group)
    shown = [teachers + family for family in families.values()] or [teachers]
    parts = [part for family in shown for part in plots.pages({name: rows(family, name) for name in sets})]
    for number, part in enumerate(parts, 1):
        path = directory / (f"{metric}.png" if number == 1 else f"{metric}_{number}.png")
        plots.rate_rows(part, path, alignment.UNITS[metric], colours_of(groups, sets))
        caption = f"{metric.upper()} with 95 % intervals, over seeds and utterances; a circle is a seed"
        drawn[f"{caption} ({number} of {len(parts)})" if len(parts) > 1 else caption] = path
    return drawn


def draw_curves(groups: list[RunGroup], sets: list[str], directory: Path) -> dict[str, Path]:
    """Draw the learning curves of the headline; return caption -> file, nothing where there are no curves."""
    shown, panels = headline(groups, sets[-1]), {}
    for title, names in plots.CURVES.items():
        of_groups = [
            LearningCurve(group.label, KINDS[group.kind], seeds)
            for group in shown
            if (seeds := [curve for run in group.runs if (curve := run.history.curve("valid", *names))])
        ]
        if of_groups:
            panels[title] = of_groups
    if not panels:
        return {}
    path = directory / "learning_curves.png"
    plots.draw_learning_curves(panels, path, colours_of(groups, sets))
    return {"Validation set by epoch; thin lines are seeds": path}


def headline(groups: list[RunGroup], name: str) -> list[RunGroup]:
    """Return the groups that have colours and learning curves, in the order of the table.

    They are the best teacher, the baselines, and the best of the others: at most six besides the teacher.

    Args:
        groups: all groups; those without statistics by epoch are left out.
        name: of the set by whose error rate they are chosen.
    """
    trained = [group for group in groups if any(run.history.epochs for run in group.runs)]
    best = sorted(trained, key=lambda group: (group.mean_rate(name), group.name))
    teachers = [group for group in best if group.kind == "teacher"][:1]
    students = [group for group in best if group.kind != "teacher"]
    students.sort(key=lambda group: group.kind == "distilled" or group.baseline is not None)
    chosen = {id(group) for group in teachers + students[: look.LINES]}
    return [group for group in trained if id(group) in chosen]


def rows(groups: list[RunGroup], name: str) -> list[RateRow]:
    """Return the row of each group that has a score of a set; intervals are over seeds and utterances."""
    found = []
    for group in groups:
        if group.scored(name):
            interval = bootstrap.rate_interval(group.errors(name))
            ends = (interval.value, interval.low, interval.high)
            found.append(RateRow(group.label, KINDS[group.kind], *ends, group.rates(name)))
    return found


def colours_of(groups: list[RunGroup], sets: list[str]) -> dict[str, str]:
    """Return label -> colour of the methods of the headline, the same in every picture."""
    shown = headline(groups, sets[-1])
    return look.method_colours(group.label for group in shown if group.kind == "distilled")
