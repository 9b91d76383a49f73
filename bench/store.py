"""Measure the target store: bytes per hour, records written and read per second, time that reading adds."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn
from numpy.typing import NDArray

from bench.online_teacher import TAPS as TAP_PATHS
from bench.online_teacher import training_step
from bench.report import table, verdict
from bench.speech_model import SAMPLE_RATE, TOKENS, TOKENS_PER_SECOND, ModelSize, batch, build
from bench.timing import Timing, interleaved, ratio
from espnet_kd.criteria import build_criterion
from espnet_kd.files import fingerprint
from espnet_kd.methods.distilled import Objective, distil
from espnet_kd.schedule import Schedule
from espnet_kd.targets.format import Manifest, ShardEntry, TapFormat, TargetRecord, text_checksum, write_shard
from espnet_kd.targets.store import Store
from espnet_kd.targets.teacher import StoredTeacher, WithStoredTargets
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import Taps

# Limits: MB per hour; a step relative to the plain one; making a batch, elsewhere, relative to a step.
MEGABYTES, STEP, MAKING = 3.5, 1.05, 0.5
K, FRAME_RATE = 8, 25
UTTERANCES, SECONDS, WORDPIECES = 512, 7.0, 2000  # WORDPIECES tokens in all, about 3.4 a second
TOKEN_RATE = 3.4
PER_SHARD = 100


def main() -> bool:
    """Measure a store like Switchboard's, then a step of an AN4 student; True if targets are met."""
    with tempfile.TemporaryDirectory() as folder:
        return _container(Path(folder)) & _step(Path(folder))


def _container(folder: Path) -> bool:
    """Write and read a store and a Kaldi ark of the same records; True if the store is small enough."""
    taps = {"ctc.ctc_lo": TapFormat("topk", WORDPIECES, K), "decoder": TapFormat("topk", WORDPIECES, K)}
    records = make_records(taps, {"ctc.ctc_lo": FRAME_RATE, "decoder": TOKEN_RATE})
    started = time.perf_counter()
    store = write(folder / "store", records, taps)
    rows = [_row("ours", folder / "store", time.perf_counter() - started, store.read, records)]
    started = time.perf_counter()
    read = write_ark(folder / "ark", records)
    rows.append(
        _row("Kaldi ark of numpy arrays", folder / "ark", time.perf_counter() - started, read, records)
    )
    head = ["container", "MB per hour", "records written per second", "read per second, in random order"]
    print(
        f"{UTTERANCES} utterances of {SECONDS} s, {WORDPIECES} tokens, K = {K}, {FRAME_RATE} Hz and decoder\n"
    )
    print(table(head, rows) + "\n")
    line, met = verdict("MB per hour of speech, all included", float(rows[0][1]), at_most=MEGABYTES)
    print(line)
    return met


def _row(
    name: str, folder: Path, seconds: float, read: Callable[[str], Any], records: list[TargetRecord]
) -> list[str]:
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    hours = sum(record.samples for record in records) / SAMPLE_RATE / 3600
    order = np.random.default_rng(1).permutation([record.utt for record in records])
    started = time.perf_counter()
    for utt in order:
        read(str(utt))
    rate = len(records) / (time.perf_counter() - started)
    return [name, f"{size / 1e6 / hours:.2f}", f"{len(records) / seconds:.0f}", f"{rate:.0f}"]


def make_records(
    taps: dict[str, TapFormat], rates: dict[str, float], count: int = UTTERANCES, seconds: float = SECONDS
) -> list[TargetRecord]:
    """Make records of random targets."""
    random = np.random.default_rng(0)
    return [
        TargetRecord(
            f"sw{i:06d}-{i * 37 % 1000000:06d}", int(seconds * SAMPLE_RATE), None,
            {path: _rows(round(seconds * rates[path]), tap, random) for path, tap in taps.items()},
        )
        for i in range(count)
    ]  # fmt: skip


def _rows(count: int, tap: TapFormat, random: np.random.Generator) -> NDArray[Any]:
    rows = np.zeros(count, tap.row)
    rows["tokens"] = random.permuted(np.tile(np.arange(tap.size), (count, 1)), axis=1)[:, : tap.k]
    p = random.dirichlet(np.full(tap.k, 0.3), count)
    rows["log_probs"] = np.log(np.maximum(-np.sort(-p), 1e-4))
    return rows


def write(
    folder: Path, records: list[TargetRecord], taps: dict[str, TapFormat], probe: dict[str, int] | None = None
) -> Store:
    """Write a store of these records."""
    entries = []
    for start in range(0, len(records), PER_SHARD):
        part, name = records[start : start + PER_SHARD], f"{start // PER_SHARD + 1:05d}"
        write_shard(folder / name, part, taps)
        index = fingerprint(folder / name / "index.jsonl")
        entries.append(ShardEntry(name, part[0].utt, len(part), index))
    samples = sum(record.samples for record in records)
    Manifest((), "", {}, taps, probe or {}, SAMPLE_RATE, tuple(entries), samples).write(folder)
    return Store(folder)


def write_ark(folder: Path, records: list[TargetRecord]) -> Callable[[str], Any]:
    """Write the rows by kaldiio, one ark and scp per tap; return a function that reads an utterance."""
    folder.mkdir()
    for tap in records[0].rows:
        with kaldiio.WriteHelper(
            f"ark,scp:{folder / tap}.ark,{folder / tap}.scp", write_function="numpy"
        ) as f:
            for record in records:
                f(record.utt, record.rows[tap].view(np.uint8))
    tables = [kaldiio.load_scp(f"{folder / tap}.scp") for tap in records[0].rows]
    return lambda utt: [t[utt] for t in tables]


def _step(folder: Path) -> bool:
    """Time a training step of the AN4 student: plain, and with stored targets, read before or within it."""
    size, utterances, seconds, rounds = ModelSize(3, 48), 8, 2.5, 20
    torch.manual_seed(0)
    data = batch(utterances, seconds)
    student = build(size)
    with torch.no_grad():
        frames = int(student.encode(data["speech"], data["speech_lengths"])[1].max())
    rates = {"ctc.ctc_lo": frames / seconds, "decoder": TOKENS_PER_SECOND + 1 / seconds}
    taps = {path: TapFormat("topk", len(TOKENS), K) for path in TAP_PATHS}
    made = make_records(taps, rates, utterances, seconds)
    texts = data["text"].tolist()
    store = write(
        folder / "an4",
        [replace(r, text=text_checksum(text)) for r, text in zip(made, texts, strict=True)],
        taps,
    )
    names = [record.utt for record in made]
    teacher = StoredTeacher(store, TAP_PATHS)
    step = training_step(distilled(build(size), teacher), data, utt_id=names)
    prepare = WithStoredTargets(None, folder / "an4", TAP_PATHS)
    samples = {
        utt: {"speech": data["speech"][i].numpy(), "text": data["text"][i].numpy()}
        for i, utt in enumerate(names)
    }

    def load() -> dict[str, Any]:
        forget(folder / "an4")
        return CommonCollateFn(int_pad_value=-1)(
            [(utt, prepare(utt, dict(one))) for utt, one in samples.items()]
        )[1]

    def cold_step() -> None:
        forget(folder / "an4")
        step()

    loaded = training_step(distilled(build(size), teacher), load(), utt_id=names)
    variants = {
        "plain step": training_step(student, data),
        "step with targets that came with the batch": loaded,
        "making the batch, cold, in another process": load,
        "step that reads targets, cold": cold_step,
        "step that reads targets": step,
    }
    timings = interleaved(variants, rounds)
    rows = [[name, *timing.cells()] for name, timing in timings.items()]
    print(f"\nstudent {size}, {utterances} x {seconds} s, CTC and decoder, K = {K}\n")
    print(table(["variant", "median ms", "min ms", "max ms"], rows) + "\n")
    return _judge(timings)


def forget(directory: Path) -> None:
    """Let the system drop the files of a store from its memory, so that the next read is from the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _judge(timings: dict[str, Timing]) -> bool:
    """Print the ratios of a step; return True if they meet the targets."""
    plain, stored, making, cold, warm = timings.values()
    for name, timing in (("cold", cold), ("warm", warm)):
        print(f"step that reads targets, {name} / plain step: {ratio(timing, [plain]):.3f}")
    checks = [
        verdict("step with stored targets / plain step", ratio(stored, [plain]), at_most=STEP),
        verdict("making the batch / step with stored targets", ratio(making, [stored]), at_most=MAKING),
    ]
    print("\n".join(line for line, _ in checks))
    return all(met for _, met in checks)


def distilled(student: Any, teacher: StoredTeacher) -> Any:
    """Return the student with the teacher's top-k classes at CTC frames and decoder steps."""
    terms = tuple(Term(tap.split(".")[0], Schedule(0.5, 0.5), tap, tap) for tap in TAP_PATHS)
    method = Objective(teacher, Taps(student, TAP_PATHS), terms, Schedule(0.5, 0.5))
    return distil(
        student, method, {t.name: build_criterion("topk", k=K, reduction="utterance") for t in terms}
    )
