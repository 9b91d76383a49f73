"""Run the teachers on one utterance after the other and write shards; estimate disk space and time."""

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from espnet_kd.data.audio import read_speech
from espnet_kd.errors import UserError
from espnet_kd.host.training import preprocessing
from espnet_kd.parallel import Shard, device_of_worker
from espnet_kd.targets.format import TapFormat, TargetRecord, audio_checksum, text_checksum, write_shard
from espnet_kd.targets.plan import SourceData, needs_text
from espnet_kd.targets.teacher import to_rows
from espnet_kd.teachers.experiment import load_experiment, read_config, with_absolute_paths
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import TeacherOptions
from espnet_kd.teachers.short import TOO_SHORT
from espnet_kd.teachers.taps import Targets

NO_TEXT = torch.tensor([[2]])  # any token, for taps that do not depend on the transcript
SAMPLE = 8  # number of utterances to measure, spread over the data
INDEX_BYTES = 120  # per utterance, about
MARGIN = 1.1  # free disk space to ask for, relative to the estimate
_ONE_AT_A_TIME = threading.Lock()  # hooks on a model record one forward pass at a time


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to compute targets; can be hashed and sent to another process.

    Attributes:
        teacher: options of the teachers, with absolute directories.
        taps: JSON of each ``TapFormat`` by module path.
        rate: sampling rate of the speech, in hertz.
        device: "cpu" or "cuda".
    """

    teacher: TeacherOptions
    taps: str
    rate: int
    device: str


def spec(teacher: TeacherOptions, taps: Mapping[str, TapFormat], rate: int, device: str) -> WorkerSpec:
    """Make the specification of a worker."""
    return WorkerSpec(teacher, json.dumps({path: asdict(tap) for path, tap in taps.items()}), rate, device)


def work(shard: Shard, spec: WorkerSpec) -> Shard:
    """Write a shard, and measure what that costs; keep the loaded teachers for the next one."""
    with _ONE_AT_A_TIME:
        observer = load(spec)
        # Of this thread, in which all is computed: those of Dask wait for messages.
        spent, started = time.thread_time(), time.perf_counter()
        records = (observer(utt, wav, text) for utt, (wav, text) in shard.utterances)
        write_shard(shard.path, records, observer.taps)
        seconds = time.perf_counter() - started
        return replace(shard, cpu_seconds=time.thread_time() - spent, seconds=seconds)


@lru_cache(maxsize=1)
def load(spec: WorkerSpec) -> "Observer":
    """Load the teachers of a specification; the last ones are kept."""
    torch.set_num_threads(1)  # with more threads, sums differ in their last bits
    return Observer(spec)


class Observer:
    """Compute the targets of single utterances.

    Each utterance is a batch of one, so that its targets do not depend on others.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.taps = {path: TapFormat(**tap) for path, tap in json.loads(spec.taps).items()}
        self.device = device_of_worker(spec.device)
        self.teacher = build_teacher(spec.teacher, self.taps)
        directory = Path(spec.teacher.directories[0])
        self.preprocess = build_preprocess(directory)
        self.needs_text = needs_text(self.taps)

    def __call__(self, utt: str, wav: str, text: str) -> TargetRecord:
        """Compute the stored targets of one utterance.

        Args:
            utt: id of the utterance.
            wav: absolute path of its audio.
            text: its transcript.

        Raises:
            UserError: audio or text cannot be used; names the utterance.
        """
        speech = self.read(utt, wav)
        audio = audio_checksum(speech)  # before the preprocessor may alter it
        waveform, tokens, seen = self.observe(utt, wav, text, speech)
        rows = {path: to_rows(seen[path], tap, tokens) for path, tap in self.taps.items()}
        checksum = text_checksum(tokens) if self.needs_text else None
        return TargetRecord(utt, len(waveform), checksum, rows, audio)

    def read(self, utt: str, wav: str) -> NDArray[np.floating[Any]]:
        """Read the samples, (N,), of an utterance's file.

        Raises:
            UserError: the file cannot be read, or has another sampling rate than the teachers expect.
        """
        speech, rate = read_speech(wav, utt)
        if rate != self.spec.rate:
            raise UserError(
                f"{wav} of {utt} has {rate} Hz, but the teacher expects {self.spec.rate} Hz: "
                "format the data at that rate"
            )
        return speech

    def observe(
        self, utt: str, wav: str, text: str, speech: NDArray[np.floating[Any]] | None = None
    ) -> tuple[NDArray[np.floating[Any]], list[int], dict[str, Targets]]:
        """Run the teachers on one utterance.

        Args:
            utt: id of the utterance.
            wav: absolute path of its audio.
            text: its transcript.
            speech: samples, (N,); None reads them from ``wav``.

        Returns:
            Waveform (N,) after preprocessing, tokens, and by tap the teachers' values.

        Raises:
            UserError: audio or text cannot be used; names the utterance.
        """
        speech = self.read(utt, wav) if speech is None else speech
        data = {"speech": speech, "text": text} if self.needs_text else {"speech": speech}
        found: dict[str, Any] = self.preprocess(utt, data)
        waveform = torch.from_numpy(found["speech"])[None].to(self.device)
        tokens = torch.from_numpy(found["text"])[None].long() if self.needs_text else NO_TEXT
        lengths = torch.tensor([waveform.shape[1]]), torch.tensor([tokens.shape[1]])
        try:
            seen = self.teacher.targets(
                waveform, lengths[0].to(self.device), tokens.to(self.device), lengths[1].to(self.device)
            )
        except (RuntimeError, ValueError, IndexError, *TOO_SHORT) as e:
            reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else type(e).__name__
            raise UserError(f"{wav} of {utt}: the teacher cannot take it: {reason}") from e
        return found["speech"], tokens[0].tolist(), seen


def build_teacher(options: TeacherOptions, taps: Mapping[str, TapFormat]) -> OnlineTeacher:
    """Load the teachers of a configuration, with hooks on the layers of a store."""
    experiments = [load_experiment(directory, options.checkpoint) for directory in options.directories]
    temperatures = {path: tap.temperature for path, tap in taps.items()}
    return OnlineTeacher(experiments, list(taps), temperatures, options.weights, options.mean)


def build_preprocess(directory: Path) -> Any:
    """Build ESPnet's preprocessing of speech and text for a teacher, without augmentation."""
    found = preprocessing(with_absolute_paths(read_config(directory), directory))
    return found if found is not None else lambda utt, data: data


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of the targets of all utterances.

    Attributes:
        size: bytes on disk.
        seconds: time on one worker.
    """

    size: float
    seconds: float

    def line(self, workers: int) -> str:
        """Format the estimate for the user."""
        return f"{megabytes(self.size)}, {duration(self.seconds / workers)} with {workers} workers"


def estimate(data: SourceData, observer: Observer) -> CostEstimate:
    """Estimate disk space and time from a few utterances."""
    names = sorted(data.utterances)
    chosen = names[:: -(-len(names) // SAMPLE)]
    observer(chosen[0], *data.utterances[chosen[0]])  # not timed: the first one takes longer
    started, size = time.perf_counter(), 0
    for utt in chosen:
        record = observer(utt, *data.utterances[utt])
        size += INDEX_BYTES + sum(rows.nbytes for rows in record.rows.values())
    scale = len(names) / len(chosen)
    return CostEstimate(size * scale, (time.perf_counter() - started) * scale)


def check_room(directory: Path, size: float) -> None:
    """Check that the disk has space for a store of about `size` bytes.

    Raises:
        UserError: it has not.
    """
    place = directory.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size * MARGIN > free:
        raise UserError(
            f"{directory} will take about {megabytes(size)}, but its disk has {megabytes(free)} left: give "
            "another --store, or store fewer classes (--k)"
        )


def megabytes(size: float) -> str:
    """Format a number of bytes for the user."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def duration(seconds: float) -> str:
    """Format a duration for the user."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size_of(directory: Path) -> int:
    """Return the number of bytes of all files below a directory."""
    return sum(os.path.getsize(Path(root) / f) for root, _, files in os.walk(directory) for f in files)
