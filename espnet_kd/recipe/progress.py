"""``espnet-kd progress``: follow an ESPnet training log, with a bar on a terminal, else a line per tenth."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from espnet_kd.recipe.training_log import Log, Training

SECONDS_BETWEEN_LOOKS = 0.5
LINES = 10  # so many lines of a training go to a file


class Bar:
    """A bar on a terminal."""

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
        """Redraw."""
        self.progress.update(self.task, completed=training.fraction, status=_status(training, left))


class Lines:
    """A line whenever another tenth is done."""

    def __init__(self, title: str):
        self.title = title
        self.tenths = -1

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, training: Training, left: float | None) -> None:
        """Print a line if there is something new to say."""
        tenths = int(training.fraction * LINES + 1e-6)
        if training.epochs and tenths > self.tenths:
            self.tenths = tenths
            print(f"{self.title}: {100 * training.fraction:.0f} %, {_status(training, left)}", flush=True)


class Clock:
    """Estimates the time that is left from the progress made since the first look."""

    def __init__(self) -> None:
        self.start: tuple[float, float] | None = None

    def left(self, fraction: float, now: float) -> float | None:
        """Seconds, None while unknown."""
        if fraction <= 0:
            return None
        if self.start is None:
            self.start = (fraction, now)
        done, seconds = fraction - self.start[0], now - self.start[1]
        return seconds * (1 - fraction) / done if done > 0 else None


def main(argv: list[str] | None = None) -> None:
    """``progress LOG --pid PID [--title T] [--new]``."""
    parser = argparse.ArgumentParser(prog="espnet-kd progress", description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--pid", type=int, required=True, help="stop when this process ends, or at SIGTERM")
    parser.add_argument("--title", default="training")
    parser.add_argument("--new", action="store_true", help="pass over what is in the log already")
    args = parser.parse_args(argv)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    follow(Log(args.log, args.new), args.title, lambda: not stop and _alive(args.pid))


def follow(log: Log, title: str, running: Callable[[], bool]) -> None:
    """Show the progress until ``running()`` is false."""
    training, clock = Training(), Clock()
    show = Bar(title) if sys.stdout.isatty() else Lines(title)
    with show:
        more = True
        while more:
            more = running()  # before reading, so that the last lines are read, too
            for line in log.lines():
                training.read(line)
            show.update(training, clock.left(training.fraction, time.monotonic()))
            if more:
                time.sleep(SECONDS_BETWEEN_LOOKS)


def _status(training: Training, left: float | None) -> str:
    if left is None or training.fraction >= 1:
        return str(training)
    return f"{training}, {_duration(left)} left"


def _duration(seconds: float) -> str:
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
