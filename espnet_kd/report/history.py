"""Read the statistics of a training by epoch, from ESPnet's checkpoint, or else from its log."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from espnet_kd.host.outputs import CHECKPOINT, LOG, LOG_DURATION, LOG_PHASE, LOG_RESULTS, reported

Stats = dict[str, float]
OF_TRAINING = ("time", "total_count")  # statistics that are of no model
VALUE = re.compile(r"(\w+)=([-+.\w]+)")


@dataclass(frozen=True)
class History:
    """Statistics of a training.

    Attributes:
        epochs: epoch -> phase ("train", "valid") -> name -> mean over the epoch. ``time`` is in
            seconds; ``total_count`` is the number of batches since the start of the training.
    """

    epochs: dict[int, dict[str, Stats]]

    def curve(self, phase: str, *names: str) -> dict[int, float]:
        """Return, by epoch, the first named statistic that is a number; acc is NaN without a decoder."""
        values = {}
        for epoch, phases in sorted(self.epochs.items()):
            stats = phases.get(phase, {})
            found = [stats[name] for name in names if not math.isnan(stats.get(name, math.nan))]
            if found:
                values[epoch] = found[0]
        return values

    def of_model(self, suffix: str) -> "History":
        """Return the statistics whose names end in a suffix, under stock names, for one of several models.

        Those of the training itself are left besides; those of the first model, which may have others, not.
        """
        if not suffix:
            return self
        return History(
            {
                epoch: {
                    phase: {n: v for n, v in stats.items() if n in OF_TRAINING}
                    | {n.removesuffix(suffix): v for n, v in stats.items() if n.endswith(suffix)}
                    for phase, stats in phases.items()
                }
                for epoch, phases in self.epochs.items()
            }
        )

    def updates(self, accum_grad: int) -> int | None:
        """Return the number of optimiser steps; None if unknown.

        ESPnet counts the batches of an update anew in each epoch: those that are left at its end make none.
        """
        counts = {0: 0.0, **self.curve("train", "total_count")}
        steps = 0
        for (before, first), (epoch, last) in pairwise(counts.items()):  # a log may lack epochs
            epochs = epoch - before
            steps += epochs * (round((last - first) / epochs) // accum_grad)
        return steps if len(counts) > 1 else None

    def batches(self) -> int | None:
        """Return the number of training batches; None if unknown."""
        counts = self.curve("train", "total_count")
        return round(max(counts.values())) if counts else None

    def seconds(self) -> float | None:
        """Return the time of training, validation and plots in seconds; None if unknown."""
        parts = [stats for phases in self.epochs.values() for stats in phases.values()]
        times = [stats["time"] for stats in parts if "time" in stats]
        return sum(times) if times else None


def read_history(directory: Path) -> History:
    """Read ``checkpoint.pth`` of a training, or ``train.log`` if there is none; without both, it is empty."""
    if (directory / CHECKPOINT).is_file():
        found = _from_checkpoint(directory / CHECKPOINT)
        if found is not None:
            return found
    return _from_log(directory / LOG)


def _from_checkpoint(path: Path) -> History | None:
    import pickle

    import torch

    try:  # "meta": the weights and the optimizer's state are not read
        state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        return History(reported(state))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError):
        return None
    except AttributeError:  # a value that should be a mapping is none
        return None


def _from_log(path: Path) -> History:
    """Read the log; later lines win, because an interrupted epoch is reported again."""
    epochs: dict[int, dict[str, Stats]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            match = LOG_RESULTS.search(line)
            if match:
                phases = LOG_PHASE.findall(match[2])
                epochs[int(match[1])] = {phase: _parse(text) for phase, text in phases}
    return History(epochs)


def _parse(text: str) -> Stats:
    stats = {}
    for name, value in VALUE.findall(text):
        try:
            stats[name] = float(value.rstrip("."))
        except ValueError:  # "time=1 hour" and the like
            continue
    # humanfriendly's spans: "time=1 minute and 3.5 seconds, total_count=..."
    span = LOG_DURATION.search(text)
    if span:
        units = {"hour": 3600, "minute": 60, "second": 1, "day": 86400}
        found = re.findall(r"(\d+(?:\.\d+)?) (hour|minute|second|day)", span[1])
        stats["time"] = sum(float(n) * units[u] for n, u in found)
    return stats
