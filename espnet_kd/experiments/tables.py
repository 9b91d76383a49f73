"""``espnet-kd report --plan``: write the tables and pictures of a plan from its records."""

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from espnet_kd.environment import differences
from espnet_kd.errors import UserError
from espnet_kd.experiments.comparisons import (
    CANNOT_TELL,
    CORE,
    DOES_NOT,
    Comparison,
    Line,
    Results,
    bought,
    hours_of,
    unit_of,
)
from espnet_kd.experiments.plan import SEED, Frontier, Group, Plan, variants_of
from espnet_kd.experiments.plan_file import read_plan
from espnet_kd.experiments.records import Record, comparable, read_records, records_path
from espnet_kd.files import write_text
from espnet_kd.report.tables import BOOTSTRAP, NOTE, code, collapsed, interval, kinds, plain, spread, table
from espnet_kd.scoring.bootstrap import Difference

OTHER_ENVIRONMENT = "†"
SHOWN = 3  # differences between environments that a sentence names


def write_report(path: Path) -> Path:
    """Write ``plans/results/NAME.md`` of a plan, with pictures in ``plans/results/NAME/``, and return it.

    Raises:
        UserError: the plan or its records are damaged, or there are no records.
    """
    plan = read_plan(path)
    results = Results(plan, read_records(records_path(plan)))
    if not results.known:
        raise UserError(
            f"{records_path(plan)} has no training of the plan's rows: run "
            f"`espnet-kd experiments {path}` first"
        )
    from espnet_kd.experiments import pictures

    out = records_path(plan).with_suffix(".md")
    images = pictures.draw(results, out.with_suffix(""))
    text = render(results, {caption: os.path.relpath(image, out.parent) for caption, image in images.items()})
    write_text(out, text)
    return out


def render(results: Results, images: Mapping[str, str]) -> str:
    """Return the text of the report.

    Args:
        results: of the plan.
        images: caption -> path relative to the report.
    """
    plan = results.plan
    parts = [f"# {plain(plan.title)}", NOTE, _summary(results)]
    every = Group("Rows", tuple(v for row in results.rows.values() for v in variants_of(row)))
    groups = plan.groups or (every,)
    for number, group in enumerate(groups):
        parts += _group(results, group)
        if number == 0:
            parts += [_legend(plan), *_pictures(images)]
            for frontier in plan.frontier:
                parts += _frontier(results, frontier)
    parts += _elsewhere(results)
    parts += [*_notes(results), _commands(results), *_not_run(plan)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(results: Results) -> str:
    """Return how much of the plan is done, and what it cost."""
    lines = results.all_lines(v for row in results.rows.values() for v in variants_of(row))
    planned = {(line.row.name, seed, line.variant.length) for line in lines for seed in line.row.seeds}
    known = [results.measured[key] for key in planned if key in results.measured]
    hours: dict[str, float] = {}
    costly = [record for record in known if hours_of(record) is not None]
    for record in costly:
        hours[unit_of(record)] = hours.get(unit_of(record), 0.0) + (hours_of(record) or 0.0)
    cost = " and ".join(f"{hours[unit]:.1f} {unit}" for unit in sorted(hours)) or "an unknown time"
    whose = "they" if len(costly) in (0, len(known)) else f"the {len(costly)} of known cost"
    if any(record.targets_cpu_seconds for record in costly):
        cost += " (a target store counts once for each training that reads it)"
    chosen = "".join(
        f' "{plain(name)}" is "{plain(row.name)}", the best on {_label(results.plan.valid_set)} of '
        f"{', '.join(f'"{plain(candidate)}"' for candidate in results.rows[name].best_of)}"
        f"{_search(results, name)}."
        for name, row in results.choices.items()
    )
    return f"{len(known)} of {len(planned)} trainings are done; {whose} took {cost}.{chosen}"


def _search(results: Results, name: str) -> str:
    """Return what it has cost to find the best of some rows, which no other number has."""
    trials = [t for of_row in comparable(results.plan, results.rows[name]) for t in of_row]
    records = [results.measured[trial.key] for trial in trials if trial.key in results.measured]
    hours = [h for record in records if (h := hours_of(record)) is not None]
    if len(hours) < len(trials) or len({unit_of(record) for record in records}) > 1:
        return ""
    return f"; the {len(trials)} trainings of this choice took {sum(hours):.1f} {_unit(records)}"


def _unit(records: Iterable[Record]) -> str:
    return " or ".join(sorted({unit_of(record) for record in records})) or CORE


def _legend(plan: Plan) -> str:
    err = plan.metric.upper()
    notes = [
        f"{err} %: mean over the seeds, ± standard deviation of a seed.",
        "S/D/I: substitutions, deletions and insertions of all seeds.",
        "Hours: of one training, with the whole target store that it reads, without its teachers, the "
        "decoding of pseudo-labels and of n-best lists, and the search for the best of several rows.",
        "Differences: percentage points, relative, 95 % interval, p, over the seeds that both have (all, "
        "against a teacher with one seed).",
        "Equal updates: as many in both rows. Same length: of the plan; updates differ or are unknown. "
        "Equal compute: of the lengths of the other row up to the shortest that cost at least as much, the "
        "best on the validation set. Longest: its longest.",
        "Pays: at equal compute the interval is below zero on every set. Does not: above zero on every set.",
        f"Interval and p: {BOOTSTRAP}",
        f"{OTHER_ENVIRONMENT}: the two sides were trained in different environments, which alone can move an "
        "error rate.",
    ]
    if _has_folds(plan):
        notes.append(f"A set with {plain('*')} is one for each seed, and the errors of all are summed.")
    return collapsed("How to read the tables", *_bullets(notes))


def _has_folds(plan: Plan) -> bool:
    options = (row.options for row in plan.rows.values())
    values = [*plan.test_sets, *(str(given.get("test_sets", "")) for given in options)]
    return any(SEED in value for value in values)


def _label(column: str) -> str:
    return plain(column.replace(SEED, "*"))


def _group(results: Results, group: Group) -> list[str]:
    """Return heading, table, warnings and comparisons of a group."""
    lines = results.all_lines(group.variants)
    parts = [f"## {plain(group.title)}", plain(group.text), _rates(results, lines)]
    parts += _bullets(_warnings(results, lines))
    found = results.comparisons(lines)
    return [*parts, _comparisons(results, found)] if found else parts


def _columns(lines: Iterable[Line]) -> list[str]:
    """Return the names of all sets of some lines, those of validation last."""
    lines = list(lines)
    tests = [column for line in lines for column in line.columns[:-1]]
    return list(dict.fromkeys([*tests, *(line.columns[-1] for line in lines)]))


def _rates(results: Results, lines: list[Line]) -> str:
    metric, columns = results.plan.metric, _columns(lines)
    unit = _unit(record for line in lines for record in line.records.values())
    head = ["", "parameters", "updates", unit, "seeds"]
    head += [f"{metric.upper()} % {_label(column)}" for column in columns] + [f"S/D/I {_label(columns[0])}"]
    rows = []
    for line in lines:
        sizes = {r.parameters for r in line.records.values() if r.parameters is not None}
        cells = [f"{max(sizes) / 1e6:.2f} M" if sizes else "", " ".join(map(str, line.updates))]
        cells += [_hours(line.hours), " ".join(map(str, line.records)) or "none yet"]
        cells += [_rate(line, column, metric) for column in columns]
        is_shown = bool(line.records) and columns[0] in line.columns
        rows.append([plain(line.name), *cells, kinds(line.counts(columns[0], metric)) if is_shown else ""])
    return table(head, rows)


def _hours(hours: float | None) -> str:
    return "" if hours is None else f"{hours:.3f}" if hours < 1 else f"{hours:.2f}"


def _rate(line: Line, column: str, metric: str) -> str:
    if not line.records or column not in line.columns:
        return ""
    text = spread(line.rates(column, metric))
    if SEED not in column:
        return text
    total = line.counts(column, metric)  # folds have unequal numbers of words
    _, deviation, after = text.partition(" ")
    return f"{100 * total.errors / max(1, total.reference):.1f}{deviation}{after}"


def _comparisons(results: Results, comparisons: list[Comparison]) -> str:
    """Return a table of comparisons, a line each."""
    columns = _columns(comparison.line for comparison in comparisons)
    has_verdicts = any(map(results.is_verdict, comparisons))
    rows = []
    for comparison in comparisons:
        cells = [plain(comparison.line.name), plain(comparison.other.name), _why(comparison)]
        cells += [_difference(comparison.differences.get(column)) for column in columns]
        verdict = comparison.verdict if results.is_verdict(comparison) else ""
        rows.append(cells + [verdict] * has_verdicts)
    head = ["", "compared with", "at", *map(_label, columns), *["pays?"] * has_verdicts]
    return table(head, rows)


def _why(comparison: Comparison) -> str:
    words = list(comparison.why)
    seeds, sides = comparison.seeds, (comparison.line.records, comparison.other.records)
    if seeds and any(len(records) > len(seeds) for records in sides):
        words.append(f"seed {' '.join(map(str, seeds))}")
    elif not seeds and "teacher" not in words:
        words.append("no common seed")
    return ", ".join(words) + (f" {OTHER_ENVIRONMENT}" if comparison.environments else "")


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    relative = f" ({difference.relative:+.0f} %)" if difference.relative == difference.relative else ""
    return f"{difference.value:+.2f}{relative}, {interval(difference)}, p {difference.p:.2g}"


def _warnings(results: Results, lines: list[Line]) -> list[str]:
    """Return what a reader of a table must know of its lines."""
    found = []
    missing = [
        f"{plain(line.name)} (seed {', '.join(map(str, line.missing))})" for line in lines if line.missing
    ]
    if len(missing) > SHOWN:
        number = sum(len(line.missing) for line in lines)
        command = code(f"espnet-kd experiments {_plan_file(results.plan)} --status")
        found.append(f"{number} trainings of these rows are not done yet; {command} lists them.")
    elif missing:
        found.append(f"Not trained yet: {'; '.join(missing)}.")
    for line in lines:
        if len(line.updates) > 1:
            found.append(
                f"{plain(line.name)}: updates differ between seeds: {', '.join(map(str, line.updates))}."
            )
    single = [plain(line.name) for line in lines if len(line.records) == 1]
    if single and len(single) < len(lines):
        found.append(f"One seed only: {'; '.join(single)}.")
    return found + _environments([record for line in lines for record in line.records.values()])


def _environments(records: list[Record]) -> list[str]:
    """Return a warning for the trainings that were in other environments than the most of them."""
    kinds: list[list[Record]] = []
    for record in records:
        same = next((k for k in kinds if not differences(k[0].environment, record.environment)), None)
        if same is None:
            kinds.append([record])
        else:
            same.append(record)
    if len(kinds) < 2:
        return []
    kinds.sort(key=len, reverse=True)
    found = []
    for kind in kinds[1:]:
        names = _trainings(kind)
        different = differences(kinds[0][0].environment, kind[0].environment)
        found.append(
            f"{OTHER_ENVIRONMENT} Trained in another environment than the other rows: {names}: "
            f"{_few(different)}."
        )
    return found


def _few(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return plain("; ".join(texts[:SHOWN])) + more


def _trainings(records: Iterable[Record]) -> str:
    """Name some trainings, each row once with its seeds."""
    seeds: dict[str, list[int]] = {}
    for record in records:
        name = record.row if record.length is None else f"{record.row}, {record.length}"
        seeds.setdefault(name, []).append(record.seed)
    return "; ".join(f"{plain(name)} (seed {', '.join(map(str, s))})" for name, s in seeds.items())


def _bullets(texts: list[str]) -> list[str]:
    return ["\n".join(f"- {text}" for text in texts)] if texts else []


def _frontier(results: Results, frontier: Frontier) -> list[str]:
    """Return heading and tables of error rates against compute."""
    alone = results.lines(frontier.alone)
    methods = [results.lines(row) for row in frontier.methods]
    lines = [*alone, *(line for method in methods for line in method)]
    if not alone:
        return []
    metric, columns = results.plan.metric, _columns(lines)
    unit = _unit(record for line in lines for record in line.records.values())
    head = ["", "updates", f"{unit} a seed", "with its teachers", "seeds"]
    head += [f"{metric.upper()} % {_label(column)}" for column in columns]
    costs = []
    for line in lines:
        cells = [plain(line.name), " ".join(map(str, line.updates)), _hours(line.hours)]
        cells += [_hours(results.paid_hours(line)), " ".join(map(str, line.records))]
        costs.append(cells + [_rate(line, column, metric) for column in columns])
    parts = [f"## {plain(frontier.title)}: {metric.upper()} against compute", table(head, costs)]
    parts += _bullets(_environments([record for line in lines for record in line.records.values()]))
    rows = [
        row for method in methods for line in method for row in _against_alone(results, line, alone, columns)
    ]
    if rows:
        name = plain(frontier.alone.name)
        parts.append(
            f"Each method against {name}, at that length of {name} that is best on the validation set, of "
            "those up to the shortest that cost at least as much: once with the teacher for nothing, because "
            "it exists, and once with its training in the method's cost, in full, shared with nothing. The "
            "writing of a target store is always in it, the search for the best of several rows never."
        )
        parts.append(table(["", "teacher", f"{name} at", *map(_label, columns), "pays?"], rows))
    return [*parts, *_last_step(results, alone)]


def _against_alone(results: Results, line: Line, alone: list[Line], columns: list[str]) -> list[list[str]]:
    rows = []
    for teacher, hours in (("free", line.hours), ("paid", results.paid_hours(line))):
        if hours is None:
            rows.append([plain(line.name), teacher, "cost unknown", *[""] * len(columns), ""])
            continue
        alike = line.in_its_unit(alone)
        if not alike:
            name = plain(alone[-1].variant.row.name)
            cells = [plain(line.name), teacher, f"{name} has its cost in other hours"]
            rows.append([*cells, *[""] * len(columns), ""])
            continue
        enough, other = bought(hours, alike, results.plan.metric)
        length = plain(other.variant.length or other.name)
        if enough is None:  # the student alone cost less, so only its being better says anything
            length += f", cheaper: {_hours(other.hours) or 'unknown'} of {_hours(hours)}"
        comparison = results.compare(line, other, (length,))
        cells = [_difference(comparison.differences.get(column)) for column in columns]
        verdict = comparison.verdict
        verdict = verdict if enough is not None or verdict == DOES_NOT else CANNOT_TELL
        rows.append([plain(line.name), teacher, _why(comparison), *cells, verdict])
    return rows


def _last_step(results: Results, alone: list[Line]) -> list[str]:
    """Return whether the student alone still improves on the validation set from its last length but one."""
    if len(alone) < 2:
        return []
    valid = alone[-1].columns[-1]
    comparison = results.compare(alone[-1], alone[-2])
    step = comparison.differences.get(valid)
    if step is None:
        return []
    ends = "gets worse" if step.low > 0 else "does not improve beyond chance"
    ends = "still improves" if step.high < 0 else ends
    ends = f"{ends} (one seed)" if step.seeds == 1 else ends
    return [
        f"From {plain(alone[-2].variant.length or '')} to {plain(alone[-1].variant.length or '')}, "
        f"{plain(alone[-1].row.name)} {ends} on {_label(valid)}: "
        f"{', '.join(filter(None, [_difference(step), _why(comparison)]))}."
    ]


def _elsewhere(results: Results) -> list[str]:
    """Return heading and table of trainings that were repeated elsewhere by the same command."""
    rows, metric = [], results.plan.metric
    names = list(dict.fromkeys(name for record in results.elsewhere for name in record.errors))
    for record in results.elsewhere:
        here = results.known.get(record.key)
        cells = []
        for name in names:
            rates = [f"{r.rate(name, metric):.1f}" if r and name in r.errors else "" for r in (here, record)]
            cells.append(" / ".join(rates))
        different = differences(here.environment, record.environment) if here else []
        is_unknown = here is not None and not (here.environment and record.environment)
        same = "unknown" if is_unknown else "nothing"
        shown = _few(different) if different else same if here else "not trained here"
        name = record.row if record.length is None else f"{record.row}, {record.length}"
        rows.append([plain(name), str(record.seed), *cells, shown])
    head = ["", "seed", *(f"{metric.upper()} % {plain(name)}, here / there" for name in names)]
    heading = "## The same command elsewhere"
    return [heading, table([*head, "what differs there"], rows)] if rows else []


def _notes(results: Results) -> list[str]:
    """Return which rows were trained at which commit, if there are several, and which by an older command."""
    found = []
    commits: dict[str, list[Record]] = {}
    for record in results.known.values():
        commits.setdefault(record.commit or "unknown", []).append(record)
    if len(commits) > 1:
        shown = ", ".join(f"{code(_short(c))} {_trainings(records)}" for c, records in commits.items())
        found.append(f"Trained at several commits, between which the code may differ: {shown}.")
    from espnet_kd.experiments.trials import State

    state = State(results.plan, list(results.known.values()))
    trials = {trial.key: trial for trial in state.trials()}
    stale = [r for t in trials.values() if (r := state.record(t)) is not None and not state.is_recorded(t)]
    if stale:
        found.append(
            "Trained by another command, configuration or teacher than the plan gives now: "
            f"{_trainings(stale)}."
        )
    if results.unused:
        found.append(
            "Left out, their rows, lengths, seeds or sets are not in the plan any more: "
            f"{_trainings(results.unused)}."
        )
    return ["## Notes", *_bullets(found)] if found else []


def _commands(results: Results) -> str:
    """Return the command and commits of each row, in a block that a reader opens."""
    lines = []
    for name, row in results.rows.items():
        records = [record for line in results.lines(row) for record in line.records.values()]
        commits = dict.fromkeys(record.commit or "unknown" for record in records)
        if records:
            words = ["espnet-kd", "experiments", _plan_file(results.plan), "--only", name, "--again"]
            command = shlex.join(words)
            lines.append([plain(name), code(command), ", ".join(code(_short(commit)) for commit in commits)])
    again = (
        "In a fresh clone a command trains a row again, with all that it needs, and adds it to the table of "
        "the same command elsewhere; `--data_options` names the corpus, `--seeds` takes some of the seeds."
    )
    body = f"{again}\n\n{table(['', 'command', 'commit'], lines)}"
    return collapsed("Command and commit of each row", body)


def _short(commit: str) -> str:
    """Return the first digits of a commit, and whether files differed from it."""
    digits, mark, dirty = commit.partition("-dirty")
    return digits[:12] + mark + dirty


def _plan_file(plan: Plan) -> str:
    """Return the file of a plan as it is called in the directory of its recipe."""
    path = plan.path.resolve()
    return f"{path.parent.name}/{path.name}"


def _not_run(plan: Plan) -> list[str]:
    rows = [[plain(name), plain(reason)] for name, reason in plan.not_run.items()]
    return ["## Not run", table(["row", "why"], rows)] if rows else []


def _pictures(images: Mapping[str, str]) -> list[str]:
    return [f"![{plain(caption)}]({quote(Path(path).as_posix())})" for caption, path in images.items()]
