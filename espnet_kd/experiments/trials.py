"""What a plan trains: the command of each training, what it needs, in which order, and what is finished."""

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from espnet_kd.commands.runs import CONFIG, read_record
from espnet_kd.config import merge, merge_files, read_config
from espnet_kd.errors import UserError
from espnet_kd.experiments.logs import log_of, succeeded
from espnet_kd.experiments.plan import DECODING, Key, Plan, Row, Trial, chosen, variants_of
from espnet_kd.experiments.records import (
    Record,
    choose,
    comparable,
    read_records,
    records_path,
    unscored,
)

RUN = "./run.sh"
# Options of kd.sh that do not change the data which stages 1 to 5 make; the others are given to these stages.
NOT_DATA = frozenset(DECODING) | frozenset(
    """
    asr_task student_config kd_config decode_ensemble peers unlabelled_share pseudo_label_args targets_args
    cluster inference_tag metric result_sets expdir ngpu num_nodes config_ngpu gpu_inference inference_nj
    student_alone use_streaming lm_dev_text lm_test_text num_splits_lm num_splits_asr feats_normalize hf_repo
    export_formats export_args measure measure_args download_model labeller labeller_model
    """.split()
)
# Options that change neither the trained model nor its hypotheses.
WITHOUT_EFFECT = frozenset(
    """
    nj inference_nj python cluster stage stop_stage results_md export_formats export_args measure measure_args
    metric inference_tag
    """.split()
)
# A row without a method has none, whatever run.sh does by itself. Commands are compared without these.
PLAIN = {"kd_config": "", "student_alone": "false"}
CONFIGURATIONS = ("student_config", "kd_config", "inference_config", "lm_config")
PREPARED = ".prepared"  # directory in dump/ of a file for each preparation of data that has succeeded


def command(plan: Plan, trial: Trial) -> list[str]:
    """Return the words of the command that trains, decodes and scores a trial in its recipe.

    Raises:
        UserError: a training option or a directory has a space, at which kd.sh would divide it.
    """
    where = f"{plan.path}, row {trial.variant.row.name!r}"
    args = trial.args(plan.lengths)
    teachers = [str(teacher.model) for teacher in plan.teacher_trials(trial)]
    if " " in str(trial.directory):
        raise UserError(f"{where}: its directory {str(trial.directory)!r} has a space: choose another expdir")
    for word in (*args, *teachers):
        if word.split() != [word]:
            raise UserError(
                f"{where}: {word!r} is a single value for a training, so it cannot be empty or have a space: "
                "write `none` for an empty one, and a list for several"
            )
    options = {"nj": "1", "inference_nj": "1", "inference_tag": trial.inference_tag}
    options |= {} if plan.metric == "wer" else {"metric": plan.metric}  # by which graphs are checked, too
    options |= trial.options
    options |= {key: value for key, value in PLAIN.items() if key not in options}
    options |= {"teacher_config": ""} | ({"teacher_exp": " ".join(teachers)} if teachers else {})
    options |= {"student_exp": str(trial.directory), "student_args": " ".join(args)}
    return _run_sh(options | {"stage": "6", "stop_stage": "11", "results_md": ""})


def check_configurations(plan: Plan, trials: Iterable[Trial]) -> None:
    """Check that there is every configuration that trials name, before their data are prepared.

    Raises:
        UserError: one is missing.
    """
    for trial in trials:
        for key in CONFIGURATIONS:
            for name in words_of(trial, key):
                if not Path(name).is_file():
                    where = f"{plan.path}, row {trial.variant.row.name!r}"
                    raise UserError(f"{where}: {key}: there is no file {name}")


def data_command(trial: Trial) -> list[str]:
    """Return the words of the command that prepares the data of a trial."""
    options = {key: value for key, value in trial.options.items() if key not in NOT_DATA}
    return _run_sh(options | {"stage": "1", "stop_stage": "5"})


def prepared_mark(trial: Trial) -> Path:
    """Return the file that exists after the preparation of a trial's data, by this run.sh, has succeeded."""
    script = Path(RUN).read_bytes() if Path(RUN).is_file() else b""
    name = hashlib.sha256(script + shlex.join(data_command(trial)).encode()).hexdigest()[:16]
    return Path(trial.options.get("dumpdir", "dump")) / PREPARED / name


def _run_sh(options: Mapping[str, str]) -> list[str]:
    words = [RUN]
    for key, value in options.items():
        # kd.sh takes a single word after -- for an option of its own where it has one of that name
        is_word = value.startswith("--") and " " not in value
        words += [f"--{key}={value}"] if is_word else [f"--{key}", value]
    return words


def options_of(words: str | list[str], left_out: Iterable[str] = WITHOUT_EFFECT) -> dict[str, str]:
    """Return the options of a command of run.sh, without some of them; an empty mapping for another text."""
    try:
        words = shlex.split(words) if isinstance(words, str) else words
    except ValueError:
        return {}
    options: dict[str, str] = {}
    rest = iter(words[1:])
    for word in rest:
        key, is_joined, value = word.removeprefix("--").partition("=")
        options[key] = value if is_joined else next(rest, "")
    return {k: v for k, v in options.items() if k not in left_out and (k, v) not in PLAIN.items()}


@dataclass
class State:
    """What is known of the trials of a plan.

    Attributes:
        plan: the plan; ``decide`` replaces rows of ``best_of`` by their choice.
        records: of finished trainings, from this machine or others.
        again: True if rows are trained although they are on record, as repetitions elsewhere.
        finished: the trials that were found finished in their directories.
        checksums: what ``contents`` has returned.
        directories: directory -> its trial, for all trials.
    """

    plan: Plan
    records: list[Record] = field(default_factory=list)
    again: bool = False
    finished: set[Key] = field(default_factory=set)
    checksums: dict[Key, str] = field(default_factory=dict)
    directories: dict[Path, Trial] = field(init=False)

    def __post_init__(self) -> None:
        self._find_directories()

    def _find_directories(self) -> None:
        self.directories = {trial.directory: trial for trial in self.trials()}
        free: set[Key] = set()  # trials that do not need themselves
        for trial in self.trials():
            self._refuse_circle(trial, (), free)

    def _refuse_circle(self, trial: Trial, seen: tuple[Trial, ...], free: set[Key]) -> None:
        """Check that a trial does not read a file that it is to make itself, perhaps by way of others."""
        if trial in seen:
            circle = " -> ".join(one.name for one in (*seen[seen.index(trial) :], trial))
            raise UserError(f"{self.plan.path}: trainings need each other in a circle: {circle}")
        if trial.key not in free:
            for need in self.needs(trial):
                self._refuse_circle(need, (*seen, trial), free)
            free.add(trial.key)

    @classmethod
    def of(cls, plan: Plan, again: bool = False) -> "State":
        """Return the state of a plan with its records; rows of ``best_of`` are decided where they can be.

        Raises:
            UserError: the records are damaged.
        """
        state = cls(plan, again=again)
        state.read_records()
        state.decide()
        return state

    def read_records(self) -> None:
        """Read the records, which a merge of git may have added to."""
        self.records = read_records(records_path(self.plan))

    def record(self, trial: Trial, again: bool | None = None) -> Record | None:
        """Return the record of a trial, or that of its last repetition elsewhere; None if there is none."""
        again = self.again if again is None else again
        return next((r for r in reversed(self.records) if r.key == trial.key and r.elsewhere == again), None)

    def is_here(self, trial: Trial, exported: bool = True) -> bool:
        """Return True if a trial's directory has its trained model and the scores of all its sets.

        Without those of exported graphs if they do not count: a teacher need not be exported.

        It was made by the command that the plan gives it now; or that command has succeeded later, as kd.sh
        accepts only what has the same configuration, options and data.
        """
        if trial.key in self.finished:
            return True
        if not self.is_scored(trial, exported):
            return False
        if (known := self.record(trial)) is not None and not self._has_contents(trial, known):
            return False  # the command of the trial says what has changed, or that it does not matter
        if known is None and not self._has_configurations(trial):
            return False
        given = (_without_effect(trial) if exported else WITHOUT_EFFECT) | set(DECODING)
        asked = options_of(command(self.plan, trial), given)
        made_by = options_of(str(read_record(trial.directory).get("command", "")), given)
        if asked not in (made_by, options_of(succeeded(log_of(trial)), given)):
            return False
        if exported or self.is_scored(trial):
            self.finished.add(trial.key)
        return True

    def is_scored(self, trial: Trial, exported: bool = True) -> bool:
        """Return True if a trial's directory has a trained model and scores of all its sets."""
        try:
            is_done = read_record(trial.directory).get("done")
        except UserError:  # damaged: the command of the trial will say so
            return False
        return bool(is_done) and not unscored(self.plan, trial, exported)

    def is_recorded(self, trial: Trial, again: bool | None = None) -> bool:
        """Return True if the records have a trial, made by the command that the plan gives it now."""
        record = self.record(trial, again)
        if record is None or not set(self.plan.sets(trial)) <= set(record.errors):
            return False
        left_out = _without_effect(trial)
        asked = options_of(command(self.plan, trial), left_out)
        return options_of(record.command, left_out) == asked and self._has_contents(trial, record)

    def _has_contents(self, trial: Trial, record: Record) -> bool:
        return record.contents in (None, self.contents(trial))

    def _has_configurations(self, trial: Trial) -> bool:
        """Return whether what was trained has the present configurations; True if it does not say so.

        kd.sh adds teachers and the student of the phase before, and a method may write other options.
        """
        path, root = trial.directory / CONFIG, self.plan.path.parent.parent
        student, phases = (words_of(trial, key) for key in CONFIGURATIONS[:2])
        files = [root / name for name in (*student, *phases[-1:])]
        if not path.is_file() or not all(file.is_file() for file in files):
            return True
        before, now = read_config(path), merge_files(files)
        return merge(before, now) == before and before.keys() <= now.keys() | {"teacher", "init_param"}

    def contents(self, trial: Trial) -> str:
        """Return a checksum of what the command of a trial only names.

        This is the content of its configurations without comments, and of its teachers the options and the
        same checksum.
        """
        if trial.key not in self.checksums:
            root = self.plan.path.parent.parent  # of a plan in plans/, the directory of the recipe
            names = [name for key in CONFIGURATIONS for name in words_of(trial, key)]
            files = [root / name for name in names]
            found = [read_config(file) if file.is_file() else None for file in files]
            needs = self.needs(trial)
            teachers = [[options_of(command(self.plan, need)), self.contents(need)] for need in needs]
            text = json.dumps([found, teachers], sort_keys=True, default=str)
            self.checksums[trial.key] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.checksums[trial.key]

    def is_known(self, trial: Trial) -> bool:
        """Return True if the results of a trial are in the records or here.

        Rows that are trained again must be here: the records may have repetitions of others.
        """
        return (not self.again and self.is_recorded(trial)) or self.is_here(trial)

    def trials(self) -> list[Trial]:
        """Return all trials of the plan, without those of rows of ``best_of`` that are not decided."""
        rows = [row for row in self.plan.rows.values() if not row.best_of]
        return list({trial.key: trial for row in rows for trial in self.plan.trials(row)}.values())

    def cpu_seconds(self, trial: Trial) -> float | None:
        """Return the CPU time of a finished training, or else its duration; None if unknown."""
        record = self.record(trial) or self.record(trial, again=False)
        return None if record is None else record.cpu_seconds or record.seconds

    def rates(self, trial: Trial, again: bool) -> str:
        """Return the error rates of a trial on its sets, as in ``WER 12.3 % on dev, 13.4 % on test``.

        Args:
            trial: the trial.
            again: whether those of its repetition.
        """
        record = self.record(trial, again)
        metric, names = self.plan.metric, self.plan.sets(trial)
        rates = [f"{record.rate(name, metric):.1f} % on {name}" for name in names if record is not None]
        return f"{metric.upper()} {', '.join(rates)}"

    def decide(self) -> None:
        """Put the choice in the place of each row of ``best_of`` whose candidates are scored."""
        before = None
        while before != (before := [name for name, row in self.plan.rows.items() if row.best_of]):
            rows = {name: self._decided(row) for name, row in self.plan.rows.items()}
            if rows != self.plan.rows:
                self.checksums = {}  # a teacher may be another one
            self.plan = replace(self.plan, rows=rows)
        self._find_directories()

    def _decided(self, row: Row) -> Row:
        if not row.best_of or any(self.plan.rows[name].best_of for name in row.best_of):
            return row
        # Rows that are trained again have the choice that is on record.
        if not all(self.is_recorded(t, again=False) for trials in comparable(self.plan, row) for t in trials):
            return row
        best = choose(self.plan, row, self.records)
        return row if best is None else chosen(row, best)

    def needs(self, trial: Trial) -> list[Trial]:
        """Return what must be finished before a trial starts: teachers, and what its training reads.

        Of a row of ``best_of`` that is not decided these are the trials by which its candidates are compared.
        """
        row = trial.variant.row
        if not row.best_of:
            first = [self.plan.trials(self.plan.rows[row.after])[0]] if row.after else []
            found = {need.key: need for need in [*self.plan.teacher_trials(trial), *first]}
            for word in trial.args(self.plan.lengths):
                value = Path(word.rpartition("=")[2])
                for path in (value, *value.parents):
                    if path in self.directories and path != trial.directory:
                        found.setdefault(self.directories[path].key, self.directories[path])
            return list(found.values())
        undecided = [self.plan.rows[name] for name in row.best_of if self.plan.rows[name].best_of]
        if undecided:
            return [self.plan.trials(candidate)[0] for candidate in undecided]
        return [trial for trials in comparable(self.plan, row) for trial in trials]

    def missing(self, trial: Trial) -> list[Trial]:
        """Return what a trial needs and lacks: files of a teacher, error rates of a candidate."""
        done = self.is_known if trial.variant.row.best_of else partial(self.is_here, exported=False)
        return [need for need in self.needs(trial) if not done(need)]

    def is_ready(self, trial: Trial) -> bool:
        """Return True if everything that a trial needs is there."""
        return not trial.variant.row.best_of and not self.missing(trial)

    def pending(self, requested: Iterable[Trial]) -> list[Trial]:
        """Return what is still to be trained for some trials, everything after what it needs.

        A training that the records know is repeated only if another one needs its model as a teacher.
        """
        found: dict[Key, Trial] = {}

        def add(trial: Trial, is_teacher: bool) -> None:
            is_open = bool(trial.variant.row.best_of)
            done = partial(self.is_here, exported=False) if is_teacher else self.is_known
            if trial.key in found or (not is_open and done(trial)):
                return
            for need in self.needs(trial):
                add(need, is_teacher=not is_open)
            found[trial.key] = trial

        for trial in requested:
            add(trial, is_teacher=False)
        return list(found.values())


def words_of(trial: Trial, key: str) -> list[str]:
    """Return the words of an option; commas part them, too, as kd.sh reads the phases of a distillation."""
    return trial.options.get(key, "").replace(",", " ").split()


def _without_effect(trial: Trial) -> frozenset[str]:
    """Return the options that change neither a trained model nor its hypotheses, nor those of its graphs."""
    return WITHOUT_EFFECT - {"export_args"} if trial.options.get("export_formats") else WITHOUT_EFFECT


def select(plan: Plan, only: list[str], seeds: list[int]) -> Callable[[Plan], list[Trial]]:
    """Return a function that gives the chosen trials of the plan, first seeds and shorter lengths first.

    The function takes the plan again, because rows of ``best_of`` are decided while it runs.

    Args:
        plan: the plan.
        only: names of rows or variants, with * and ?; empty for all.
        seeds: empty for all.

    Raises:
        UserError: a name or seed chooses nothing.
    """
    names = [v.name for v in plan.variants] + list(plan.rows)
    for pattern in only:
        if not any(_matches(name, pattern) for name in names):
            raise UserError(f"{plan.path}: no row is called {pattern!r}; rows: {'; '.join(plan.rows)}")
    for seed in seeds:
        if not any(seed in row.seeds for row in plan.rows.values()):
            raise UserError(f"{plan.path}: no row has the seed {seed}")

    def is_chosen(name: str, length: str | None) -> bool:
        own = (name, name if length is None else f"{name}, {length}")
        return not only or any(_matches(text, pattern) for text in own for pattern in only)

    def trials(now: Plan) -> list[Trial]:
        order = list(now.lengths)
        found = [
            (place, order.index(trial.variant.length) if trial.variant.length else 0, trial)
            for name, row in now.rows.items()
            for place, seed in enumerate(row.seeds)
            if not seeds or seed in seeds
            for trial in (Trial(variant, seed) for variant in variants_of(row))
            if is_chosen(name, trial.variant.length)
        ]
        found.sort(key=lambda entry: entry[:2])  # stable: of equal ones in the order of the plan
        return list({trial.key: trial for _, _, trial in found}.values())

    return trials


def _matches(name: str, pattern: str) -> bool:
    """Return True if a name is called so, also with brackets, or fits a pattern with * and ?."""
    return name == pattern or fnmatchcase(name, pattern.replace("[", "[[]"))
