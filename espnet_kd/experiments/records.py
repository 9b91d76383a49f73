"""Records of the trainings of a plan: all that its tables show, kept in git.

``plans/results/NAME.jsonl`` beside ``plans/NAME.yaml`` has a line for each set, with the length of every
reference in words and characters::

    {"set": "dev", "reference": {"utt1": [3, 14], ...}}

and then a line for each training: the fields of ``Record``, with the errors as [substitutions, deletions,
insertions] of every utterance in the order of the line of the set. So tables are made without the
experiments, and from trainings of several sittings and machines.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.experiments.plan import Key, Plan, Row, Trial, Variant, is_exported, variants_of
from espnet_kd.files import atomic_path, read_json, read_lines
from espnet_kd.report.run import Run, link_phases, read_run
from espnet_kd.scoring.alignment import SCORE_FILE, UNITS, read_score

# Metric -> utterance id -> (errors, length of the reference, substitutions, deletions, insertions).
Errors = Mapping[str, Mapping[str, tuple[int, ...]]]
NUMBER = (int, float, type(None))
TYPES: dict[str, Any] = {
    **dict.fromkeys(("row", "command"), str),
    **dict.fromkeys(("length", "commit", "contents"), (str, type(None))),
    **dict.fromkeys(("updates", "parameters"), (int, type(None))),
    **dict.fromkeys(("cpu_seconds", "seconds", "targets_cpu_seconds"), NUMBER),
    **{"seed": int, "environment": dict, "elsewhere": bool},
}
DIGITS = 5  # of the values of a curve


@dataclass(frozen=True)
class Record:
    """What one training of a plan gave.

    Attributes:
        row: name of its row in the plan.
        seed: its seed.
        length: name of its length; None for the length of its configuration.
        command: the command line of run.sh.
        commit: of espnet_kd; None if unknown.
        environment: what it was computed with, see ``espnet_kd.environment``; empty if unknown.
        updates: optimiser steps, those of all phases together, as the other costs; None if unknown.
        cpu_seconds: CPU time of the training; None if unknown, or if the cost of its target store is.
        seconds: duration of the training; None if unknown, on GPUs also if the cost of its target store is.
        parameters: of the model; None if unknown.
        teacher_rows: row, seed and length of each teacher.
        targets_cpu_seconds: CPU time of writing the target store that it read, of a training on GPUs the
            time from begin to end; None without one.
        errors: set -> errors of its utterances.
        curve: name of a statistic -> its value on the validation set after each epoch.
        elsewhere: True for the same command on another machine, which tables show apart.
        contents: checksum of its configurations and of how its teachers are trained, which the command only
            names, see ``State.contents``; None in older records, which are taken as they are.
    """

    row: str
    seed: int
    length: str | None
    command: str
    commit: str | None
    environment: dict[str, Any]
    updates: int | None
    cpu_seconds: float | None
    seconds: float | None
    parameters: int | None
    teacher_rows: tuple[Key, ...]
    targets_cpu_seconds: float | None
    errors: dict[str, Errors]
    curve: dict[str, list[float]] = field(default_factory=dict)
    elsewhere: bool = False
    contents: str | None = None

    @property
    def key(self) -> Key:
        """Row, seed and length: which training of the plan it is."""
        return self.row, self.seed, self.length

    def rate(self, name: str, metric: str) -> float:
        """Return the error rate on a set in per cent."""
        rows = self.errors[name][metric].values()
        return 100 * sum(row[0] for row in rows) / max(1, sum(row[1] for row in rows))


def records_path(plan: Plan) -> Path:
    """Return where the records of a plan are kept."""
    return plan.path.parent / "results" / f"{plan.path.stem}.jsonl"


def read_records(path: str | Path) -> list[Record]:
    """Read the records of a plan; an empty list if there are none yet.

    Raises:
        UserError: a line is damaged, or two lines contradict each other, as after a merge of two files.
    """
    references: dict[str, dict[str, list[int]]] = {}
    found: list[Record] = []
    lines: dict[Key, int] = {}
    for number, line in enumerate(read_lines(path) if Path(path).exists() else [], 1):
        try:
            content = json.loads(line)
            if "set" in content:
                name = str(content["set"])
                lengths = content["reference"].items()
                reference = {str(utt): [int(n[0]), int(n[1])] for utt, n in lengths}
                if references.setdefault(name, reference) != reference:
                    raise UserError(
                        f"{path}:{number}: other references of the set {name} than in a line above: keep "
                        "the trainings that were tested on one of them, and their line of the set"
                    )
            else:
                found.append(_record(content, references))
        except UserError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{path}:{number}: not a record of a training: take the file from git, or remove the line "
                "and run `espnet-kd experiments` again"
            ) from None
        if "set" not in content and not found[-1].elsewhere:
            first = lines.setdefault(found[-1].key, number)
            if first != number:
                raise UserError(
                    f"{path}:{number}: {found[-1].row!r}, seed {found[-1].seed}, is in line {first} as well: "
                    'keep one of them, and remove the other or mark it by "elsewhere":true'
                )
    return found


def _record(content: dict[str, Any], references: dict[str, dict[str, list[int]]]) -> Record:
    errors = {}
    for name, by_metric in content["errors"].items():
        reference = references[name]
        errors[name] = {
            metric: {
                utt: _counts(kinds, lengths[place])
                for (utt, lengths), kinds in zip(reference.items(), by_metric[metric], strict=True)
            }
            for place, metric in enumerate(UNITS)
        }
    for key, kinds in TYPES.items():
        value = content.get(key) if key == "contents" else content[key]
        if not isinstance(value, kinds) or (isinstance(value, float) and not math.isfinite(value)):
            raise TypeError(f"{key}: {value!r}")
    keys = tuple((str(row), int(seed), length) for row, seed, length in content["teacher_rows"])
    if not all(isinstance(length, str | None) for _, _, length in keys):
        raise TypeError(f"teacher_rows: {keys}")
    curve = {str(name): [float(value) for value in values] for name, values in content["curve"].items()}
    return Record(**{**content, "errors": errors, "teacher_rows": keys, "curve": curve})


def _counts(kinds: list[int], length: int) -> tuple[int, ...]:
    substitutions, deletions, insertions = map(int, kinds)
    return substitutions + deletions + insertions, length, substitutions, deletions, insertions


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write the records of a plan, sorted, so that the same records give the same file.

    Raises:
        UserError: two trainings were tested on different references of a set.
    """
    records = sorted(records, key=lambda r: (r.row, r.length or "", r.seed, r.elsewhere, str(r.environment)))
    references: dict[str, dict[str, list[int]]] = {}
    seen: dict[str, Record] = {}
    for record in records:
        for name, errors in record.errors.items():
            found = {u: [errors[metric][u][1] for metric in UNITS] for u in sorted(errors["wer"])}
            first = seen.setdefault(name, record)
            if references.setdefault(name, found) != found:
                raise UserError(
                    f"{path}: {record.row!r}, seed {record.seed}, and {first.row!r}, seed {first.seed}, were "
                    f"tested on different references of the set {name}: make the data again, or give the set "
                    "another name"
                )
    lines: list[dict[str, Any]] = [
        {"set": name, "reference": references[name]} for name in sorted(references)
    ]
    lines += [_plain(record, references) for record in records]
    with atomic_path(path) as temporary:
        text = (json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in lines)
        temporary.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")


def _plain(record: Record, references: dict[str, dict[str, list[int]]]) -> dict[str, Any]:
    content = dict(vars(record))
    content["errors"] = {
        name: {metric: [list(errors[metric][u][2:]) for u in references[name]] for metric in UNITS}
        for name, errors in sorted(record.errors.items())
    }
    return content


def make_record(plan: Plan, trial: Trial) -> Record:
    """Read what a finished training gave; of a mutual training, what its first peer gave.

    Raises:
        UserError: it is not finished, or a set was not scored, or by an older espnet_kd.
    """
    sets = plan.sets(trial)
    trained, scored, tags = trial.directory, trial.model, [trial.inference_tag]
    directories = [*trained.parent.glob(f"{trained.name}_phase*"), trained, scored]
    runs = link_phases([run for d in sorted(set(directories)) if (run := read_run(d, sets, tags))])
    found = {run.directory: run for run in runs}
    if trained not in found or scored not in found or not found[trained].finished:
        raise UserError(f"{trial.name}: the training of {trained} is not finished")
    run, result = found[trained], found[scored]
    if missing := unscored(plan, trial):
        raise UserError(
            f"{trial.name}: {scored} has no score of {', '.join(missing)}: run stages 10 and 11 again"
        )
    scores = {name: read_score(trial.decoded(name)) for name in sets}
    errors: dict[str, Errors] = {name: score.utterances for name, score in scores.items()}
    for name in sets:
        if any(len(row) < 5 for row in errors[name]["wer"].values()):
            raise UserError(f"{scores[name].path} is of an older espnet_kd: run stage 11 again")
    is_on_gpus = bool((run.info.get("environment") or {}).get("gpus"))
    stores = sorted({store for phase in run.phases if (store := _store(phase)) is not None})
    targets = _sum(_cost(store, is_on_gpus) for store in stores) if stores else None
    is_known = not stores or targets is not None
    return Record(
        *trial.key,
        command=str(run.info.get("command") or ""),
        commit=run.info.get("commit"),
        environment=dict(run.info.get("environment") or {}),
        updates=run.updates,
        cpu_seconds=_sum([run.cpu_seconds if is_known else None]),
        seconds=_sum([run.seconds if is_known or not is_on_gpus else None]),
        parameters=result.parameters,
        teacher_rows=tuple(teacher.key for teacher in plan.teacher_trials(trial)),
        targets_cpu_seconds=targets,
        errors=errors,
        curve=_curves(result),
    )


def unscored(plan: Plan, trial: Trial, exported: bool = True) -> list[str]:
    """Return the sets of a trial without a score, those of exported graphs too if they count."""
    sets = [name for name in plan.sets(trial) if exported or not is_exported(name)]
    return [name for name in sets if not (trial.decoded(name) / SCORE_FILE).is_file()]


def _store(run: Run) -> Path | None:
    """Return the directory of the stored targets that a training read."""
    option = run.config.get("teacher")
    store = option.get("store") if isinstance(option, dict) else None
    return Path(store) if store else None


def _cost(store: Path, is_on_gpus: bool) -> float | None:
    """Return the cost of a store; None if unknown, or if it was written on GPUs for a CPU, or the reverse."""
    from espnet_kd.targets.format import MANIFEST, read_cost

    cost, path = read_cost(store), store / MANIFEST
    device = (read_json(path).get("settings") or {}).get("device") if path.is_file() else None
    if cost is None or (device is not None and (device == "cuda") != is_on_gpus):
        return None
    return cost.seconds if is_on_gpus else cost.cpu_seconds


def _sum(values: Iterable[float | None]) -> float | None:
    """Add up; None if any value is unknown."""
    known = list(values)
    return None if None in known else round(sum(v for v in known if v is not None), 1)


def _curves(run: Run) -> dict[str, list[float]]:
    """Return the statistics that plots of learning curves show; an epoch without a value ends a curve."""
    from espnet_kd.report.plots import CURVES

    found = {}
    for names in CURVES.values():
        curve = run.history.curve("valid", *names)
        if curve and list(curve) == list(range(1, len(curve) + 1)):
            found[names[0]] = [float(f"{value:.{DIGITS}g}") for value in curve.values()]
    return found


def comparable(plan: Plan, row: Row) -> list[list[Trial]]:
    """Return, for each candidate of a ``best_of`` row, the trials by which the candidates are compared.

    These have the seeds that all candidates have, and of the lengths that all have the last.

    Raises:
        UserError: they have no seed or no length in common.
    """
    candidates = [plan.rows[name] for name in row.best_of]
    seeds = [seed for seed in candidates[0].seeds if all(seed in c.seeds for c in candidates)]
    shared = [v.length for v in variants_of(candidates[0])]
    shared = [n for n in shared if all(n in [v.length for v in variants_of(c)] for c in candidates)]
    if not seeds or not shared:
        names = ", ".join(row.best_of)
        raise UserError(
            f"{plan.path}: row {row.name!r}: {names} have no {'length' if seeds else 'seed'} in common"
        )
    return [[Trial(Variant(c, shared[-1]), seed) for seed in seeds] for c in candidates]


def choose(plan: Plan, row: Row, records: Iterable[Record]) -> Row | None:
    """Return the candidate of a ``best_of`` row with the lowest error rate on its validation set.

    The rate is the mean of those of ``comparable``; of equal rates the first candidate is taken. None if a
    training of these is not finished.
    """
    known = {record.key: record for record in records if not record.elsewhere}
    rates: list[float] = []
    for trials in comparable(plan, row):
        if any(trial.key not in known for trial in trials):
            return None
        found = [known[trial.key].rate(plan.sets(trial)[-1], plan.metric) for trial in trials]
        rates.append(sum(found) / len(found))
    return plan.rows[row.best_of[rates.index(min(rates))]]
