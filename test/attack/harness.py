"""Shared parts of the attacks: outcomes of attempts, limits, and the table of numbers."""

import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / "test" / name) for name in ("", "recipes"))]

from espnet_kd.errors import UserError, printable  # noqa: E402

SECONDS = 30.0  # that an attempt may take, on a machine that does other things, too
GIGABYTES = 1.5  # that it may add to the memory of its process
LONGEST_MESSAGE = 5000  # characters
SHOWN = 20  # faults of an attack


class Hang(BaseException):
    """Raised when an attempt takes too long; ``except Exception`` does not catch it."""


@dataclass
class Outcome:
    """Numbers of results of one attack, and its faults, each with the options that repeat it."""

    name: str
    tried: int = 0
    right: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def attempt(
        self,
        label: str,
        action: Callable[[], object],
        where: str = "",
        also: tuple[type[Exception], ...] = (),
        seconds: float = SECONDS,
    ) -> None:
        """Try a hostile action: it must succeed, or be refused by a ``UserError`` of one line.

        Args:
            label: what repeats it.
            action: raises AssertionError if its result is wrong.
            where: what the message must name, such as the file.
            also: errors that the docstring of what is attacked declares beside ``UserError``.
            seconds: after which it hangs.
        """
        self.tried += 1
        try:
            with limited(seconds):
                action()
        except UserError as e:
            problem = _problem(str(e), where)
            if problem:
                self.faults.append(f"{label}: {problem}: {e}")
            else:
                self.refused += 1
        except (*also, SystemExit):  # SystemExit: argparse's own words
            self.refused += 1
        except (Exception, Hang) as e:
            self.faults.append(f"{label}: {type(e).__name__}: {str(e)[:300]!r} at {_place(e)}")
        else:
            self.right += 1

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.name,
            self.tried + other.tried,
            self.right + other.right,
            self.refused + other.refused,
            self.faults + other.faults,
        )


def table(outcomes: list[Outcome]) -> str:
    """Return the table of numbers, with the faults below it."""
    head = f"{'attack':<32}{'tried':>9}{'right':>9}{'refused':>9}{'faults':>8}"
    rows = [
        f"{o.name:<32}{o.tried:>9}{o.right:>9}{o.refused:>9}{len(o.faults):>8}"
        for o in [*outcomes, sum(outcomes, Outcome("all"))]
    ]
    faults = [f"fault: {o.name}: {fault}" for o in outcomes for fault in o.faults[:SHOWN]]
    return "\n".join([head, *rows, *faults])


def bound_memory() -> None:
    """Limit the memory of this process to ``GIGABYTES`` more than it has; else it gets MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(GIGABYTES * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise ``Hang`` in the block when the time is over."""

    def stop(*_: object) -> None:
        raise Hang(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _problem(message: str, where: str) -> str:
    if printable(message) != message:
        return "more than a line that a terminal shows"
    if not message or len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} characters"
    return "" if where in message else f"does not name {where}"


def _place(error: BaseException) -> str:
    """Return the last lines of the package in the traceback of an error."""
    places, tb = [], error.__traceback__
    while tb is not None:
        path = Path(tb.tb_frame.f_code.co_filename)
        if "espnet_kd" in path.parts or "espnet_kd" in path.stem:
            places.append(f"{path.name}:{tb.tb_lineno}")
        tb = tb.tb_next
    return " < ".join(reversed(places[-3:])) or "none of ours"
