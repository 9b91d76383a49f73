"""Run the teachers on utterances, alone or in batches, and write shards; estimate disk space and time."""

import gc
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from espnet_kd.criteria import TopClasses
from espnet_kd.criteria.codebooks import CENTROIDS
from espnet_kd.data.audio import read_speech
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint
from espnet_kd.host.training import preprocessing
from espnet_kd.parallel import Shard, device_of_worker
from espnet_kd.targets.format import (
    INDEX,
    TapFormat,
    TargetRecord,
    audio_checksum,
    quantiser_file,
    text_checksum,
    write_shard,
)
from espnet_kd.targets.plan import needs_text, rate_of
from espnet_kd.targets.quantiser import TRAINED_ON, Quantiser, read_quantiser, train_quantiser
from espnet_kd.targets.teacher import to_rows
from espnet_kd.targets.utterances import SourceData
from espnet_kd.teachers.experiment import with_absolute_paths
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import TeacherOptions
from espnet_kd.teachers.short import TOO_SHORT, warn_once
from espnet_kd.teachers.speech import at_rate
from espnet_kd.teachers.taps import Targets

NO_TEXT = [2]  # any token, for taps that do not depend on the transcript
PADDING = -1
WINDOW = 64  # utterances that are sorted by length; their audio and targets are in memory
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
        batch_seconds: audio, padding included, that the teachers get at a time; 0: one utterance.
        store: absolute path of the store, for quantisers.
    """

    teacher: TeacherOptions
    taps: str
    rate: int
    device: str
    batch_seconds: float = 0.0
    store: str = ""


def spec(
    teacher: TeacherOptions,
    taps: Mapping[str, TapFormat],
    rate: int,
    device: str,
    batch_seconds: float = 0.0,
    store: str = "",
) -> WorkerSpec:
    """Make the specification of a worker."""
    formats = json.dumps({path: asdict(tap) for path, tap in taps.items()})
    return WorkerSpec(teacher, formats, rate, device, batch_seconds, store)


def work(shard: Shard, spec: WorkerSpec) -> Shard:
    """Write a shard, and measure what that costs; keep the loaded teachers for the next one."""
    with _ONE_AT_A_TIME:
        observer = load(spec)
        # Of this thread, in which all is computed: those of Dask wait for messages.
        spent, started = time.thread_time(), time.perf_counter()
        write_shard(shard.path, observer.records(shard.utterances), observer.taps)
        seconds = time.perf_counter() - started
        return replace(shard, cpu_seconds=time.thread_time() - spent, seconds=seconds)


@lru_cache(maxsize=1)
def load(spec: WorkerSpec) -> "Observer":
    """Load the teachers of a specification; the last ones are kept."""
    torch.set_num_threads(1)  # with more threads, sums differ in their last bits
    return Observer(spec)


def release() -> None:
    """Release the teachers of this process, whose memory a worker on the same GPU needs."""
    load.cache_clear()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Prepared:
    """An utterance as the teachers get it.

    Attributes:
        utt, wav: id, and absolute path of its audio.
        audio: CRC-32 of the samples of the file.
        waveform: (N,) samples after preprocessing, at the teachers' rate.
        tokens: of its transcript.
        samples: of the file.
    """

    utt: str
    wav: str
    audio: int
    waveform: NDArray[np.floating[Any]]
    tokens: list[int]
    samples: int


class Observer:
    """Compute the targets of utterances.

    In a batch of one the targets of an utterance do not depend on others. In a larger batch they differ by
    what a model makes of padding, as in a training: the last frame of a shorter utterance sees zeros after
    the end, where alone it sees the signal mirrored.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.taps = {path: TapFormat(**tap) for path, tap in json.loads(spec.taps).items()}
        self.device = device_of_worker(spec.device)
        self.teacher = build_teacher(spec.teacher, self.taps)
        self.preprocess = build_preprocess(spec.teacher.sources)
        self.needs_text = needs_text(self.taps)
        rate = rate_of(self.teacher.experiments, spec.rate)
        self.rates = None if rate == spec.rate else (spec.rate, rate)
        self.longest = int(spec.batch_seconds * rate)  # samples of a batch, as the teachers get them
        self.shortest = max(e.padded or 0 for e in self.teacher.experiments)

    @cached_property
    def quantisers(self) -> dict[str, Quantiser]:
        """By layer, the quantiser of those whose codes are stored."""
        paths = [path for path, tap in self.taps.items() if tap.kind == "codes"]
        files = {path: Path(self.spec.store) / quantiser_file(path) for path in paths}
        return {path: read_quantiser(file).to(self.device) for path, file in files.items()}

    def untrained(self, data: SourceData) -> None:
        """Take random codebooks in the place of quantisers, for an estimate; they cost as much."""
        coded = {path: tap for path, tap in self.taps.items() if tap.kind == "codes"}
        if coded:
            utt, (wav, text) = data.chosen([0])[0]
            seen = self.observe(utt, wav, text)[2]
            sizes = {path: (tap.size, CENTROIDS, seen[path].tensor.shape[-1]) for path, tap in coded.items()}
            made = {p: Quantiser(torch.zeros(size[-1]), torch.randn(size)) for p, size in sizes.items()}
            self.quantisers = {path: quantiser.to(self.device) for path, quantiser in made.items()}

    def __call__(self, utt: str, wav: str, text: str) -> TargetRecord:
        """Compute the stored targets of one utterance.

        Args:
            utt: id of the utterance.
            wav: absolute path of its audio.
            text: its transcript.

        Raises:
            UserError: audio or text cannot be used; names the utterance.
        """
        one = self.prepare(utt, wav, text)
        return self._record(one, self._seen([one]), 0)

    def records(self, utterances: Iterable[tuple[str, tuple[str, str]]]) -> Iterator[TargetRecord]:
        """Compute the stored targets of utterances, in their order, in batches of similar lengths.

        Args:
            utterances: id, absolute path of the audio, and transcript.

        Raises:
            UserError: audio or text cannot be used; names the utterance.
        """
        everything = iter(utterances)
        while window := list(islice(everything, WINDOW if self.longest else 1)):
            prepared = [self.prepare(utt, *files) for utt, files in window]
            found: dict[str, TargetRecord] = {}
            lengths = [max(len(one.waveform), self.shortest) for one in prepared]
            for batch in batches(lengths, self.longest):
                members = [prepared[i] for i in batch]
                found |= zip([one.utt for one in members], self._batch(members), strict=True)
            yield from (found[utt] for utt, _ in window)

    def _batch(self, members: Sequence[Prepared]) -> list[TargetRecord]:
        """Compute the targets of a batch; if that fails, of one utterance at a time, to name the one."""
        try:
            seen = self._seen(members)
        except UserError as e:
            if len(members) == 1:
                raise
            if isinstance(e.__cause__, torch.OutOfMemoryError):
                warn_once(
                    f"the teachers have no memory for batches of {self.spec.batch_seconds:g} s: they get "
                    "those utterances one by one, which takes longer: give less --batch_seconds"
                )
            return [record for one in members for record in self._batch([one])]
        return [self._record(one, seen, place) for place, one in enumerate(members)]

    def _record(self, one: Prepared, seen: Mapping[str, Targets], place: int) -> TargetRecord:
        for path in self.quantisers:  # codes are always finite
            check_vectors(alone(seen[path], place).tensor, one.utt, path)
        rows = {
            path: to_rows(alone(seen[path], place), tap, one.tokens, self.quantisers.get(path))
            for path, tap in self.taps.items()
        }
        checksum = text_checksum(one.tokens) if self.needs_text else None
        return TargetRecord(one.utt, one.samples, checksum, rows, one.audio)

    def prepare(self, utt: str, wav: str, text: str) -> Prepared:
        """Read and preprocess an utterance.

        Raises:
            UserError: the file cannot be read, or has another sampling rate than the others.
        """
        speech, rate = read_speech(wav, utt)
        if rate != self.spec.rate:
            raise UserError(
                f"{wav} of {utt} has {rate} Hz, but the first utterance has {self.spec.rate} Hz: "
                "format the data at one rate"
            )
        audio = audio_checksum(speech)  # before the preprocessor may alter it
        data = {"speech": speech, "text": text} if self.needs_text else {"speech": speech}
        found: dict[str, Any] = self.preprocess(utt, data)
        tokens = found["text"].tolist() if self.needs_text else NO_TEXT
        return Prepared(utt, wav, audio, at_rate(found["speech"], self.rates), tokens, len(speech))

    def observe(
        self, utt: str, wav: str, text: str
    ) -> tuple[NDArray[np.floating[Any]], list[int], dict[str, Targets]]:
        """Run the teachers on one utterance; arguments and errors as of calling this object.

        Returns:
            Waveform (N,) after preprocessing, tokens, and by tap the teachers' values.
        """
        one = self.prepare(utt, wav, text)
        return one.waveform, one.tokens, self._seen([one])

    def _seen(self, batch: Sequence[Prepared]) -> dict[str, Targets]:
        """Run the teachers on a batch.

        Raises:
            UserError: a teacher cannot take it; names the first utterance.
        """
        waveforms = [torch.from_numpy(one.waveform) for one in batch]
        tokens = [torch.tensor(one.tokens, dtype=torch.long) for one in batch]
        speech = pad_sequence(waveforms, batch_first=True)
        text = pad_sequence(tokens, batch_first=True, padding_value=PADDING)
        lengths = (torch.tensor([len(x) for x in values]) for values in (waveforms, tokens))
        speech_lengths, text_lengths = (x.to(self.device) for x in lengths)
        try:
            return self.teacher.targets(
                speech.to(self.device), speech_lengths, text.to(self.device), text_lengths
            )
        except (RuntimeError, ValueError, IndexError, *TOO_SHORT) as e:
            reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else type(e).__name__
            first = batch[0]
            raise UserError(f"{first.wav} of {first.utt}: the teacher cannot take it: {reason}") from e


def batches(lengths: Sequence[int], longest: int) -> list[list[int]]:
    """Group places by length, so that a group times its longest member is ``longest`` at most.

    Args:
        lengths: in samples.
        longest: number of samples, padding included; a group has at least one member.
    """
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and (len(groups[-1]) + 1) * lengths[place] <= longest:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def alone(targets: Targets, place: int) -> Targets:
    """Return the targets of one utterance of a batch."""
    one, values = slice(place, place + 1), targets.values
    if isinstance(values, torch.Tensor):
        return Targets(values[one], targets.lengths[one])
    assert not isinstance(values, TopClasses)  # made of a tensor when it is stored
    return Targets(values.utterance(place), targets.lengths[one])


def build_teacher(options: TeacherOptions, taps: Mapping[str, TapFormat]) -> OnlineTeacher:
    """Load the teachers of a configuration, with hooks on the layers of a store."""
    experiments = [source.load() for source in options.sources]
    temperatures = {path: tap.temperature for path, tap in taps.items()}
    return OnlineTeacher(experiments, list(taps), temperatures, options.weights, options.mean)


def build_preprocess(sources: Sequence[Source]) -> Any:
    """Build ESPnet's preprocessing of speech and text for teachers, without augmentation."""
    for source in sources:
        if config := source.speech()[1]:  # those of an ensemble prepare it alike
            found = preprocessing(with_absolute_paths(dict(config), source.locate()))
            return found if found is not None else lambda utt, data: data
    return lambda utt, data: data


def check_vectors(values: torch.Tensor, utt: str, tap: str) -> None:
    """Refuse vectors that are not finite before they become codes.

    Raises:
        UserError: one is not; names the utterance.
    """
    if not torch.isfinite(values).all():
        raise UserError(
            f"{utt}: a value at {tap} is not finite: look whether the teacher's training diverged"
        )


def make_quantisers(data: SourceData, spec: WorkerSpec) -> dict[str, str]:
    """Train the quantisers that a store needs and lacks, on frames of utterances at random.

    Returns:
        By layer, the SHA-256 of the quantiser's file.

    Raises:
        UserError: vectors are not finite, or a quantiser is missing with which shards were made.
    """
    observer = load(spec)
    coded = [path for path, tap in observer.taps.items() if tap.kind == "codes"]
    files = {path: Path(spec.store) / quantiser_file(path) for path in coded}
    missing = [path for path, file in files.items() if not file.exists()]
    if made := sorted(Path(spec.store).glob("[0-9]*/**/" + INDEX)) if missing else []:
        raise UserError(
            f"{files[missing[0]]} is missing, with which the codes in {made[0].parent} were made: remove "
            f"{spec.store}, and make it again"
        )
    if missing:
        found: dict[str, list[torch.Tensor]] = {path: [] for path in missing}
        for utt, (wav, text) in data.at_random(TRAINED_ON["frames"], TRAINED_ON["seed"]):
            seen = observer.observe(utt, wav, text)[2]
            for path, parts in found.items():
                check_vectors(seen[path].tensor, utt, path)
                parts.append(seen[path].tensor[0, : int(seen[path].lengths[0])].float().cpu())
            if min(sum(map(len, parts)) for parts in found.values()) >= TRAINED_ON["frames"]:
                break
    for path in missing:
        vectors = torch.cat(found[path])[: TRAINED_ON["frames"]]
        trained = train_quantiser(vectors, observer.taps[path].size, TRAINED_ON["seed"])
        trained.write(files[path])
        lost = f"{100 * trained.error(vectors):.1f} % of the variance is lost"
        print(f"{files[path]}: {trained.codebooks} codebooks from {len(vectors)} frames: {lost}", flush=True)
    return {path: fingerprint(file) for path, file in files.items()}


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
    chosen = data.chosen(range(0, len(data), -(-len(data) // SAMPLE)))
    utt, (wav, text) = chosen[0]
    observer(utt, wav, text)  # not timed: the first one takes longer
    started, size = time.perf_counter(), 0
    for record in observer.records(chosen):
        size += INDEX_BYTES + sum(rows.nbytes for rows in record.rows.values())
    scale = len(data) / len(chosen)
    return CostEstimate(size * scale, (time.perf_counter() - started) * scale)


def peak_memory(device: str) -> str:
    """Return the most memory that this process has taken so far, for the user."""
    if device == "cuda":
        return f"{megabytes(torch.cuda.max_memory_allocated())} of GPU memory"
    return f"{megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)} of memory"


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
