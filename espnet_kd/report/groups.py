"""RunGroup the runs that differ only in the seed; name each group and find its baseline."""

import math
import statistics
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from espnet_kd.report.run import (
    Run,
    architecture,
    is_teacher,
    pupils_by_teacher,
    relevant_options,
    settings,
    without_seed,
)
from espnet_kd.scoring import alignment, bootstrap

KINDS = ("teacher", "student", "distilled")
LONGEST_PART = 80  # characters of a name that are added to a label
EQUAL_UPDATES = 0.01  # relative: batches of equal size can split an epoch a little differently


@dataclass
class RunGroup:
    """Runs of one configuration, sorted by seed.

    Attributes:
        kind: "teacher", "student" (without any method) or "distilled" (with one).
        metric: the error rate that is compared, "wer" or "cer".
        label: its name in tables and plots.
        baseline: the undistilled student with equal passes over the encoder, which are the updates but with
            methods that need several for one; None for itself and for teachers.
        source: the group whose models were exported; None for experiments.
    """

    runs: list[Run]
    kind: str
    metric: str = "wer"
    label: str = ""
    baseline: "RunGroup | None" = None
    source: "RunGroup | None" = None

    @property
    def name(self) -> str:
        """Name of the experiments without the seed."""
        return without_seed(self.runs[0].name)

    @property
    def updates(self) -> int | None:
        """Optimiser steps of a run, or the mean if the runs differ; None if unknown."""
        return _mean([run.updates for run in self.runs])

    @property
    def passes(self) -> int | None:
        """Passes of a batch over the encoder, as ``updates``: several for an update with some methods."""
        return _mean([run.passes for run in self.runs])

    def scored(self, name: str) -> list[Run]:
        """Return the runs that have a score of a set."""
        return [run for run in self.runs if name in run.scores]

    def seeds(self, name: str) -> set[int]:
        """Return the seeds of the trainings that have a score of a set."""
        return {run.training_seed for run in self.scored(name)}

    def total(self, name: str) -> alignment.Counts:
        """Return the counts of a set, summed over the runs."""
        return sum((run.scores[name].total[self.metric] for run in self.scored(name)), alignment.Counts())

    def errors(self, name: str, seeds: Collection[int] | None = None) -> bootstrap.Runs:
        """Return the errors of each run on a set, by the seed of its training.

        Args:
            name: name of the set.
            seeds: seeds of the trainings to count; None counts all.
        """
        runs = [run for run in self.scored(name) if seeds is None or run.training_seed in seeds]
        found: dict[Hashable, Mapping[str, Sequence[int]]] = {}
        for run in runs:
            alignment.check_comparable(runs[0].scores[name], run.scores[name], self.metric)
            again = run.training_seed in found  # a seed may have been trained twice, under two names
            key: Hashable = (run.training_seed, run.name) if again else run.training_seed
            found[key] = run.scores[name].utterances[self.metric]
        return found

    def rates(self, name: str, kind: str | None = None) -> list[float]:
        """Return the error rate of each run in per cent."""
        return [run.scores[name].rate(kind or self.metric) for run in self.scored(name)]

    def costs(self, name: str) -> tuple[float, float] | None:
        """Return real-time factor and MB of decoding a set, means of the measured runs; None without any."""
        found = [run.costs[name] for run in self.runs if name in run.costs]
        if not found:
            return None
        return statistics.mean(r.rtf.median for r in found), statistics.mean(r.disk_mb for r in found)

    def mean_rate(self, name: str) -> float:
        """Return the mean error rate of the runs in per cent; infinity if none has a score."""
        rates = self.rates(name)
        return statistics.mean(rates) if rates else math.inf


def _mean(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return round(statistics.mean(known)) if known else None


def make_groups(runs: list[Run], metric: str = "wer") -> list[RunGroup]:
    """RunGroup runs, name the groups and find their baselines; return them in the order of a table."""
    by_settings: dict[tuple[str, str, str], list[Run]] = {}
    pupils = pupils_by_teacher(runs)
    for run in runs:
        changed = run.distilled or any(phase.methods for phase in run.phases)
        kind = "teacher" if is_teacher(run, pupils) else "distilled" if changed else "student"
        key = (kind, settings(run), run.tag)
        by_settings.setdefault(key, []).append(run)
    groups = [
        RunGroup(sorted(same, key=lambda r: (r.seed, r.name)), kind, metric)
        for (kind, _, _), same in by_settings.items()
    ]
    groups.sort(key=lambda g: (KINDS.index(g.kind), g.updates or math.inf, g.name))
    families: dict[str, list[RunGroup]] = {}
    for group in groups:
        if group.kind == "teacher":
            members = group.runs[0].config.get("ensemble")
            group.label = f"ensemble of {len(members)}" if members else "teacher"
        else:
            families.setdefault(architecture(group.runs[0]), []).append(group)
    for family in families.values():
        _compare(family)
    ordered = [group for family in families.values() for group in _rank(family)]
    groups = [group for group in groups if group.kind == "teacher"] + ordered
    for group in groups:
        group.label = group.runs[0].tag or group.label
    _tell_apart(groups)
    return groups


def with_exports(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return groups, each followed by those of what was exported of its runs."""
    found = []
    for group in groups:
        found.append(group)
        for form in dict.fromkeys(form for run in group.runs for form in run.exports):
            runs = [run for run in group.runs if form in run.exports]
            exported = [replace(r, scores=r.exports[form][0], costs=r.exports[form][1]) for r in runs]
            found.append(RunGroup(exported, group.kind, group.metric, f"{group.label}, {form}", source=group))
    return found


def comparison(group: RunGroup, name: str) -> bootstrap.Difference | None:
    """Return the error rate of a group minus that of its baseline on a set; None if either is missing.

    The rates are over the seeds that both have, or over all runs of both if they have no seed in common.
    """
    base = group.baseline
    if base is None or not group.scored(name) or not base.scored(name):
        return None
    first, second = (side.scored(name)[0].scores[name] for side in (group, base))
    alignment.check_comparable(first, second, group.metric)
    seeds = group.seeds(name) & base.seeds(name) or None
    return bootstrap.difference(group.errors(name, seeds), base.errors(name, seeds))


def _compare(family: list[RunGroup]) -> None:
    """Set the baselines and labels of the groups of one architecture."""
    plain = [group for group in family if group.kind == "student"]
    distilled = [group for group in family if group.kind == "distilled"]
    for group in distilled:
        group.label = _method(group.runs[0])
        equal = [base for base in plain if _equal_passes(base, group)]
        group.baseline = min(equal, key=_distance(group), default=None)
    bases = [group.baseline for group in distilled if group.baseline] or plain[:1]  # plain: by updates
    for group in plain:
        if any(group is base for base in bases):
            group.label = "student"
            continue
        group.baseline = min(bases, key=_distance(group))
        group.label = _longer(group, group.baseline)


def _distance(group: RunGroup) -> Callable[[RunGroup], tuple[int, str]]:
    """Return a key by which the closest configuration is the smallest; equal ones are sorted by name."""
    mine = relevant_options(group.runs[0])

    def key(base: RunGroup) -> tuple[int, str]:
        theirs = relevant_options(base.runs[0])
        return sum(mine.get(k) != theirs.get(k) for k in mine.keys() | theirs.keys()), base.name

    return key


def _equal_passes(a: RunGroup, b: RunGroup) -> bool:
    if a.passes is None or b.passes is None:
        return bool(a.runs[0].config.get("max_epoch") == b.runs[0].config.get("max_epoch"))
    return abs(a.passes - b.passes) <= EQUAL_UPDATES * max(a.passes, b.passes)


def _method(run: Run) -> str:
    """Name a student by the methods of each phase."""
    methods = ", then ".join(methods_text(phase) for phase in run.phases)
    return f"distilled: {methods}" if run.distilled else f"student, {methods}"


def methods_text(run: Run) -> str:
    """Name the methods, pseudo-labels and generation of one training."""
    others = {"pseudo-labels": run.info.get("mix"), f"generation {run.generation}": run.generation > 1}
    parts = run.methods + [name for name, holds in others.items() if holds]
    return ", ".join(parts) or ("task" if run.before else "teacher")


def _longer(group: RunGroup, base: RunGroup) -> str:
    if _equal_passes(group, base):
        part, _ = _differing_parts([group.name, base.name])
        return "student, other settings" + (f" ({part})" if part else "")
    if group.updates is None or not base.updates:
        return "student, other number of epochs"
    word = "longer" if group.updates > base.updates else "shorter"
    return f"student, trained {word} ({group.updates / base.updates:.2g} x)"


def _rank(family: list[RunGroup]) -> list[RunGroup]:
    """Sort: baselines, then other undistilled students, then distilled ones."""

    def place(group: RunGroup) -> tuple[bool, bool, float, str]:
        taught, first = group.kind == "distilled", group.label == "student"
        return taught, not first, group.updates or math.inf, group.name

    return sorted(family, key=place)


def _tell_apart(groups: list[RunGroup]) -> None:
    """Make equal labels different by parts of the names, as in "teacher (small)", or by a number.

    One of the labels may stay as it is: "teacher" beside "teacher (small)".
    """
    by_label: dict[str, list[RunGroup]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group)
    for same in (equal for equal in by_label.values() if len(equal) > 1):
        parts = _differing_parts([group.name for group in same])
        useful = len(set(parts)) == len(parts) and max(map(len, parts)) <= LONGEST_PART
        for number, (group, part) in enumerate(zip(same, parts, strict=True), 1):
            if not useful:
                group.label += f" #{number}"
            elif part:
                group.label += f" ({part})"


def _differing_parts(names: list[str]) -> list[str]:
    """Return the names without the words, separated by "_", that all of them have."""
    words = [name.split("_") for name in names]
    common = set(words[0]).intersection(*words)
    return ["_".join(word for word in own if word not in common) for own in words]
