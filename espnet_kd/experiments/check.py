"""``espnet-kd experiments PLAN --check``: find what would stop a row before hours go into others."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from espnet_kd.commands.phases import needs_transcripts
from espnet_kd.config import merge_files
from espnet_kd.data.tokens import stand_in_tokens
from espnet_kd.errors import UserError
from espnet_kd.experiments.plan import Plan, Trial
from espnet_kd.experiments.trials import words_of

TOKENS = 5000  # of the models that are built: those of the corpus may not be known yet
PHASE_BEFORE = "--init_param the_phase_before"


def check_rows(plan: Plan, trials: Iterable[Trial]) -> list[str]:
    """Return a line for each row whose training would be refused, as far as that needs no data and teacher.

    Args:
        plan: the plan.
        trials: its trainings; of those that differ only in the seed the first one is checked.
    """
    from espnet_kd.tasks.check import main

    first: dict[str, Trial] = {}
    for trial in trials:
        if not trial.variant.row.best_of:
            first.setdefault(trial.variant.name, trial)
    found = []
    with TemporaryDirectory() as directory:
        tokens = Path(directory) / "tokens.txt"
        tokens.write_text("\n".join(stand_in_tokens(TOKENS)) + "\n", encoding="utf-8")
        for name, trial in first.items():
            words = _words_of_phases(plan, trial)
            reasons = (_refusal(main, [*phase, "--token_list", str(tokens)]) for phase in words)
            found += [f"{plan.path}, row {name!r}: {reason}" for reason in filter(None, reasons)][:1]
    return found


def _words_of_phases(plan: Plan, trial: Trial) -> Iterator[list[str]]:
    """Yield the words of ``espnet-kd check`` for each training of a trial."""
    options, phases = trial.options, words_of(trial, "kd_config")
    # Without a phase a teacher only labels speech.
    teachers = [_candidate(plan, one) for one in plan.teacher_trials(trial)] if phases else []
    student, words = words_of(trial, "student_config"), trial.args(plan.lengths)[2:]  # without the seed
    if not student:
        raise UserError(f"{plan.path}, row {trial.variant.row.name!r}: give its student_config to check it")
    given = ["--task", options.get("asr_task", "asr")]
    if teachers:
        files = dict.fromkeys(name for one in teachers for name in words_of(one, "student_config"))
        given += ["--teacher", *(str(one.directory) for one in teachers), "--teacher_config", *files]
        given.append(f"--teacher_args={' '.join(teachers[0].args(plan.lengths))}")
    configs = [[*student, phase] for phase in phases] or [student]
    read_text = (needs_transcripts(merge_files(map(Path, config))) for config in configs)
    if trial.variant.row.after or (options.get("unlabelled_sets") and any(read_text)):
        given.append("--pseudo_labels")  # or lists of hypotheses, which the row before makes
    for number, config in enumerate(configs):
        more = [PHASE_BEFORE] if number else []
        yield [*given, "--config", *config, f"--args={' '.join([*words, *more])}"]


def _candidate(plan: Plan, trial: Trial) -> Trial:
    """Return the trial, or the first training from which it is to be chosen, as it has no options before."""
    row = trial.variant.row
    while row.best_of:
        row = plan.rows[row.best_of[0]]
    return trial if row is trial.variant.row else plan.trials(row)[0]


def _refusal(main: Callable[[list[str]], None], words: list[str]) -> str:
    """Return why ``espnet-kd check`` refuses a training; empty if it does not."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as errors:
        try:
            main(words)
        except UserError as e:
            return str(e)
        except SystemExit:  # of argparse, after a long usage
            return errors.getvalue().strip().rpartition("\n")[2].rpartition("error: ")[2]
    return ""
