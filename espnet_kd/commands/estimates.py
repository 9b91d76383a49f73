"""What stages of kd.sh cost: hours of speech, disk and computing time.

The numbers are from lists, published, or measured.

Nothing is guessed without a word: every number comes with its source, and what is unknown is said to be.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_kd.data.batches import Batches, Sizes
from espnet_kd.errors import UserError
from espnet_kd.files import iterate_lines

# GB in an hour of one channel at 16 kHz: wav by its definition; flac as LibriSpeech's archives, 61 GB for
# 960.9 hours.
GB_PER_HOUR = {"wav": 16000 * 2 * 3600 / 1e9, "flac": 61 / 960.9}
# CPU-seconds for an hour of speech at 16 kHz, measured on one core of an AMD EPYC with utterances of 12 s.
FORMAT, STATISTICS = 7, 9
MEASURED = "measured with utterances of 12 s, AMD EPYC"
# Millions of parameters -> hours of speech that a GPU trains on in an hour, in ESPnet's LibriSpeech.
ATTENTION = {
    116.15: (50 * 2902 / (3.5 * 24 * 4), "ESPnet's Conformer of 116 M, 3.5 days on four V100"),
    34.23: (70 * 303.8 / (57072 / 3600), "ESPnet's Conformer of 34 M, 57072 s on one V100"),
}
TRANSDUCERS = {113.0: (25 * 2902 / (6 * 24 * 4), "ESPnet's Conformer transducer, 6 days on four A6000")}
FORWARD = 1 / 3  # of the time of a training: a teacher runs forward alone; our assumption


@dataclass
class Cost:
    """What a stage costs; None where a part of it is unknown.

    Attributes:
        gigabytes: of disk.
        cpu_hours: computing time without GPUs.
        gpu_hours: of training.
        notes: sources, and what is unknown.
    """

    gigabytes: float | None = 0.0
    cpu_hours: float | None = 0.0
    gpu_hours: float | None = 0.0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def number(value: float | None, unit: str) -> str:
            digits = ",.0f" if value is not None and value >= 10 else ".2g"
            return f"unknown {unit}" if value is None else f"{value:{digits}} {unit}" if value else ""

        parts = [
            number(self.gigabytes, "GB"),
            number(self.cpu_hours, "CPU-hours"),
            number(self.gpu_hours, "GPU-hours"),
        ]
        text = ", ".join(filter(None, parts)) or "little"
        return text + (f" ({'; '.join(dict.fromkeys(self.notes))})" if self.notes else "")


@dataclass(frozen=True)
class Hours:
    """Hours of speech in a set, and where the number is from."""

    hours: float
    source: str

    def __str__(self) -> str:
        return f"{self.hours:,.{1 if self.hours < 100 else 0}f} hours of speech, {self.source}"


def hours_of_set(name: str, data: Path, dumps: list[Path], hertz: int, sizes: Sizes) -> Hours | None:
    """Return the hours of a set; None if they are unknown.

    Args:
        name: of the set.
        data: its data directory, which may be missing.
        dumps: its dump directories, the best first, which may be missing.
        hertz: sampling rate of the dump.
        sizes: published ones.
    """
    for dump in dumps:
        if (dump / "utt2num_samples").is_file():
            return Hours(_sum(dump / "utt2num_samples", -1, None) / hertz / 3600, f"{dump}")
    if (data / "segments").is_file():
        return Hours(_sum(data / "segments", -1, -2) / 3600, f"{data}")
    if name in sizes.hours:
        return Hours(sizes.hours[name], "local/sizes.yaml")
    return None


def _sum(path: Path, column: int, less: int | None) -> float:
    total = 0.0
    for number, line in enumerate(iterate_lines(path), 1):
        fields = line.split()
        try:
            total += float(fields[column]) - (0.0 if less is None else float(fields[less]))
        except (ValueError, IndexError):
            raise UserError(f"{path}:{number}: expected a number at the end, not {line[:60]!r}") from None
    return total


def perturbed(hours: Hours | None, factors: list[float]) -> Hours | None:
    """Return the hours of a set with its copies at other speeds."""
    if hours is None or not factors:
        return hours
    return Hours(
        hours.hours * sum(1 / factor for factor in factors), f"{hours.source}, {len(factors)} speeds"
    )


def audio_gigabytes(hours: float, audio_format: str, hertz: int) -> float | None:
    """Return the disk space of formatted audio; None for a format of unknown size."""
    kind = next((kind for kind in GB_PER_HOUR if audio_format.startswith(kind)), None)
    return None if kind is None else hours * GB_PER_HOUR[kind] * hertz / 16000


def model_gigabytes(parameters: int, config: Mapping[str, Any]) -> float:
    """Return the disk space of a training: kept epochs, their average, two checkpoints with Adam's state."""
    keep = config.get("keep_nbest_models") or 10
    kept = max(keep) if isinstance(keep, list) else keep
    return parameters * 4 * (int(kept) + 1 + 2 * 3) / 1e9


def speed(parameters: int, is_transducer: bool) -> tuple[float, str]:
    """Return hours of speech that a GPU trains on in an hour, and the source.

    It is that of the published model next in size, divided by how many times larger this one is; a smaller
    model counts as slow as the published one.
    """
    known = TRANSDUCERS if is_transducer else ATTENTION
    millions = parameters / 1e6
    nearest = min(known, key=lambda size: abs(math.log(millions / size)))
    rate, source = known[nearest]
    return rate / max(1.0, millions / nearest), source


def views(config: Mapping[str, Any], plan: Batches) -> int:
    """Return how many times as much speech an epoch has because of consistency training."""
    consistency = config.get("consistency") or {}
    # A number of batches is given, and they have fewer utterances.
    is_split = plan.iterations and consistency.get("split_batches", True)
    return 1 if is_split or not consistency else int(consistency.get("views", 2))
