"""What ``measure`` finds out about a model, and the file beside its decoding that keeps it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from espnet_kd.errors import UserError
from espnet_kd.files import read_json, write_text
from espnet_kd.scoring.alignment import UNITS

FILE = "measure.json"  # in EXP/TAG/SET, beside score.json


@dataclass(frozen=True)
class Spread:
    """Values of several utterances: their median, and what 10 and 90 % of them are not above."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise values, at least one."""
        return cls(*(round(float(np.quantile(values, q)), 6) for q in (0.5, 0.1, 0.9)))


@dataclass(frozen=True)
class Measurement:
    """Cost of decoding a set with one model.

    Attributes:
        utterances: how many were decoded, of ``duration_s`` seconds in all.
        rounds: how often each was decoded with the clock running.
        rtf: time of computing by duration, "real-time factor", over the utterances.
        relative: time of computing by that of the first model of the same run, over the utterances; None for
            the first. With one thread it is the time of the processor, which other programs disturb less.
        relative_to: directory of the first model; None for itself.
        first_text_s: from the begin of an utterance until some text is there; None if there is never any.
        end_s: from the end of an utterance until its final text is there.
        chunk_ms: speech that the model takes at a time; None if it decodes whole utterances.
        startup_s: from the start of a process until it can decode.
        memory_mb: peak of the process.
        disk_mb: of the files that decoding needs.
        parameters: without buffers; None if unknown.
        multiply_adds_per_s: of a second of speech; None if unknown. ``encoder_multiply_adds_per_s``: of the
            encoder alone.
        errors, words: of the decoded utterances; None without references. With the metric ``cer`` they are of
            characters.
        machine: what computed: ``cpu``, ``cores``, ``threads``, ``load`` (of the machine when it began), and
            ``versions``.
        options: how it was decoded; ``search`` in words, of exported models.
        metric: what errors are counted of, ``wer`` for words or ``cer`` for characters.
        model: the files of its directory that decoding needs, name -> SHA-256; empty if unknown.
    """

    utterances: int
    duration_s: float
    rounds: int
    rtf: Spread
    relative: Spread | None
    relative_to: str | None
    first_text_s: Spread | None
    end_s: Spread
    chunk_ms: float | None
    startup_s: float
    memory_mb: float
    disk_mb: float
    parameters: int | None
    multiply_adds_per_s: float | None
    encoder_multiply_adds_per_s: float | None
    errors: int | None
    words: int | None
    machine: dict[str, Any]
    options: dict[str, Any]
    metric: str = "wer"
    model: dict[str, str] = field(default_factory=dict)


def write_measurement(record: Measurement, directory: Path) -> None:
    """Write the record of a decoded set, ``EXP/TAG/SET/measure.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / FILE, json.dumps(asdict(record), indent=1) + "\n")


def read_measurement(directory: Path) -> Measurement | None:
    """Read the record of a decoded set; None if it was not measured.

    Raises:
        UserError: the file is damaged.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    content = {"metric": "wer", "model": {}, **read_json(path)}  # older records have neither
    try:
        for name in ("rtf", "relative", "first_text_s", "end_s"):
            value = content[name]
            content[name] = None if value is None else Spread(**{k: float(v) for k, v in value.items()})
        record = Measurement(**{known.name: content[known.name] for known in fields(Measurement)})
        for name in ("startup_s", "memory_mb", "disk_mb", "duration_s"):
            float(getattr(record, name))
        {**record.machine, **record.machine["versions"], **record.options, **record.model}
        if record.metric not in UNITS or record.rtf is None or record.end_s is None:
            raise TypeError("no time, or an unknown metric")
    except (TypeError, ValueError, KeyError, AttributeError):
        raise UserError(f"{path} is damaged: remove it and measure again") from None
    return record
