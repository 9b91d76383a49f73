"""Run the trials of a plan, several at a time, on this machine or on a cluster.

A trial is a command of the recipe, whose output goes to a log, see ``logs``.
"""

import os
import queue
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from espnet_kd import parallel
from espnet_kd.commands.progress import duration
from espnet_kd.errors import UserError, first_line, printable
from espnet_kd.experiments.logs import begin, end, lock, log_of, reason_of, refusal_in
from espnet_kd.experiments.plan import Key, Plan, Trial
from espnet_kd.experiments.records import Record, make_record, records_path, unscored, write_records
from espnet_kd.experiments.trials import State, command, data_command, prepared_mark
from espnet_kd.files import lock_file, write_text

GPU = "CUDA_VISIBLE_DEVICES"
STOPPED = 130  # exit status of a trial that this program has ended
GRACE = 10.0  # seconds between the signals that ask and that force a trial to end
PAUSE = 0.5  # seconds between two looks at a trial


@dataclass(frozen=True)
class Task:
    """A command of the recipe: a trial, or the preparation of the data of some trials.

    Attributes:
        name: for the terminal.
        key: tells it from the others.
        words: of the command.
        log: file that it writes to.
        trial: the trial; None for a preparation of data.
        mark: file that exists after a preparation of data has succeeded.
    """

    name: str
    key: Key | Path
    words: list[str]
    log: Path
    trial: Trial | None = None
    mark: Path | None = None


def tasks_of(state: State, trials: list[Trial], data_options: list[str]) -> list[Task]:
    """Return the tasks of pending trials, preparations of data first; a row that is not decided has none."""
    data: dict[Path, Task] = {}
    tasks = []
    for trial in trials:
        if trial.variant.row.best_of:
            continue
        mark = prepared_mark(trial)
        if not mark.exists() and mark not in data:
            log = trial.directory.parent / f"data_{mark.name}.log"
            words = data_command(trial) + data_options
            data[mark] = Task(f"data of {trial.name}", mark, words, log, mark=mark)
        tasks.append(Task(trial.name, trial.key, command(state.plan, trial), log_of(trial), trial, mark))
    return [*data.values(), *tasks]


def run_logged(
    words: list[str],
    directory: Path,
    log: Path,
    is_stopped: Callable[[], bool],
    is_done: Callable[[], bool] = lambda: False,
    pause: float = PAUSE,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Run a command, append what it prints to a log, and return its exit status.

    Args:
        words: of the command.
        directory: where it runs.
        log: locked while the command or one of its children lives.
        is_stopped: asked repeatedly; when it returns True, the command and its children are ended.
        is_done: asked before the command starts, as one of a killed run may have ended; when it returns
            True, nothing is done.
        pause: seconds between two questions.
        environment: variables to set for the command.

    Returns:
        The exit status, or ``STOPPED``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        while not lock(out):  # a training of a run that was killed
            if is_stopped():
                return STOPPED
            time.sleep(pause)
        if is_done():
            return 0
        begin(out, words)
        process = subprocess.Popen(
            words, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, start_new_session=True,
        )  # fmt: skip
        try:
            status = None
            while status is None:
                if is_stopped():
                    return STOPPED
                with suppress(subprocess.TimeoutExpired):
                    status = process.wait(pause)
        finally:
            _end(process)
        end(out, status)
    return status


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children: with a signal that lets them end cleanly, and then by force."""
    deadline = time.monotonic() + GRACE
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)  # raises when all have ended
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _on_worker(words: list[str], directory: Path, log: Path, name: str) -> int:
    """Run a command on a worker of a Dask cluster, until the event of this name is set."""
    from dask.distributed import Event

    return run_logged(words, directory, log, Event(name).is_set, pause=4 * PAUSE)


@dataclass
class Runner:
    """Runs what is pending, and records what is finished.

    Attributes:
        state: of the plan.
        chosen: gives the trials that are asked for, of a plan whose rows of ``best_of`` may be decided.
        jobs: number of trials at a time.
        data_options: words that are added to the commands that prepare data.
        failed: key of what has failed -> its name, and why.
        repeated: what is on record and another row needs -> whether it is known if that is a repetition.
        noted: what was trained again and is recorded, or is itself the training on record.
        stop: set to end all trials.
        seen: all trials that were asked for or needed.
    """

    state: State
    chosen: Callable[[Plan], list[Trial]]
    jobs: int
    data_options: list[str] = field(default_factory=list)
    failed: dict[Key | Path, tuple[str, str]] = field(default_factory=dict)
    repeated: dict[Key, bool] = field(default_factory=dict)
    noted: set[Key] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    seen: dict[Key, Trial] = field(default_factory=dict)

    def run(self, call: Callable[[Task], int]) -> None:
        """Run everything that can be run; ``call`` runs one task and returns its exit status.

        Raises:
            UserError: the records cannot be written, or a command cannot be made of the plan.
        """
        running: dict[Future[int], tuple[Task, float]] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while True:
                    for task in self._ready({task.key for task, _ in running.values()}):
                        if len(running) < self.jobs:
                            print(f"{task.name}: starts, log {task.log}", flush=True)
                            running[pool.submit(call, task)] = task, time.monotonic()
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        task, since = running.pop(future)
                        print(self._outcome(task, future, time.monotonic() - since), flush=True)
            except BaseException:  # also Ctrl-C: the threads end their trials, and then the pool
                self.stop.set()
                raise

    def _see(self) -> list[Trial]:
        """Return what is left of the chosen rows, and of what they need; note all of that.

        Also what is on record and another row needs: its files may be those of a repetition.
        """
        pending = self.state.pending(self.chosen(self.state.plan))
        self.seen |= {trial.key: trial for trial in [*self.chosen(self.state.plan), *pending]}
        left = [trial for trial in pending if not (self.state.again or trial.variant.row.best_of)]
        for need in (need for trial in left for need in self.state.needs(trial)):
            if self.state.is_recorded(need):
                self.repeated.setdefault(need.key, False)
        return pending

    def _ready(self, started: set[Key | Path]) -> list[Task]:
        """Return the tasks that can start now: preparations of data one after the other, then trials."""
        self._see()  # before results are recorded, as they decide what is repeated
        self.record_finished()
        pending = self._see()
        tasks = tasks_of(self.state, pending, self.data_options)
        tasks = [task for task in tasks if task.key not in self.failed and task.mark not in self.failed]
        data = [task for task in tasks if task.trial is None]
        if data:
            return [] if any(task.key in started for task in data) else data[:1]
        return [t for t in tasks if t.trial and t.key not in started and self.state.is_ready(t.trial)]

    def _outcome(self, task: Task, future: Future[int], seconds: float) -> str:
        """Return the line that says how a task ended."""
        took = duration(seconds)
        try:
            status = future.result()
            if status == 0:
                return f"{task.name}: {self._success(task)} ({took})"
            reason = "interrupted" if status == STOPPED else reason_of(task.log)
        except (UserError, OSError) as e:
            reason = first_line(e)
        self.failed[task.key] = task.name, f"{printable(reason)}; log {task.log}"
        return f"{task.name}: failed after {took}: {printable(reason)}"

    def _success(self, task: Task) -> str:
        if task.trial is None:
            assert task.mark is not None
            write_text(task.mark, shlex.join(task.words) + "\n")
            return "done"
        if not self.state.is_scored(task.trial):
            sets = " and ".join(unscored(self.state.plan, task.trial))
            why = refusal_in(task.log) or "but run.sh reported no error"
            raise UserError(f"{task.trial.directory} has no scores of {sets}, {why}")
        self.state.finished.add(task.trial.key)
        self.record_finished()
        if task.key in self.failed:
            raise UserError(self.failed[task.key][1])
        # Rows of best_of count once they are decided.
        trials = [trial for trial in self.seen.values() if not trial.variant.row.best_of]
        done = sum(map(self.state.is_known, trials))
        rates = self.state.rates(task.trial, task.trial.key in self.repeated or self.state.again)
        return f"{rates}; {done} of {len(trials)} trainings done"

    def record_finished(self) -> None:
        """Record the trials that are finished in their directories, and decide rows of ``best_of``.

        Raises:
            UserError: the records cannot be written.
        """
        fresh: dict[Key, Record] = {}
        for trial in self.state.trials():
            repeats = self.repeated.get(trial.key) is False
            is_known = trial.key in self.noted if self.state.again else self.state.is_recorded(trial)
            if trial.key in self.failed or (is_known and not repeats):
                continue
            if self.state.again and trial.key not in self.seen:
                continue  # it is here, but was not asked for
            if not self.state.is_here(trial):
                continue
            try:
                words = command(self.state.plan, trial)
                record = make_record(self.state.plan, trial)
                contents = self.state.contents(trial)
                self.noted.add(trial.key)
                self.repeated |= {trial.key: True} if repeats else {}
                if (self.state.again or repeats) and any(map(partial(_is_same, record), self.state.records)):
                    continue
                found = replace(record, command=shlex.join(words), contents=contents)
                fresh[trial.key] = replace(found, elsewhere=repeats or self.state.again)
            except UserError as e:
                self.failed[trial.key] = trial.name, f"its results cannot be read: {e}"
        if fresh:
            self.state.read_records()
            kept = [record for record in self.state.records if not self._is_replaced(record, fresh)]
            self.state.records = [*kept, *fresh.values()]
            write_records(records_path(self.state.plan), self.state.records)
        self.state.decide()
        if fresh:  # what a row of best_of has chosen now may be trained already
            self.record_finished()

    def _is_replaced(self, record: Record, fresh: dict[Key, Record]) -> bool:
        """Return True if there is a newer record of a training; each environment may have a repetition."""
        newer = fresh.get(record.key)
        if newer is None or record.elsewhere != newer.elsewhere:
            return False
        return not newer.elsewhere or record.environment == newer.environment

    def summary(self) -> list[str]:
        """Return lines about what has failed, and what was not run because of that."""
        lines = [f"{name}: failed: {reason}" for name, reason in self.failed.values()]
        left = self.state.pending(self.chosen(self.state.plan))
        names = [trial.name for trial in left if trial.key not in self.failed]
        return lines + ([f"not run, as they need what has failed: {'; '.join(names)}"] if names else [])


def _is_same(one: Record, other: Record) -> bool:
    """Return True if two records are of one training, not of a training and its repetition."""
    cost = "seconds" if one.cpu_seconds is None else "cpu_seconds"
    keys = ("key", "commit", "environment", cost)  # the time of the clock is not that of a lost checkpoint
    return all(getattr(one, key) == getattr(other, key) for key in keys)


@contextmanager
def only_runner(plan: Plan) -> Iterator[None]:
    """Exclude other runners of a plan, and let SIGTERM and SIGHUP end it as Ctrl-C does.

    Raises:
        UserError: another runner of the plan lives.
    """
    first = plan.trials(next(iter(plan.rows.values())))[0]
    path = first.directory.parent / f".plan_{plan.path.stem}.lock"
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with lock_file(path, f"another `espnet-kd experiments {plan.path}` runs here: wait for it, or stop it"):
        try:
            for number, handler in before.items():
                if handler != signal.SIG_IGN:  # of nohup
                    signal.signal(number, signal.default_int_handler)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def visible_gpus() -> list[str]:
    """Return the names by which CUDA knows the GPUs of this machine, or those that the user allows."""
    if GPU in os.environ:
        return [name for name in os.environ[GPU].split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number in range(len(re.findall("^GPU ", listed, re.MULTILINE)))]


@contextmanager
def caller(runner: Runner, cluster: parallel.Cluster | None) -> Iterator[Callable[[Task], int]]:
    """Yield a function that runs a task on this machine, or on a cluster, and returns its exit status.

    Raises:
        UserError: the cluster does not start.
    """
    here = Path.cwd()
    if cluster is None:
        gpus = visible_gpus()  # one for each training, as far as they go
        free: queue.SimpleQueue[str] = queue.SimpleQueue()
        for number in range(runner.jobs if gpus else 0):
            free.put(gpus[number % len(gpus)])

        def call_here(task: Task) -> int:
            is_done = partial(runner.state.is_here, task.trial) if task.trial else lambda: False
            asked = task.trial.options.get("ngpu", "") if task.trial else ""
            gpu = {GPU: free.get()} if gpus and asked in ("", "0", "1") else {}
            try:
                return run_logged(
                    task.words, here, task.log, runner.stop.is_set, is_done, environment=gpu
                )
            finally:
                for device in gpu.values():
                    free.put(device)

        yield call_here
        return
    from dask.distributed import Event, KilledWorker

    shared = runner.state.plan.path.parent.resolve()
    with parallel.start_cluster(cluster, runner.jobs, shared) as client:
        event = Event(client=client)

        def call(task: Task) -> int:
            words = (task.words, here, here / task.log, event.name)
            future = client.submit(_on_worker, *words, pure=False)
            while not future.done():
                if runner.stop.wait(PAUSE):
                    event.set()
                    break
            try:
                return int(future.result(timeout=2 * GRACE if runner.stop.is_set() else None))
            except (KilledWorker, CancelledError) as e:
                lost = "was killed several times" if isinstance(e, KilledWorker) else "is gone"
                raise UserError(f"its worker {lost}, perhaps for lack of memory") from None

        yield call
