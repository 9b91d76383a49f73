"""What the records of a plan give: error rates and costs of its rows, and how rows differ from each other."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from espnet_kd.config import merge, read_config
from espnet_kd.environment import EARLIER, differences
from espnet_kd.experiments.plan import SEED, Key, Plan, Row, Trial, Variant, chosen, variants_of
from espnet_kd.experiments.records import Record, choose
from espnet_kd.report.groups import EQUAL_UPDATES
from espnet_kd.scoring import bootstrap
from espnet_kd.scoring.alignment import Counts
from espnet_kd.scoring.bootstrap import Difference, Runs

HOUR = 3600.0  # seconds
TOLERANCE = 0.02  # of equal compute: the CPU time of one training, repeated, differs by as much
CORE, GPU = "core-hours", "GPU-hours"
OF_AN_UPDATE = ("batch_bins", "batch_size", "accum_grad", "num_iters_per_epoch")  # options of its cost
Place = tuple[tuple[str, ...], ...]  # see `_place`
Work = tuple[str, ...]  # row, and what its length changes in an update
PAYS, DOES_NOT, CANNOT_TELL = "pays", "does not", "cannot tell"


@dataclass(frozen=True)
class Line:
    """A variant of the plan with its trainings: one line of a table.

    Attributes:
        variant: as in the plan.
        row: what was trained; for a row of ``best_of`` its choice, or itself while there is none.
        columns: names of its sets, the validation set last; "{seed}" in a name stands for a set a seed.
        records: of its finished trainings by seed, in the order of the plan.
    """

    variant: Variant
    row: Row
    columns: tuple[str, ...]
    records: dict[int, Record] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the variant."""
        return self.variant.name

    @property
    def missing(self) -> list[int]:
        """Seeds of the plan that are not trained yet."""
        return [seed for seed in self.row.seeds if seed not in self.records]

    def runs(self, column: str, metric: str, seeds: Iterable[int] | None = None) -> Runs:
        """Return the errors of every utterance of a set by seed, of all seeds or of some."""
        chosen_seeds = self.records if seeds is None else seeds
        return {s: self.records[s].errors[_set(column, s)][metric] for s in chosen_seeds}

    def rates(self, column: str, metric: str) -> list[float]:
        """Return the error rate of each seed in per cent."""
        return [record.rate(_set(column, seed), metric) for seed, record in self.records.items()]

    def valid_rate(self, metric: str, seeds: Sequence[int]) -> float:
        """Return the mean error rate of some seeds on the validation set in per cent."""
        column = self.columns[-1]
        return sum(self.records[seed].rate(_set(column, seed), metric) for seed in seeds) / len(seeds)

    def counts(self, column: str, metric: str) -> Counts:
        """Return the errors of all seeds together."""
        total = Counts()
        for run in self.runs(column, metric).values():
            for _, length, *kinds in run.values():
                total += Counts(length - kinds[0] - kinds[1], *kinds)
        return total

    @property
    def hours(self) -> float | None:
        """What one of its trainings costs, see ``hours_of``: the mean over the seeds; None if unknown."""
        if len({unit_of(record) for record in self.records.values()}) > 1:
            return None
        return _mean([hours_of(record) for record in self.records.values()])

    def in_its_unit(self, lines: Iterable["Line"]) -> list["Line"]:
        """Return the lines whose trainings cost hours of the same kind: of cores, or of GPUs."""
        units = {unit_of(record) for record in self.records.values()}
        return [line for line in lines if {unit_of(record) for record in line.records.values()} == units]

    @property
    def updates(self) -> list[int]:
        """The different numbers of updates of its trainings."""
        return sorted({r.updates for r in self.records.values() if r.updates is not None})


@dataclass(frozen=True)
class Comparison:
    """A line beside another line.

    Attributes:
        line: the one side.
        other: the other side.
        why: what the pair shows, such as "equal compute".
        differences: by name of a set, error rate of the line less that of the other; a set is missing where
            the two have nothing in common.
        seeds: that both have; empty where all seeds of both are taken.
        environments: what differs between the environments of the two; empty if nothing.
    """

    line: Line
    other: Line
    why: tuple[str, ...]
    differences: dict[str, Difference]
    seeds: tuple[int, ...]
    environments: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Whether the line is better than the other beyond chance on all sets, worse on all, or neither."""
        found = self.differences.values()
        if not found or any(d.seeds == 1 for d in found):
            return f"{CANNOT_TELL}: one seed" if found else CANNOT_TELL
        if all(d.high < 0 for d in found):
            return PAYS
        return DOES_NOT if all(d.low > 0 for d in found) else CANNOT_TELL


class Results:
    """The lines of a plan.

    Args:
        plan: the plan.
        records: its records.

    Attributes:
        known: the trainings that its tables show, with the cost of ``at_undisturbed_cost``.
        measured: the same with the CPU time that each has taken.
        elsewhere: the same commands on other machines.
        unused: trainings that no line has, as the plan lacks their rows, lengths or seeds, or they its sets.
    """

    def __init__(self, plan: Plan, records: Sequence[Record]) -> None:
        self.plan = plan
        self.elsewhere = [r for r in records if r.elsewhere]
        self.unused = [r for r in records if not r.elsewhere and not _is_of(plan, r)]
        records = [r for r in records if not r.elsewhere and r not in self.unused]
        self.measured: dict[Key, Record] = {r.key: r for r in records}
        self.known = {r.key: r for r in at_undisturbed_cost(plan, records)}
        self.choices: dict[str, Row] = {}
        self.rows = plan.rows  # as they are written; those of ``self.plan`` are decided
        for _ in plan.rows:  # a choice may be among rows that come later and are choices themselves
            for row in self.plan.rows.values():
                best = choose(self.plan, row, records) if row.best_of else None
                if best is not None:
                    self.choices[row.name] = chosen(row, best)
            self.plan = self._decided_plan()
        planned = {trial.key for row in self.plan.rows.values() for trial in self.plan.trials(row)}
        self.unused += [record for record in records if record.key not in planned]
        self.taught_by = {t.row for row in self.plan.rows.values() for t in row.teachers}
        self._compared: dict[tuple[tuple[str, str | None], ...], Comparison] = {}

    def _decided_plan(self) -> Plan:
        """Return the plan with the choice in the place of every decided row of ``best_of``."""
        return replace(self.plan, rows=self.plan.rows | self.choices)

    def line(self, variant: Variant) -> Line:
        """Return the line of a variant of the plan."""
        row = self.choices.get(variant.row.name, variant.row)
        columns = tuple(self.plan.columns(self.rows[row.best_of[0]] if row.best_of else row))
        trials = [Trial(Variant(row, variant.length), seed) for seed in row.seeds]
        found = {trial.seed: self.known[trial.key] for trial in trials if trial.key in self.known}
        return Line(variant, row, columns, found)

    def all_lines(self, variants: Iterable[Variant]) -> list[Line]:
        """Return the lines of some variants; a choice may have lengths where its ``best_of`` has none."""
        found = []
        for variant in variants:
            row = self.choices.get(variant.row.name)
            lengths: list[str | None] = [*row.lengths] if row and variant.length is None else []
            found += [self.line(Variant(variant.row, length)) for length in lengths or [variant.length]]
        return found

    def lines(self, row: Row) -> list[Line]:
        """Return the lines of a row that have a training, shorter ones first."""
        return [line for line in self.all_lines(variants_of(row)) if line.records]

    def paid_hours(self, line: Line) -> float | None:
        """Return the cost of a training with that of its teachers and theirs; mean over the seeds.

        Teachers of the row that it comes ``after`` are its own as well. None if a cost is unknown, as that of
        a model that is no row of the plan, or in hours of cores where another is in hours of GPUs.
        """
        if line.hours is None:
            return None
        return _mean([self._paid(record, set()) for record in line.records.values()])

    def _paid(self, record: Record, counted: set[Key]) -> float | None:
        """Return the cost of a training and of the teachers that are not ``counted`` yet."""
        row, keys = self.plan.rows.get(record.row), record.teacher_rows
        made = [self.plan.rows[row.after]] if row and row.after else []
        keys += tuple(t.key for r in made for t in self.plan.teacher_trials(self.plan.trials(r)[0]))
        is_known = row is None or not any(_has_teacher_outside(self.plan, r) for r in (row, *made))
        total = hours_of(record) if is_known else None
        counted.add(record.key)
        for key in keys:
            if key in counted:
                continue
            other = self.known.get(key)
            is_alike = other is not None and unit_of(other) == unit_of(record)
            teacher = self._paid(other, counted) if other is not None and is_alike else None
            total = None if total is None or teacher is None else total + teacher
        return total

    def compare(self, line: Line, other: Line, why: tuple[str, ...] = ()) -> Comparison:
        """Compare two lines on all sets that both have.

        Over the seeds that both have. All seeds of both are taken where they have none in common, and against
        a teacher with a single seed: its seed has nothing to do with those of students. Sets of a seed
        each, the folds, are compared only over common seeds.
        """
        # Not their names: a row may be called like a variant of another.
        key = tuple((side.variant.row.name, side.variant.length) for side in (line, other))
        if key not in self._compared:
            self._compared[key] = self._compare(line, other)
        return replace(self._compared[key], why=why)

    def _compare(self, line: Line, other: Line) -> Comparison:
        metric = self.plan.metric
        common = tuple(seed for seed in line.records if seed in other.records)
        # A row with lengths is a student, even if another row is taught by one of them.
        taught = not self.taught_by.isdisjoint((other.row.name, other.variant.row.name))  # it may be a choice
        is_teacher = taught and other.variant.length is None
        is_teacher = is_teacher and len(other.records) == 1
        is_apart = not common or (is_teacher and len(line.records) > 1)
        found: dict[str, Difference] = {}
        for column in line.columns:
            seeds = None if is_apart and SEED not in column else common
            if column in other.columns and (seeds is None or seeds):
                sides = line.runs(column, metric, seeds), other.runs(column, metric, seeds)
                found[column] = bootstrap.difference(*sides)
        environments = {
            text: None
            for a in other.records.values()
            for b in line.records.values()
            for text in differences(a.environment, b.environment)
        }
        return Comparison(line, other, (), found, () if is_apart else common, tuple(environments))

    def comparisons(self, lines: Sequence[Line]) -> list[Comparison]:
        """Compare the lines of a table with the rows that the plan names for them.

        Of a row with lengths these are the same length (equal updates), what as much compute buys (see
        ``bought``), and the longest. With a row without lengths, such as a teacher, only the last line of
        each row is compared. Two rows that are each to be compared with the other are
        compared once, for the row that teaches no other.
        """
        last = {line.variant.row.name: line for line in lines if line.records}
        found: list[Comparison] = []
        for line in lines:
            row = line.variant.row
            for base in (self.rows[name] for name in row.against if line.records):
                is_itself = line.row.name in (base.name, self.choices.get(base.name, base).name)
                if is_itself or base.name == row.name or self._is_mirrored(row, base):
                    continue
                if self._has_lengths(base) or line is last[row.name]:
                    found += [self.compare(line, *pair) for pair in self._others(line, base)]
        return found

    def _others(self, line: Line, base: Row) -> list[tuple[Line, tuple[str, ...]]]:
        """Return the lines of a row that a line is compared with, and for each what the pair shows."""
        others = self.lines(base)
        has_lengths = self._has_lengths(base)
        if base.name in self.taught_by and not has_lengths:
            return [(other, ("teacher",)) for other in others]
        alike, pairs = line.in_its_unit(others), []
        equal = bought(line.hours, alike, self.plan.metric)[0] if alike else None
        for other in others:
            is_same = has_lengths and other.variant.length == line.variant.length
            is_equal = bool(line.updates and other.updates) and _are_close([*line.updates, *other.updates])
            why = ["equal updates"] * is_equal
            why += ["same length"] * (is_same and not why) + ["equal compute"] * (other is equal)
            why += ["longest"] * (has_lengths and other is others[-1])
            if why or not has_lengths:
                pairs.append((other, tuple(why)))
        return pairs

    def _has_lengths(self, row: Row) -> bool:
        return bool(self.choices.get(row.name, row).lengths)

    def _is_mirrored(self, row: Row, base: Row) -> bool:
        """Return True if ``base`` is compared with ``row``, and that is the better place to show it."""
        if row.name not in base.against:
            return False
        teach = [r.name in self.taught_by for r in (row, base)]
        order = list(self.plan.rows)
        return teach[0] if teach[0] != teach[1] else order.index(row.name) < order.index(base.name)

    def is_verdict(self, comparison: Comparison) -> bool:
        """Return True if a comparison says whether a method pays: with a student alone at equal compute."""
        other = comparison.other
        has_method = self.is_method(other) or bool(other.row.options.get("kd_config"))
        return "equal compute" in comparison.why and not has_method

    def is_method(self, line: Line) -> bool:
        """Return True if a line has a teacher, or labels of a model, or is a method of a frontier."""
        names = {row.name for spec in self.plan.frontier for row in spec.methods}
        labelled = line.row.after or line.row.options.get("unlabelled_sets")
        return bool(line.row.teachers or labelled) or line.variant.row.name in names


def at_undisturbed_cost(plan: Plan, records: Sequence[Record]) -> list[Record]:
    """Return trainings on a CPU with the CPU time that they would take on one idle machine.

    What else runs on a machine makes an update dearer, never cheaper. So an update of a row costs what it
    costs in that of its trainings, with the same kind of CPU and threads, in which it is cheapest; lengths
    of other batches count apart. The machine is that of most trainings; a row that was not trained there is
    converted by the ratio of the costs of the other rows (the median), and if no row was trained on both it
    keeps its own cost.
    """
    cheapest: dict[tuple[Place, Work], float] = {}
    places: Counter[Place] = Counter()
    for record in records:
        if record.updates and record.cpu_seconds is not None and unit_of(record) == CORE:
            places[_place(record)] += 1
            key, cost = (_place(record), _work(plan, record)), record.cpu_seconds / record.updates
            cheapest[key] = min(cost, cheapest.get(key, cost))

    def on_one_machine(record: Record) -> Record:
        if not record.updates or record.cpu_seconds is None or unit_of(record) != CORE:
            return record
        place, usual, own = _place(record), places.most_common(1)[0][0], _work(plan, record)
        both = [work for at, work in cheapest if at == place and cheapest.get((usual, work))]
        ratio = median([cheapest[usual, work] / cheapest[place, work] for work in both] or [1.0])
        cost = cheapest.get((usual, own), cheapest[place, own] * ratio)
        targets = record.targets_cpu_seconds
        return replace(
            record,
            cpu_seconds=record.updates * cost,
            targets_cpu_seconds=None if targets is None else targets * ratio,
        )

    return [on_one_machine(record) for record in records]


def _place(record: Record) -> Place:
    """Return what the trainings have in common whose updates cost the same; several after a resumption."""
    keys = ("cpu", "capability", "instructions", "threads", "processes")
    return tuple(sorted({tuple(str(part.get(key)) for key in keys) for part in _environments(record)}))


def _work(plan: Plan, record: Record) -> Work:
    row, length = plan.rows.get(record.row), record.length or ""
    given = merge(plan.lengths.get(length, {}), row.lengths.get(length, {}) if row else {})
    return record.row, *(str(given.get(key)) for key in OF_AN_UPDATE)


def _environments(record: Record) -> list[dict[str, Any]]:
    """Return the environments of the parts of a training, the last one first."""
    return [record.environment, *record.environment.get(EARLIER, [])]


def at_least(hours: float | None, lines: Iterable[Line]) -> Line | None:
    """Return the cheapest line that costs at least so much, within ``TOLERANCE``.

    None if there is none, or a cost is unknown.
    """
    known = [(line.hours, place, line) for place, line in enumerate(lines) if line.hours is not None]
    enough = [entry for entry in known if hours is not None and entry[0] >= (1 - TOLERANCE) * hours]
    return min(enough, key=lambda entry: entry[:2])[-1] if enough else None


def bought(hours: float | None, lines: Sequence[Line], metric: str) -> tuple[Line | None, Line]:
    """Return what so many hours buy of a row: its length with the fewest errors on the validation set.

    Of the lengths up to the cheapest that costs at least so much, since a longer training is not always a
    better one. Two lengths are compared over the seeds that both have.

    Args:
        hours: None if they are unknown.
        lines: of the lengths of the row, one at least.
        metric: of the error rates.

    Returns:
        The line, None if all cost less or a cost is unknown; and the line, if all cost less the best of them.
    """
    enough = at_least(hours, lines)
    best = lines[-1] if enough is None else enough
    for line in lines:
        common = [seed for seed in line.records if seed in best.records]
        is_bought = enough is None or (line.hours is not None and line.hours <= (enough.hours or 0))
        if is_bought and common and line.valid_rate(metric, common) < best.valid_rate(metric, common):
            best = line
    return None if enough is None else best, best


def unit_of(record: Record) -> str:
    """Return what the cost of a training is counted in: nothing adds up hours of cores and of GPUs."""
    return GPU if record.environment.get("gpus") else CORE


def hours_of(record: Record) -> float | None:
    """Return the cost of a training: core-hours, or on GPUs GPU-hours; None if unknown.

    It is unknown after a resumption on another number of GPUs. A training pays for the whole target store
    that it reads, though others may read it, too.
    """
    if len({len(part.get("gpus") or ()) for part in _environments(record)}) > 1:
        return None
    gpus = record.environment.get("gpus")
    trained = record.seconds and record.seconds * len(gpus) if gpus else record.cpu_seconds
    return None if trained is None else (trained + (record.targets_cpu_seconds or 0)) / HOUR


def _has_teacher_outside(plan: Plan, row: Row) -> bool:
    """Return True if a row learns from a model that is no row of the plan."""
    root = plan.path.parent.parent  # the directory of the recipe
    files = [root / name for name in str(row.options.get("kd_config") or "").replace(",", " ").split()]
    named = any("teacher" in read_config(file) for file in files if file.is_file())
    return str(row.options.get("labeller") or "espnet") != "espnet" or (named and not row.teachers)


def _is_of(plan: Plan, record: Record) -> bool:
    """Return True if a plan has the row of a record, and the record the sets of the row."""
    row = plan.rows.get(record.row)
    return row is not None and set(plan.sets(Trial(Variant(row, record.length), record.seed))) <= set(
        record.errors
    )


def _set(column: str, seed: int) -> str:
    """Return the name of the set that a training with a seed was tested on."""
    return column.replace(SEED, str(seed))


def _are_close(updates: list[int]) -> bool:
    """Return True if numbers of updates are equal, but for a little: epochs may be divided differently."""
    return max(updates) - min(updates) <= EQUAL_UPDATES * max(updates)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
