"""The log of a trial, ``EXPDIR/NAME.log`` beside its directory: commands, what they print, and how they end.

A log is locked as long as a process of its trial lives, also after the program that started it was killed: so
the next run of a plan waits for it, and ``--status`` knows what runs.
"""

import fcntl
import re
import shlex
import time
from pathlib import Path
from typing import IO

from espnet_kd.experiments.plan import Trial

STARTED = "# started "  # begins a run's part of a log
ENDED = "# ended with status "  # the last line of it, if this program was not killed
LARGEST_TAIL = 1 << 16  # bytes at the end of a log, in which its last run is looked for
ERROR = re.compile(r"[\w./-]+: error: (.*)")


def log_of(trial: Trial) -> Path:
    """Return the file that a trial writes to."""
    return trial.directory.with_name(f"{trial.directory.name}.log")


def begin(log: IO[str], words: list[str]) -> None:
    """Write the lines before the output of a command."""
    log.write(f"{STARTED}{time.strftime('%Y-%m-%d %H:%M:%S')}\n{shlex.join(words)}\n")
    log.flush()


def end(log: IO[str], status: int) -> None:
    """Write the line after the output of a command."""
    log.write(f"{ENDED}{status}\n")


def lock(file: IO[str]) -> bool:
    """Lock an open log for this process and those that inherit it; return False if another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_running(trial: Trial) -> bool:
    """Return True if a process of a trial lives."""
    try:
        with log_of(trial).open("r", encoding="utf-8") as log:
            return not lock(log)
    except OSError:
        return False


def reason_of(log: Path) -> str:
    """Return the first error in the last run of a log, or else its last line.

    kd.sh shows the end of another log after "  | ".
    """
    lines = [line.removeprefix("  | ") for line in _last_run(log)[1:]]
    errors = [match[1] for line in lines if (match := ERROR.match(line))]
    lines = [line for line in lines if not line.startswith(ENDED)]
    return errors[0] if errors else lines[-1] if lines else "it has printed nothing"


def refusal_in(log: Path) -> str:
    """Return the last warning of the last run of a log that a model could not be exported; else nothing."""
    found = [line.partition("warning: ")[2] for line in _last_run(log) if " has no row for " in line]
    return found[-1] if found else ""


def status_of(log: Path) -> int | None:
    """Return the exit status of the last run of a log; None if there is none, or if it was interrupted."""
    lines = _last_run(log)
    word = lines[-1].removeprefix(ENDED) if lines and lines[-1].startswith(ENDED) else ""
    return int(word) if re.fullmatch(r"-?\d{1,9}", word) else None


def _last_run(log: Path) -> list[str]:
    """Return the lines of the last run in a log, without empty ones; the first is its command."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LARGEST_TAIL))
        text = file.read().decode("utf-8", "replace")
    return [line for line in text.rpartition(STARTED)[2].splitlines()[1:] if line.strip()]


def succeeded(log: Path) -> str:
    """Return the command of the last run of a log if it has ended without an error; else an empty text."""
    return _last_run(log)[0] if status_of(log) == 0 else ""
