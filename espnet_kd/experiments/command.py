"""``espnet-kd experiments``: train and decode the rows of a plan, or show what there is to do."""

import argparse
import shlex
import sys
from pathlib import Path

from espnet_kd import parallel
from espnet_kd.command_line import command_parser, path_text
from espnet_kd.commands.progress import GrowingFile, Training
from espnet_kd.config import split_words
from espnet_kd.errors import UserError, printable
from espnet_kd.experiments import logs, runner
from espnet_kd.experiments.check import check_rows
from espnet_kd.experiments.plan import Key, Plan, Trial, Variant, chosen, variants_of
from espnet_kd.experiments.plan_file import read_plan
from espnet_kd.experiments.trials import RUN, State, check_configurations, select

HOUR = 3600.0  # seconds


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = command_parser("experiments")
    p.add_argument("plan", type=Path, help="YAML file of the plan, such as plans/tutornet.yaml")
    p.add_argument("--dry_run", action="store_true", help="print the commands that are left, with hours")
    p.add_argument("--check", action="store_true", help="print which rows a training would refuse, and why")
    p.add_argument("--status", action="store_true", help="print what is finished, runs, waits or has failed")
    p.add_argument("--jobs", type=int, help="trainings at a time (default: number of GPUs, or else of cores)")
    p.add_argument(
        "--only", nargs="+", default=[], metavar="NAME",
        help="rows or variants and what they need; * and ? stand for any characters",
    )
    p.add_argument("--seeds", nargs="+", type=int, default=[], help="only these seeds")
    p.add_argument(
        "--cluster", type=path_text, default="local",
        help="YAML file of a Dask cluster, on whose workers the trainings run (default: %(default)s)",
    )
    p.add_argument(
        "--data_options", default="",
        help="options of run.sh for preparing the data, such as '--an4 DIRECTORY'",
    )
    p.add_argument(
        "--again", action="store_true",
        help="train rows although they are on record, and record them as the same command elsewhere",
    )
    p.add_argument("--report", action="store_true", help="write the tables of the plan in the end")
    return p


def main(argv: list[str] | None = None) -> None:
    """Run ``experiments PLAN``; exit status 1 if a training failed, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    plan = read_plan(args.plan)
    if not Path(RUN).is_file():
        raise UserError(f"there is no {RUN} here: run this in the directory of a recipe, such as egs/an4/kd1")
    asked_for = select(plan, args.only, args.seeds)
    state = State.of(plan, args.again)
    if args.status:
        print(status(state))
        return
    pending = state.pending(asked_for(state.plan))
    check_configurations(plan, pending)
    if args.check:
        sys.exit(print_refusals(state.plan, asked_for(state.plan)))
    if args.dry_run:
        print("\n".join(dry_run(state, pending, args)))
        return
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give a number of at least 1")
    cluster = None if args.cluster == "local" else parallel.parse_cluster(args.cluster, args.jobs)
    here = args.jobs or len(runner.visible_gpus()) or None
    jobs = (cluster or parallel.parse_cluster("local", here)).workers
    run = runner.Runner(state, asked_for, jobs, split_words(args.data_options, "--data_options"))
    for trial in asked_for(state.plan) if args.again else ():
        if not trial.variant.row.best_of and state.is_here(trial):
            print(f"{trial.name}: {trial.directory} has it: remove this directory to train it again")
    try:
        with runner.only_runner(plan), runner.caller(run, cluster) as call:
            run.run(call)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    summary = run.summary()
    print("\n".join(summary or [f"{plan.path}: everything is done"]))
    if args.report:
        from espnet_kd.report.command import main as report

        report(["--plan", str(plan.path)])
    if summary:
        sys.exit(1)


def print_refusals(plan: Plan, trials: list[Trial]) -> int:
    """Print which rows would be refused; return the exit status, 1 if there are any."""
    refusals = check_rows(plan, trials)
    print("\n".join(refusals or [f"{plan.path}: the options of all rows can be used"]))
    return 1 if refusals else 0


def dry_run(state: State, trials: list[Trial], args: argparse.Namespace) -> list[str]:
    """Return every command that is left, in order, each under a line with its name and estimated hours."""
    lines, total, unknown = [], 0.0, 0
    options = split_words(args.data_options, "--data_options")
    keys = {trial.key for trial in trials}
    trials = [trial for trial in trials if not _is_of_candidates(state, trial, keys)]
    for task in runner.tasks_of(state, trials, options):
        title = task.name
        if task.trial is not None:
            hours = estimated_hours(state, task.trial)
            total, unknown = total + (hours or 0), unknown + (hours is None)
            title += f": {_hours(hours)}"
        lines += [f"# {title}", shlex.join(task.words), ""]
    for trial in trials:
        if trial.variant.row.best_of:
            hours = estimated_hours(state, trial)
            total, unknown = total + (hours or 0), unknown + (hours is None)
            waits = "; ".join(need.name for need in state.needs(trial))
            lines.append(f"# {trial.name}: {_hours(hours)}, the best row after {waits}")
    more = f" and {unknown} of unknown length" if unknown else ""
    return [*lines, f"# {len(trials)} trainings, {total:.1f} core-hours{more}"]


def _is_of_candidates(state: State, trial: Trial, keys: set[Key]) -> bool:
    """Return True if a trial of a ``best_of`` row is one of a candidate, whichever is chosen."""
    rows = [state.plan.rows[name] for name in trial.variant.row.best_of]
    same = [Trial(Variant(row, trial.variant.length), trial.seed) for row in rows]
    return bool(same) and all(one.key in keys or state.is_known(one) for one in same)


def _hours(hours: float | None) -> str:
    return "? core-hours" if hours is None else f"{hours:.{1 if hours >= 1 else 2}f} core-hours"


def estimated_hours(state: State, trial: Trial) -> float | None:
    """Estimate the time of a training by a finished one that is like it; None if there is none.

    The same row with another seed or length is preferred, then a row with the same models. The time grows
    with the number of epochs.
    """
    row, length = trial.variant.row, trial.variant.length
    if row.best_of:
        candidate = chosen(row, state.plan.rows[row.best_of[0]])
        return estimated_hours(state, Trial(Variant(candidate, length), trial.seed))
    known: list[tuple[tuple[bool, ...], bool, int, float]] = []
    for other in state.trials():
        seconds = state.cpu_seconds(other)
        epochs, others = (_option(state.plan, t, "max_epoch") for t in (trial, other))
        if seconds is None or (epochs != others and None in (epochs, others)):
            continue
        factor = 1.0 if epochs == others else float(epochs or 1) / float(others or 1)
        differs = other.variant.row.name != row.name, *(
            other.options.get(key) != trial.options.get(key) for key in ("kd_config", "student_config")
        )
        if not (differs[0] and differs[-1]):
            known.append((differs, factor != 1.0, len(known), seconds * factor))
    return min(known)[-1] / HOUR if known else None


def _option(plan: Plan, trial: Trial, name: str) -> str | None:
    """Return the value of an option of a training; None if it is left to its configuration."""
    words = trial.args(plan.lengths)
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else None


def status(state: State) -> str:
    """Return a table of variants and seeds, and below it what waits, and what has failed with which log."""
    seeds = sorted({seed for row in state.plan.rows.values() for seed in row.seeds})
    table = [["", *(f"seed {seed}" for seed in seeds)]]
    waiting: dict[str, dict[str, None]] = {}  # what is waited for -> names of variants, in their order
    failed, seconds, stores = [], 0.0, 0.0
    for name, row in state.plan.rows.items():
        for variant in variants_of(row):
            label = variant.name if row.name == name else f"{name} = {variant.name}"
            line = [label]
            for seed in seeds:
                trial = Trial(variant, seed)
                line.append(cell(state, trial) if seed in row.seeds else "")
                if line[-1] == "waits":
                    needs = dict.fromkeys(need.variant.name for need in state.missing(trial))
                    waiting.setdefault("; ".join(needs), {})[variant.name] = None
                elif line[-1] == "failed":
                    log = logs.log_of(trial)
                    failed.append(f"failed: {trial.name}: {printable(logs.reason_of(log))}; log {log}")
            table.append(line)
    for trial in state.trials():
        seconds += state.cpu_seconds(trial) or 0
        record = state.record(trial)
        stores += (record and record.targets_cpu_seconds) or 0  # the report counts them, too
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
    rates = f"numbers are {state.plan.metric.upper()} in per cent on the validation set"
    what = "training and the target stores that it reads" if stores else "training"
    lines += ["", f"{rates}; {(seconds + stores) / HOUR:.1f} core-hours of {what} so far"]
    lines += [f"waiting: {'; '.join(names)} for {needs}" for needs, names in waiting.items()]
    return "\n".join(lines + failed)


def cell(state: State, trial: Trial) -> str:
    """Return the state of a trial in a word or two."""
    if trial.variant.row.best_of:
        return "waits"
    record = state.record(trial)
    if record and state.is_recorded(trial):
        return f"{record.rate(state.plan.sets(trial)[-1], state.plan.metric):.1f}"
    if state.is_here(trial):
        return "done"
    epoch = _epoch(trial)
    if logs.is_running(trial):
        return epoch or "starts"
    if logs.status_of(logs.log_of(trial)) not in (None, 0):
        return "failed"
    if epoch:
        return f"{epoch}, stopped"
    return "to do" if state.is_ready(trial) else "waits"


def _epoch(trial: Trial) -> str:
    """Return the epoch of the present phase of a training, as in ``epoch 3/18``; empty before it begins."""
    phases = trial.directory.parent.glob(f"{trial.directory.name}_phase*")
    logs = [log for exp in (trial.directory, *phases) if (log := exp / "train.log").is_file()]
    if not logs:
        return ""
    training = Training()
    for line in GrowingFile(max(logs, key=lambda log: log.stat().st_mtime)).new_lines():
        training.read(line)
    return f"epoch {max(training.epoch, training.finished)}/{training.epochs}" if training.epochs else ""
