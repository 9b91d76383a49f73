"""Reading an ESPnet training log while it grows."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

# (valid statistic, format), in the order of preference
STATISTICS = (
    ("acc", "valid acc {:.3f}"),
    ("cer_ctc", "valid CER {:.3f}"),
    ("cer_transducer", "valid CER {:.3f}"),
    ("loss", "valid loss {:.3f}"),
)

N_BATCH = re.compile(r"\[train\] mini-batch sizes summary: N-batch=(\d{1,9})\b")
EPOCH = re.compile(r" (\d{1,9})/(\d{1,9})epoch started")
BATCH = re.compile(r" (\d{1,9})epoch:train:\d+-(\d{1,9})batch")
RESULTS = re.compile(r" (\d{1,9})epoch results: .*?\[valid\] ([^\[]*)")
VALUE = re.compile(r"(\w+)=([-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|nan|inf))")


def _number(text: str) -> float:
    """NaN for what is none: lines of two processes may be mixed up."""
    try:
        return float(text)
    except ValueError:
        return math.nan


@dataclass
class Training:
    """What the lines of a log have said so far.

    Attributes:
        epochs: that it will take, 0 while unknown.
        epoch: in which it is, from 1.
        batches: of an epoch, 0 while unknown.
        batch: the last one logged in this epoch.
        finished: epochs that are complete.
        valid: the statistics of the last of them on the development set.
    """

    epochs: int = 0
    epoch: int = 0
    batches: int = 0
    batch: int = 0
    finished: int = 0
    valid: dict[str, float] | None = None

    def read(self, line: str) -> None:
        """Take in one line."""
        if match := N_BATCH.search(line):
            self.batches = int(match[1])
        elif match := EPOCH.search(line):
            self.epoch, self.epochs, self.batch = int(match[1]), int(match[2]), 0
        elif match := BATCH.search(line):
            self.epoch, self.batch = int(match[1]), int(match[2])
        elif match := RESULTS.search(line):
            self.finished = int(match[1])
            values = {key: _number(value) for key, value in VALUE.findall(match[2])}
            # The accuracy of a model without a decoder is not a number.
            self.valid = {key: value for key, value in values.items() if not math.isnan(value)}

    @property
    def fraction(self) -> float:
        """How much of it is done, 0 to 1."""
        if not self.epochs:
            return 0.0
        within = self.batch / self.batches if self.batches and self.epoch > self.finished else 0.0
        return min(1.0, (self.finished + min(within, 1.0)) / self.epochs)

    def __str__(self) -> str:
        """``epoch 3/50, valid acc 0.712``."""
        if not self.epochs:
            return "starting"
        parts = [f"epoch {max(self.epoch, self.finished)}/{self.epochs}"]
        for key, text in STATISTICS:
            if self.valid and key in self.valid:
                parts.append(text.format(self.valid[key]))
                break
        return ", ".join(parts)


class Log:
    """A file that grows, may not exist yet and may be replaced by a new one."""

    def __init__(self, path: Path, new: bool = False):
        self.path = path
        self.inode, self.position = (
            (path.stat().st_ino, path.stat().st_size) if new and path.exists() else (None, 0)
        )
        self.rest = b""

    def lines(self) -> list[str]:
        """The lines that are complete since the last call."""
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
