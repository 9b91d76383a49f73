"""How much disk and time a store will take."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.errors import UserError
from espnet_kd.recipe.targets.plan import Data
from espnet_kd.recipe.targets.worker import Observer

SAMPLE = 8  # utterances that are measured, spread over the data
INDEX_BYTES = 120  # of an utterance
MARGIN = 1.1  # of free disk


@dataclass(frozen=True)
class Estimate:
    """For all utterances, on one worker."""

    size: float
    seconds: float

    def line(self, workers: int) -> str:
        """For the user."""
        return f"{megabytes(self.size)}, {duration(self.seconds / workers)} with {workers} workers"


def estimate(data: Data, observer: Observer) -> Estimate:
    """Measure a few utterances."""
    names = sorted(data.utterances)
    chosen = names[:: -(-len(names) // SAMPLE)]
    observer(chosen[0], *data.utterances[chosen[0]])  # the first one takes longer
    started, size = time.perf_counter(), 0
    for utt in chosen:
        record = observer(utt, *data.utterances[utt])
        size += INDEX_BYTES + sum(rows.nbytes for rows in record.rows.values())
    scale = len(names) / len(chosen)
    return Estimate(size * scale, (time.perf_counter() - started) * scale)


def check_room(directory: Path, size: float) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        UserError: it has not.
    """
    place = directory.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size * MARGIN > free:
        raise UserError(
            f"{directory} will take about {megabytes(size)}, its disk has {megabytes(free)} left: give "
            "another --store, or keep fewer classes"
        )


def megabytes(size: float) -> str:
    """Bytes as a user reads them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def duration(seconds: float) -> str:
    """Seconds as a user reads them."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size_of(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(os.path.getsize(Path(root) / f) for root, _, files in os.walk(directory) for f in files)
