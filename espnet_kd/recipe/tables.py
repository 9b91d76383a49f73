"""The Markdown of RESULTS.md. Nothing of the day or the machine enters: the same runs give the same text."""

import statistics
from collections.abc import Iterable

from espnet_kd.recipe.bootstrap import RESAMPLES
from espnet_kd.recipe.experiments import Run
from espnet_kd.recipe.groups import Group, comparison, lesson

# Metric -> columns of the error rates. Without spaces between words a WER would count whole utterances.
RATES = {"wer": ["WER %", "errors/words", "CER %"], "cer": ["CER %", "errors/characters"]}


def notes(metric: str) -> str:
    """What the columns mean."""
    err, unit = metric.upper(), "words" if metric == "wer" else "characters"
    rates = "WER and CER" if metric == "wer" else "CER"
    return f"""\
{rates}: mean over the seeds, ± standard deviation where there are several. Errors/{unit}: summed over
the seeds. Against the student: {err} less that of the student that was trained without a teacher for the same
number of updates, in percentage points and relative to it, over the seeds that both have. Interval and p:
paired bootstrap over the utterances of the set ({RESAMPLES} resamples), the errors of these seeds of a side
taken together; they speak of the choice of utterances, the ± speaks of the seeds."""


def results(groups: list[Group], name: str) -> str:
    """The table of one set."""
    rows = [_row(group, name) for group in groups if group.scored(name)]
    head = ["model", "parameters", "updates", "seeds", *RATES[groups[0].metric]]
    return table([*head, "against the student", "95 % interval", "p"], rows)


def _row(group: Group, name: str) -> list[str]:
    runs = group.scored(name)
    errors, words = group.counts(name)
    rates = [spread(group.rates(name)), f"{errors.sum()}/{words.sum()}"]
    if group.metric == "wer":
        rates.append(spread(group.rates(name, "cer")))
    size = runs[0].parameters
    difference = comparison(group, name)
    against = ["", "", ""]
    if difference is not None:
        against = [
            f"{difference.value:+.2f} ({difference.relative:+.1f} %)",
            f"{difference.low:+.2f} to {difference.high:+.2f}",
            f"{difference.p:.2g}",
        ]
    elif group.kind == "distilled":
        against[0] = "no student with equal updates"
    return [
        group.label,
        "unknown" if size is None else f"{size / 1e6:.2f} M",
        "unknown" if group.updates is None else str(group.updates),
        " ".join(str(run.seed) for run in runs),
        *rates,
        *against,
    ]


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; the mean alone of a single value."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def runs(groups: list[Group], sets: list[str]) -> str:
    """A row per run."""
    rows, metric = [], groups[0].metric
    for group in groups:
        for run in group.runs:
            rates = [f"{run.scores[name].rate(metric):.1f}" if name in run.scores else "" for name in sets]
            hours = "unknown" if run.seconds is None else f"{run.seconds / 3600:.2f}"
            updates = "unknown" if run.updates is None else str(run.updates)
            model = run.model_file.name if run.model_file else "unknown"
            rows.append([f"`{run.name}`", group.label, str(run.seed), *rates, updates, hours, model])
    head = ["run", "model", "seed", *(f"{s} {metric.upper()} %" for s in sets)]
    return table([*head, "updates", "hours", "file"], rows)


def phases(groups: list[Group]) -> str:
    """A row per training of the runs that were trained in phases; empty if there are none."""
    rows = []
    for run in (run for group in groups for run in group.runs if run.before is not None):
        for number, phase in enumerate(run.phases, 1):
            initial = ", ".join(param.split(":")[0] for param in phase.config.get("init_param") or [])
            hours = "unknown" if phase.own_seconds is None else f"{phase.own_seconds / 3600:.2f}"
            updates = "unknown" if phase.own_updates is None else str(phase.own_updates)
            start = [updates, hours, initial or "random"]
            rows.append([f"`{run.name}`", str(number), lesson(phase), str(run.seed), *start])
    head = ["run", "phase", "learns from", "seed", "updates", "hours", "starts from"]
    return table(head, rows) if rows else ""


def commands(groups: list[Group]) -> str:
    """The command and commit of each run."""
    parts = []
    for run in (run for group in groups for run in group.runs):
        commit = run.info.get("commit") or "unknown"
        parts.append(f"`{run.name}`, commit {commit}, decoded as `{run.inference_tag or 'not decoded'}`:")
        parts.append(f"```sh\n{_command(run)}\n```")
    return "\n\n".join(parts)


def _command(run: Run) -> str:
    command = run.info.get("command")
    if isinstance(command, list):
        import shlex

        return shlex.join(map(str, command))
    return str(command or "# not recorded: no run.json, or no command in it")


def warnings(groups: list[Group], sets: list[str]) -> list[str]:
    """What a reader must know to read the tables rightly."""
    found = []
    for group in groups:
        base = group.baseline
        found += [
            f"{group.label}: no seed in common with {base.label} on {name}: all of both are compared."
            for name in sets
            if base is not None and group.scored(name) and base.scored(name)
            if group.seeds(name).isdisjoint(base.seeds(name))
        ]
        if base is not None and (group.updates is None or base.updates is None):
            found.append(f"{group.label}: updates unknown, compared with {base.label} by max_epoch.")
        open_runs = [run.name for run in group.runs if not run.finished]
        found += [f"{group.label}: the training of `{name}` is not finished." for name in open_runs]
        counts = sorted({str(run.updates) for run in group.runs})
        if len(counts) > 1:
            found.append(f"{group.label}: updates differ between seeds: {', '.join(counts)}.")
        found += [
            f"{group.label}: seed {run.seed} has no score of {name}."
            for name in sets
            for run in group.runs
            if run.scores and name not in run.scores
        ]
    return found


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table; names to the left, the rest to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
