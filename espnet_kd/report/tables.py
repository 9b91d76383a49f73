"""The Markdown tables of RESULTS.md. Without dates and machine names: the same runs give the same text."""

import re
import statistics
from collections.abc import Iterable, Sequence

from espnet_kd.errors import printable
from espnet_kd.report import decodings
from espnet_kd.report.groups import RunGroup, comparison, methods_text, with_exports
from espnet_kd.report.run import Run
from espnet_kd.scoring.alignment import Counts
from espnet_kd.scoring.bootstrap import RESAMPLES, Difference

NOTE = "<!-- written by `espnet-kd report`; do not edit -->"
# Metric -> columns of error rates. A language without spaces between words has no useful WER.
RATES = {"wer": ["WER %", "errors/words", "S/D/I", "CER %"], "cer": ["CER %", "errors/characters", "S/D/I"]}
COSTS = ["RTF", "MB"]  # columns that a table has where models were measured
BOOTSTRAP = f"""\
bootstrap over seeds and utterances ({RESAMPLES} resamples), widened as Student's t for few seeds. A star: \
one side has a single seed, and the interval does not know how much another seed would change."""
SETS = {  # as run.json names them -> option of ESPnet
    "training set": "train_data_path_and_name_and_type",
    "development set": "valid_data_path_and_name_and_type",
}
# Markup of GitHub's Markdown and of HTML; not an underscore within a word; `table` escapes "|".
MARKUP = re.compile(r"[\\`*<>\[\]&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def plain(text: str) -> str:
    """Return text of the user, such as names and ids, as Markdown that shows it unchanged."""
    return MARKUP.sub(r"\\\g<0>", printable(text))


def code(text: str) -> str:
    """Return text of the user as code within a line."""
    text = printable(text)
    if not text.strip() or "\\" in text and "|" in text:  # a table cannot show the latter as code
        return plain(text)
    ticks = _fence(text, 1)
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def code_block(text: str, language: str = "") -> str:
    """Return text of the user as a block of code."""
    text = "\n".join(printable(line) for line in text.split("\n"))
    return f"{_fence(text, 3)}{language}\n{text}\n{_fence(text, 3)}"


def _fence(text: str, least: int) -> str:
    """Return backticks, at least ``least``, and one more than the longest row of them in the text."""
    return "`" * max([least, *(len(ticks) + 1 for ticks in re.findall("`+", text))])


def notes(metric: str) -> str:
    """Return the note that explains the columns."""
    err, unit = metric.upper(), "words" if metric == "wer" else "characters"
    rates = "WER and CER" if metric == "wer" else "CER"
    return f"""\
{rates}: mean over the seeds, ± standard deviation where there are several. Errors/{unit}: summed over
the seeds; S/D/I: substitutions, deletions and insertions among them. Against the student: {err} less that of
the student that was trained without a teacher for the same number of updates (of passes over the encoder
where an update takes several), in percentage points and relative to it, over the seeds that both have.
Interval and p: {BOOTSTRAP}"""


def results(groups: list[RunGroup], name: str) -> str:
    """Return the table of one set."""
    shown = [group for group in with_exports(groups) if group.scored(name)]
    counts = ["updates", "passes"] if any(g.passes != g.updates for g in groups) else ["updates"]
    measured = any(name in run.costs for group in shown for run in group.runs)
    rows = [_row(group, name, counts, measured) for group in shown]
    rates = [*RATES[groups[0].metric], *(COSTS if measured else [])]
    head = ["model", "parameters", *counts, "seeds", *rates]
    return table([*head, "against the student", "95 % interval", "p"], rows)


def _row(group: RunGroup, name: str, counts: Sequence[str], measured: bool) -> list[str]:
    runs = group.scored(name)
    total = group.total(name)
    rates = [spread(group.rates(name)), f"{total.errors}/{total.reference}", kinds(total)]
    if group.metric == "wer":
        rates.append(spread(group.rates(name, "cer")))
    if measured:
        rates += [f"{cost:.3g}" for cost in group.costs(name) or ()] or [""] * len(COSTS)
    size = runs[0].parameters
    difference = comparison(group, name)
    against = ["", "", ""]
    if difference is not None:
        against = [
            f"{difference.value:+.2f} ({difference.relative:+.1f} %)",
            interval(difference),
            f"{difference.p:.2g}",
        ]
    elif group.kind == "distilled" and group.source is None:
        against[0] = "no student with equal updates"
    return [
        plain(group.label),
        "unknown" if size is None else f"{size / 1e6:.2f} M",
        *(str(getattr(group, count) or "unknown") for count in counts),
        " ".join(str(run.seed) for run in runs),
        *rates,
        *against,
    ]


def interval(difference: Difference) -> str:
    """Return the confidence interval of a difference; a star marks one that knows a single seed."""
    return f"{difference.low:+.2f} to {difference.high:+.2f}" + (r"\*" if difference.seeds == 1 else "")


def kinds(counts: Counts) -> str:
    """Return the substitutions, deletions and insertions of a cell."""
    return f"{counts.substitutions}/{counts.deletions}/{counts.insertions}"


def spread(values: list[float]) -> str:
    """Return mean ± standard deviation, or only the mean of a single value."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def runs(groups: list[RunGroup], sets: list[str]) -> str:
    """Return a table with a row for each run."""
    rows, metric = [], groups[0].metric
    for group in groups:
        for run in group.runs:
            rates = [f"{run.scores[name].rate(metric):.1f}" if name in run.scores else "" for name in sets]
            hours = "unknown" if run.seconds is None else f"{run.seconds / 3600:.2f}"
            updates = "unknown" if run.updates is None else str(run.updates)
            model = run.model_file.name if run.model_file else "unknown"
            rows.append(
                [code(run.name), plain(group.label), str(run.seed), *rates, updates, hours, plain(model)]
            )
    head = ["run", "model", "seed", *(f"{plain(s)} {metric.upper()} %" for s in sets)]
    return table([*head, "updates", "hours", "file"], rows)


def phases(groups: list[RunGroup]) -> str:
    """Return a table with a row for each phase of runs with several phases; empty if there are none."""
    rows = []
    for run in (run for group in groups for run in group.runs if run.before is not None):
        for number, phase in enumerate(run.phases, 1):
            initial = ", ".join(param.split(":")[0] for param in phase.config.get("init_param") or [])
            hours = "unknown" if phase.own_seconds is None else f"{phase.own_seconds / 3600:.2f}"
            updates = "unknown" if phase.own_updates is None else str(phase.own_updates)
            start = [updates, hours, plain(initial) or "random"]
            rows.append([code(run.name), str(number), plain(methods_text(phase)), str(run.seed), *start])
    head = ["run", "phase", "learns from", "seed", "updates", "hours", "starts from"]
    return table(head, rows) if rows else ""


def commands(groups: list[RunGroup]) -> str:
    """Return the command and commit of each run, in a block that a reader opens."""
    parts = []
    for run in (run for group in groups for run in group.runs):
        commit = run.info.get("commit") or "unknown"
        decoded = code(run.inference_tag or "not decoded")
        parts.append(f"{code(run.name)}, commit {plain(str(commit))}, decoded as {decoded}:")
        parts.append(code_block(_command(run), "sh"))
    return collapsed("Command and commit of each run", "\n\n".join(parts))


def collapsed(title: str, text: str) -> str:
    """Return a block of which only the title is seen until a reader opens it."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def _command(run: Run) -> str:
    command = run.info.get("command")
    if isinstance(command, list):
        import shlex

        return shlex.join(map(str, command))
    return str(command or "# not recorded: no run.json, or no command in it")


def warnings(groups: list[RunGroup], sets: list[str]) -> list[str]:
    """Return warnings: missing scores, unequal seeds, updates or decoding, and unfinished trainings."""
    found = []
    for group in groups:
        base = group.baseline
        label = plain(group.label)
        found += [
            f"{label}: no seed in common with {plain(base.label)} on {plain(name)}: all of both are compared."
            for name in sets
            if base is not None and group.scored(name) and base.scored(name)
            if group.seeds(name).isdisjoint(base.seeds(name))
        ]
        if base is not None and (group.updates is None or base.updates is None):
            found.append(f"{label}: updates unknown, compared with {plain(base.label)} by max_epoch.")
        sides = [*group.runs, *(base.runs if base else [])]
        tags = decodings.tags(sides)
        if len(tags) > 1:
            ways = " and ".join(map(code, tags))
            found.append(f"{label}: decoded, with what it is compared with, as {ways}: may differ by it.")
        if names := _several_versions(sides):
            found.append(f"{label}: its trainings, or those beside it, read other versions of the {names}.")
        open_runs = [run.name for run in group.runs if not run.finished]
        found += [f"{label}: the training of {code(name)} is not finished." for name in open_runs]
        late = {note for run in group.runs for phase in run.phases for note in phase.unreached}
        found += [f"{label}: {plain(note)}." for note in sorted(late)]
        counts = sorted({str(run.updates) for run in group.runs})
        if len(counts) > 1:
            found.append(f"{label}: updates differ between seeds: {', '.join(counts)}.")
        found += [
            f"{label}: seed {run.seed} has no score of {plain(name)}."
            for name in sets
            for run in group.runs
            if run.scores and name not in run.scores
        ]
    every = [run for group in groups for run in group.runs]
    wrong = decodings.warnings(every, sets)
    found += [f"{code(name)} {plain(why)}: run its stages 10 and 11 again." for name, why in wrong]
    return found


def _several_versions(runs: Iterable[Run]) -> str:
    """Name the sets that some trainings read from the same files, whose content has changed between them."""
    versions: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        known = run.info.get("data") or {}
        for name, option in SETS.items():
            if name in known:
                versions.setdefault((name, str(run.config.get(option))), set()).add(str(known[name]))
    return " and ".join(sorted({name for (name, _), found in versions.items() if len(found) > 1}))


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
