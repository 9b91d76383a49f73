"""Work on audio in several processes, few pieces of it at a time, with a progress bar on a terminal."""

import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from espnet_kd.errors import UserError

SECONDS_BETWEEN_LINES = 300.0  # of progress in a log; a thousand hours take hours to write
AHEAD = 4  # pieces of work per process that wait for it or are done; more would fill the memory


def in_processes[Piece, Result](
    work: Callable[[Piece], Result], pieces: Iterable[Piece], nj: int, total: int
) -> Iterator[Result]:
    """Yield the result of each piece of work, in order.

    Args:
        work: a function of a module, because other processes run it.
        pieces: are taken from their iterator when a process is nearly free.
        nj: number of processes; 1 works in this one.
        total: number of pieces, for the progress bar.

    Raises:
        UserError: a process was killed.
    """
    nj = min(nj, total)
    if nj <= 1:
        yield from _progress(map(work, pieces), total)
        return
    # spawn, because a forked child would inherit locks that threads of this process hold
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(nj, context, initializer=_end_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            yield from _progress(_in_order(pool, work, iter(pieces), nj * AHEAD), total)
        except BrokenProcessPool:
            raise UserError(
                "a process was killed, perhaps for lack of memory: repeat the command to resume"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_order[Piece, Result](
    pool: ProcessPoolExecutor, work: Callable[[Piece], Result], pieces: Iterator[Piece], ahead: int
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque(pool.submit(work, piece) for piece in islice(pieces, ahead))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(work, piece) for piece in islice(pieces, 1))
        yield result


def _progress[Result](results: Iterable[Result], total: int) -> Iterable[Result]:
    """Yield the results, and show a progress bar on a terminal, else print a line now and then."""
    if not sys.stdout.isatty():
        return _with_lines(results, total)
    from rich.progress import track

    return track(results, "writing audio", total)


def _with_lines[Result](results: Iterable[Result], total: int) -> Iterator[Result]:
    last = time.monotonic()
    for number, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and number < total:
            last = now
            print(f"writing audio: {100 * number // total} %", flush=True)


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent is killed; without this it would wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
