"""Groups of runs that differ only in the seed, what each is, and what it is to be compared with."""

import math
import statistics
from collections.abc import Callable, Collection
from dataclasses import dataclass

from espnet_kd.report import experiments
from espnet_kd.report.experiments import Run
from espnet_kd.scoring import alignment, bootstrap

KINDS = ("teacher", "student", "distilled")
LONGEST_PART = 80  # characters of a name in a label
EQUAL_UPDATES = 0.01  # relative: batches of equal size can split an epoch a little differently


@dataclass
class Group:
    """Runs of one configuration, in order of their seeds.

    Attributes:
        kind: "teacher", "student" (without any method) or "distilled" (with one).
        metric: the error rate that counts, "wer" or "cer".
        label: what it is called in tables and plots.
        baseline: the undistilled student with equal updates; None for itself and for teachers.
    """

    runs: list[Run]
    kind: str
    metric: str = "wer"
    label: str = ""
    baseline: "Group | None" = None

    @property
    def name(self) -> str:
        """The experiments' name without the seed."""
        return experiments.without_seed(self.runs[0].name)

    @property
    def updates(self) -> int | None:
        """Optimiser steps of a run, the mean where the runs differ; None if unknown."""
        known = [run.updates for run in self.runs if run.updates is not None]
        return round(statistics.mean(known)) if known else None

    def scored(self, name: str) -> list[Run]:
        """Runs that have a score of a set."""
        return [run for run in self.runs if name in run.scores]

    def seeds(self, name: str) -> set[int]:
        """Seeds of the trainings that have a score of a set."""
        return {run.training_seed for run in self.scored(name)}

    def counts(
        self, name: str, seeds: Collection[int] | None = None
    ) -> tuple[bootstrap.Counts, bootstrap.Counts]:
        """Errors and words (or characters) of each utterance of a set, summed over the runs; each (N,).

        Args:
            name: the set.
            seeds: those of the trainings to take; all if None.
        """
        runs = self.scored(name)
        found = [run.scores[name] for run in runs if seeds is None or run.training_seed in seeds]
        for other in found[1:]:
            alignment.check_comparable(found[0], other, self.metric)
        order = sorted(found[0].utterances[self.metric])
        return bootstrap.pool([[score.utterances[self.metric][u] for u in order] for score in found])

    def rates(self, name: str, kind: str | None = None) -> list[float]:
        """Error rate of each run in per cent."""
        return [run.scores[name].rate(kind or self.metric) for run in self.scored(name)]


def make_groups(runs: list[Run], metric: str = "wer") -> list[Group]:
    """Group runs, label the groups and find what each is compared with; in the order of a table."""
    by_settings: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        changed = run.distilled or any(phase.methods for phase in run.phases)
        kind = "teacher" if experiments.is_teacher(run, runs) else "distilled" if changed else "student"
        key = (kind, experiments.settings(run), run.tag)
        by_settings.setdefault(key, []).append(run)
    groups = [
        Group(sorted(same, key=lambda r: (r.seed, r.name)), kind, metric)
        for (kind, _, _), same in by_settings.items()
    ]
    groups.sort(key=lambda g: (KINDS.index(g.kind), g.updates or math.inf, g.name))
    families: dict[str, list[Group]] = {}
    for group in groups:
        if group.kind == "teacher":
            members = group.runs[0].config.get("ensemble")
            group.label = f"ensemble of {len(members)}" if members else "teacher"
        else:
            families.setdefault(experiments.architecture(group.runs[0]), []).append(group)
    for family in families.values():
        _compare(family)
    ordered = [group for family in families.values() for group in _rank(family)]
    groups = [group for group in groups if group.kind == "teacher"] + ordered
    for group in groups:
        group.label = group.runs[0].tag or group.label
    _tell_apart(groups)
    return groups


def comparison(group: Group, name: str) -> bootstrap.Difference | None:
    """Error rate of a group less that of its baseline on a set; None where either is missing.

    Over the seeds that both have; over all runs of both where they have none in common.
    """
    base = group.baseline
    if base is None or not group.scored(name) or not base.scored(name):
        return None
    first, second = (side.scored(name)[0].scores[name] for side in (group, base))
    alignment.check_comparable(first, second, group.metric)
    seeds = group.seeds(name) & base.seeds(name) or None
    return bootstrap.paired_difference(group.counts(name, seeds), base.counts(name, seeds))


def _compare(family: list[Group]) -> None:
    """Baselines and labels among students of one architecture."""
    plain = [group for group in family if group.kind == "student"]
    distilled = [group for group in family if group.kind == "distilled"]
    for group in distilled:
        group.label = _method(group.runs[0])
        equal = [base for base in plain if _equal_updates(base, group)]
        group.baseline = min(equal, key=_distance(group), default=None)
    bases = [group.baseline for group in distilled if group.baseline] or plain[:1]  # plain: by updates
    for group in plain:
        if any(group is base for base in bases):
            group.label = "student"
            continue
        group.baseline = min(bases, key=_distance(group))
        group.label = _longer(group, group.baseline)


def _distance(group: Group) -> Callable[[Group], tuple[int, str]]:
    """Key by which the closest configuration is the smallest; the name decides among equals."""
    mine = experiments.relevant(group.runs[0])

    def key(base: Group) -> tuple[int, str]:
        theirs = experiments.relevant(base.runs[0])
        return sum(mine.get(k) != theirs.get(k) for k in mine.keys() | theirs.keys()), base.name

    return key


def _equal_updates(a: Group, b: Group) -> bool:
    if a.updates is None or b.updates is None:
        return bool(a.runs[0].config.get("max_epoch") == b.runs[0].config.get("max_epoch"))
    return abs(a.updates - b.updates) <= EQUAL_UPDATES * max(a.updates, b.updates)


def _method(run: Run) -> str:
    """Name a student by what changed its training in each phase."""
    methods = ", then ".join(learned_from(phase) for phase in run.phases)
    return f"distilled: {methods}" if run.distilled else f"student, {methods}"


def learned_from(run: Run) -> str:
    """Name what changed one training: its methods, pseudo-labels and the generation."""
    others = {"pseudo-labels": run.info.get("mix"), f"generation {run.generation}": run.generation > 1}
    parts = run.methods + [name for name, holds in others.items() if holds]
    return ", ".join(parts) or ("task" if run.before else "teacher")


def _longer(group: Group, base: Group) -> str:
    if _equal_updates(group, base):
        part, _ = _distinct([group.name, base.name])
        return "student, other settings" + (f" ({part})" if part else "")
    if group.updates is None or not base.updates:
        return "student, other number of epochs"
    word = "longer" if group.updates > base.updates else "shorter"
    return f"student, trained {word} ({group.updates / base.updates:.2g} x)"


def _rank(family: list[Group]) -> list[Group]:
    """The baselines, the other undistilled students, the distilled ones."""

    def place(group: Group) -> tuple[bool, bool, float, str]:
        taught, first = group.kind == "distilled", group.label == "student"
        return taught, not first, group.updates or math.inf, group.name

    return sorted(family, key=place)


def _tell_apart(groups: list[Group]) -> None:
    """Add to equal labels what differs in the names, as in "teacher (small)", or else a number.

    One of them may have nothing to add: "teacher" beside "teacher (small)".
    """
    by_label: dict[str, list[Group]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group)
    for same in (equal for equal in by_label.values() if len(equal) > 1):
        parts = _distinct([group.name for group in same])
        useful = len(set(parts)) == len(parts) and max(map(len, parts)) <= LONGEST_PART
        for number, (group, part) in enumerate(zip(same, parts, strict=True), 1):
            if not useful:
                group.label += f" #{number}"
            elif part:
                group.label += f" ({part})"


def _distinct(names: list[str]) -> list[str]:
    """What is left of names without the words, divided by "_", that all have."""
    words = [name.split("_") for name in names]
    common = set(words[0]).intersection(*words)
    return ["_".join(word for word in own if word not in common) for own in words]
