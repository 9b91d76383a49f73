"""``espnet-kd progress``: follow an ESPnet training log, by a bar on a terminal, else by a line per tenth."""

import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.errors import UserError
from espnet_kd.host.outputs import LOG_BATCH, LOG_BATCHES, LOG_EPOCH, LOG_PHASE, LOG_RESULTS

# (valid statistic, format), in the order of preference
STATISTICS = (
    ("acc", "valid acc {:.3f}"),
    ("cer_ctc", "valid CER {:.3f}"),
    ("cer_transducer", "valid CER {:.3f}"),
    ("loss", "valid loss {:.3f}"),
)
VALUE = re.compile(r"(\w+)=([-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|nan|inf))")


def _number(text: str) -> float:
    """Return the number of a text; NaN if it is none, as lines of two processes can be mixed up."""
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass
class Training:
    """The progress of a training, read from the lines of its log.

    Attributes:
        epochs: number of epochs, 0 while unknown.
        epoch: number of the current epoch, from 1.
        batches: number of batches in an epoch, 0 while unknown.
        batch: number of the last batch that was logged in this epoch.
        finished: number of complete epochs.
        valid: statistics of the last complete epoch on the development set.
    """

    epochs: int = 0
    epoch: int = 0
    batches: int = 0
    batch: int = 0
    finished: int = 0
    valid: dict[str, float] | None = None

    def read(self, line: str) -> None:
        """Update from one line of the log."""
        if match := LOG_BATCHES.search(line):
            self.batches = int(match[1])
        elif match := LOG_EPOCH.search(line):
            self.epoch, self.epochs, self.batch = int(match[1]), int(match[2]), 0
        elif match := LOG_BATCH.search(line):
            self.epoch, self.batch = int(match[1]), int(match[2])
        elif match := LOG_RESULTS.search(line):
            valid = [text for phase, text in LOG_PHASE.findall(match[2]) if phase == "valid"]
            if not valid:  # the line is mixed up with one of another process
                return
            self.finished = int(match[1])
            values = {key: _number(value) for key, value in VALUE.findall(valid[0])}
            # The accuracy of a model without a decoder is not a number.
            self.valid = {key: value for key, value in values.items() if not math.isnan(value)}

    @property
    def fraction(self) -> float:
        """The part of the training that is done, 0 to 1."""
        if not self.epochs:
            return 0.0
        within = self.batch / self.batches if self.batches and self.epoch > self.finished else 0.0
        return min(1.0, (self.finished + min(within, 1.0)) / self.epochs)

    def __str__(self) -> str:
        """Return a text such as ``epoch 3/50, valid acc 0.712``."""
        if not self.epochs:
            return "starting"
        parts = [f"epoch {max(self.epoch, self.finished)}/{self.epochs}"]
        for key, text in STATISTICS:
            if self.valid and key in self.valid:
                parts.append(text.format(self.valid[key]))
                break
        return ", ".join(parts)


class GrowingFile:
    """Reads the new lines of a file that may not exist yet, and may be replaced by a new one."""

    def __init__(self, path: Path, new: bool = False):
        self.path = path
        self.inode: int | None = None
        self.position = 0
        if new and path.exists():
            self.inode, self.position = path.stat().st_ino, path.stat().st_size
        self.rest = b""

    def new_lines(self) -> list[str]:
        """Return the lines that were completed since the last call."""
        try:
            with self.path.open("rb") as f:
                status = os.fstat(f.fileno())
                if status.st_ino != self.inode or status.st_size < self.position:
                    self.inode, self.position, self.rest = status.st_ino, 0, b""
                f.seek(self.position)
                data = f.read()
        except FileNotFoundError:
            return []
        self.position += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]


SECONDS_BETWEEN_UPDATES = 0.5
LINES = 10  # number of lines per training where there is no terminal


class ProgressBar:
    """Shows progress as a bar on a terminal."""

    def __init__(self, title: str):
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self.task = self.progress.add_task(title, total=1.0, status="")

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, training: Training, left: float | None) -> None:
        """Redraw the bar."""
        self.progress.update(self.task, completed=training.fraction, status=_status(training, left))


class ProgressLines:
    """Prints a line after each tenth."""

    def __init__(self, title: str):
        self.title = title
        self.tenths = -1

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, training: Training, left: float | None) -> None:
        """Print a line if another tenth is done."""
        tenths = int(training.fraction * LINES + 1e-6)
        if training.epochs and tenths > self.tenths:
            self.tenths = tenths
            print(f"{self.title}: {100 * training.fraction:.0f} %, {_status(training, left)}", flush=True)


class RemainingTime:
    """Estimates the remaining time from the progress since the first update."""

    def __init__(self) -> None:
        self.start: tuple[float, float] | None = None

    def seconds(self, fraction: float, now: float) -> float | None:
        """Return the remaining time in seconds; None while unknown.

        Args:
            fraction: part of the training that is done, 0 to 1.
            now: time in seconds.
        """
        if fraction <= 0:
            return None
        if self.start is None:
            self.start = (fraction, now)
        done, seconds = fraction - self.start[0], now - self.start[1]
        return seconds * (1 - fraction) / done if done > 0 else None


def main(argv: list[str] | None = None) -> None:
    """Run ``progress LOG --pid PID [--title T] [--new]``."""
    parser = command_parser("progress")
    parser.add_argument("log", type=Path, help="train.log of a training")
    parser.add_argument("--pid", type=int, required=True, help="stop when this process ends, or at SIGTERM")
    parser.add_argument("--title", default="training")
    parser.add_argument("--new", action="store_true", help="pass over what is in the log already")
    args = parser.parse_args(argv)
    if args.pid < 1:  # os.kill takes these as groups of processes, which never end
        raise UserError(f"--pid {args.pid} is not the id of a process: give a number of at least 1")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def running() -> bool:
        return signal.sigtimedwait({signal.SIGTERM}, SECONDS_BETWEEN_UPDATES) is None and _alive(args.pid)

    follow(GrowingFile(args.log, args.new), args.title, running)


def follow(log: GrowingFile, title: str, running: Callable[[], bool]) -> None:
    """Show the progress until ``running()``, which waits between two updates, is false."""
    training, clock = Training(), RemainingTime()
    show = ProgressBar(title) if sys.stdout.isatty() else ProgressLines(title)
    with show:
        more = True
        while more:
            more = running()  # asked before reading, so that the last lines are read, too
            for line in log.new_lines():
                training.read(line)
            show.update(training, clock.seconds(training.fraction, time.monotonic()))


def _status(training: Training, left: float | None) -> str:
    if left is None or training.fraction >= 1:
        return str(training)
    return f"{training}, {duration(left)} left"


def duration(seconds: float) -> str:
    """Return a time as people read it, such as ``12 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
