"""Measure time and peak memory of every stage on the lists of a million utterances, without audio.

``UTTERANCES=10000000 python -m bench scale`` measures ten million, which takes 40 GB of disk.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bench.report import table, verdict
from espnet_kd.files import fingerprint
from espnet_kd.targets.format import INDEX, Manifest, ShardEntry, TapFormat

UTTERANCES = int(os.environ.get("UTTERANCES", "1000000"))
PER_RECORDING, PER_SHARD, PER_SPLIT = 400, 100, 300_000  # utterances
STARTUP = 20.0  # CPU seconds that any number of utterances may take
WORDS, WRONG = (3, 15), 0.1  # words per utterance; share of wrong words in a hypothesis
# The peak memory of a process includes that of the process that starts it: so a small one starts it.
STARTER = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9]))
sys.exit(status)
"""
# Stage 3 without reading and encoding audio.
SILENT = """
import sys
from espnet_kd.data import archives, format
archives.convert_utterance = lambda utterance, fs: (range(80000), 0)
archives.frame_sound = lambda pcm, fs, container: b"AUDIO"
format.main(["--nj", "1", "--audio_format", "flac.ark", *sys.argv[1:]])
"""
# Stage 8 where all is decoded.
LABEL = """
import sys
from espnet_kd.decoding import shards
shards.decode_with_teacher = lambda *_: {}
from espnet_kd.pseudo_label.command import main
main(sys.argv[1:])
"""
# What `targets` does besides computing them: it plans all shards.
TARGETS = """
import sys
from pathlib import Path
from espnet_kd import parallel
from espnet_kd.targets.utterances import read_data
data = read_data([Path(sys.argv[1])], with_text=True)
paths = parallel.shard_paths(Path("store"), parallel.number_of_shards(len(data)), suffix="")
assert sum(len(shard.utterances) for shard in parallel.divide(data, len(data), paths)) == len(data)
"""
# What a training with stored targets does before it begins: it looks for those of every utterance.
STORED = """
import sys
from espnet_kd.data.tables import SortedTable
from espnet_kd.targets.store import Store
sys.exit(Store(sys.argv[1]).missing(SortedTable(sys.argv[2]).ids()) is not None)
"""
# A training up to the moment when its first batch would be read.
START = """
import os, sys
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
SequenceIterFactory.build_iter = lambda self, epoch, shuffle=None: os._exit(0)
from espnet_kd.tasks.train import main
main(sys.argv[1:])
"""
MODEL = """
encoder: transformer
encoder_conf: {output_size: 16, attention_heads: 1, linear_units: 16, num_blocks: 1}
decoder: none
model_conf: {ctc_weight: 1.0}
batch_type: numel
batch_bins: 20000000
num_iters_per_epoch: 3200
"""


class Stage(NamedTuple):
    """A command and its limits for a million utterances.

    Attributes:
        seconds: of CPU time, for a million.
        gigabytes: of memory, for any number of utterances.
    """

    command: list[object]
    seconds: float
    gigabytes: float = 2.0


def main(utterances: int = UTTERANCES, train: bool = True) -> bool:
    """Write lists, run each stage on them; return True within the limits."""
    rows, verdicts = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dump(root / "labelled", utterances, 0)
        write_data(root / "data", utterances)
        for name, stage in stages(root, utterances, train):
            wall, cpu, gigabytes = measured([str(word) for word in stage.command])
            rows.append([name, f"{wall:.0f}", f"{cpu:.0f}", f"{gigabytes:.2f}"])
            print(f"{name}: {cpu:.0f} s of CPU time, {gigabytes:.2f} GB", file=sys.stderr, flush=True)
            limit = max(STARTUP, stage.seconds * utterances / 1e6)
            verdicts.append(verdict(f"{name}: CPU seconds", cpu, at_most=limit))
            verdicts.append(verdict(f"{name}: GB", gigabytes, at_most=stage.gigabytes))
    print(f"{utterances} utterances of {WORDS[0]} to {WORDS[1]} words, without audio; mix: twice as many\n")
    print(table(["stage", "seconds", "CPU seconds", "peak GB"], rows) + "\n")
    print("\n".join(line for line, _ in verdicts))
    return all(met for _, met in verdicts)


def stages(root: Path, utterances: int, train: bool) -> Iterator[tuple[str, Stage]]:
    """Yield the stages, each after those whose output it reads; what is no longer read is removed."""
    kd: list[object] = [sys.executable, "-m", "espnet_kd"]
    dump, org, data = root / "labelled", root / "org", root / "data"
    yield "2 perturb, three speeds", Stage([*kd, "perturb", data, root / "sp"], 60)
    shutil.rmtree(root / "sp")
    for name in ("3 format into archives, lists", "3 format again"):
        yield name, Stage([sys.executable, "-c", SILENT, data, org], 60)
    yield "4 lengths", Stage([*kd, "lengths", "--max", "14", org, root / "kept"], 60)
    for folder in (org, data, root / "kept"):
        shutil.rmtree(folder)
    for kind in ("char", "bpe"):
        words = ["--token_type", kind, "--nbpe", "500", "--text", dump / "text", "--out", root / kind]
        yield f"5 tokens, {kind}", Stage([*kd, "tokens", *words], 60)
    for name in ("6 contents", "7 contents again, at a training's start"):
        yield name, Stage([*kd, "contents", dump], 60)
    yield "8 targets, their shards", Stage([sys.executable, "-c", TARGETS, dump], 60)
    write_store(root / "store", dump)
    looks = [sys.executable, "-c", STORED, root / "store", dump / "wav.scp"]
    yield "9 targets of every utterance are there", Stage(looks, 60)
    shutil.rmtree(root / "store")
    if train:
        yield from training(root, utterances)
    write_dump(root / "pseudo", utterances, 1)
    write_decoded(root / "decode", root / "pseudo")
    labels = ["--teacher", "none", "--data", root / "pseudo", "--dst", root / "labels"]
    labels += ["--decode_dir", root / "decode", "--keep_top", "90"]
    yield "8 pseudo-labels, filters", Stage([sys.executable, "-c", LABEL, *labels], 120)
    tokens = ["--token_type", "char", "--token_list", root / "char" / "tokens.txt"]
    sets = ["--labelled", dump, "--pseudo", root / "labels"]
    yield "8 mix", Stage([*kd, "mix", *sets, *tokens, root / "mix"], 120)
    shutil.rmtree(root / "mix")
    scored = ["--ref", dump / "text", "--hyp", dump / "hypothesis", "--out", root / "score"]
    yield "11 score", Stage([*kd, "score", *scored], 120, 20.0)


def training(root: Path, utterances: int) -> Iterator[tuple[str, Stage]]:
    """Yield the stages of a training, whose tables are split so that ESPnet has a part of them in memory."""
    dump, splits = root / "labelled", root / "splits"
    names = ["wav.scp", "text", "speech_shape", "text_shape.char"]
    tables = {name: dump / name for name in names}
    parts = -(-utterances // PER_SPLIT)
    if parts > 1:
        words = ["--scps", *tables.values(), "--num_splits", parts, "--output_dir", splits]
        yield "9 split", Stage([sys.executable, "-m", "espnet2.bin.split_scps", *words], 60)
        tables = {name: splits / name for name in names}
    valid = root / "valid"
    valid.mkdir()
    for name in names:
        with (dump / name).open() as f:
            (valid / name).write_text("".join(f.readline() for _ in range(100)))
    (root / "train.yaml").write_text(MODEL)
    options: list[object] = ["--task", "asr", "--config", root / "train.yaml", "--output_dir", root / "exp"]
    options += ["--token_type", "char", "--token_list", dump / "tokens.txt", "--num_workers", "0"]
    options += ["--multiple_iterator", "true"] if parts > 1 else []
    for part, files in (("train", tables), ("valid", {name: valid / name for name in names})):
        data = f"--{part}_data_path_and_name_and_type"
        options += [data, f"{files['wav.scp']},speech,kaldi_ark", data, f"{files['text']},text,text"]
        for name in names[2:]:
            options += [f"--{part}_shape_file", files[name]]
    yield "9 start of a training", Stage([sys.executable, "-c", START, *options], 60)
    shutil.rmtree(splits, ignore_errors=True)


def make_sentences(seed: int) -> list[str]:
    """Return sentences of random words."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    return [" ".join(rng.choices(words, k=rng.randint(*WORDS))) for _ in range(20_011)]


def write_tables(path: Path, rows: Iterator[tuple[str, dict[str, object]]]) -> None:
    """Write tables from rows of a key and its value in each of them."""
    files = {}
    for key, values in rows:
        files = files or {name: (path / name).open("w") for name in values}
        for name, value in values.items():
            files[name].write(f"{key} {value}\n")
    for file in files.values():
        file.close()


def write_data(path: Path, utterances: int) -> None:
    """Write a data directory whose utterances are pieces of recordings."""
    path.mkdir()
    sentences = make_sentences(0)

    def rows() -> Iterator[tuple[str, dict[str, object]]]:
        for i in range(utterances):
            name, start = f"speaker{i // PER_RECORDING:06d}", i % PER_RECORDING * 15
            values = {"text": sentences[i % len(sentences)], "utt2spk": name}
            yield f"{name}-{i:08d}", values | {"segments": f"{name} {start}.0 {start + 14.5}"}

    write_tables(path, rows())
    with (path / "wav.scp").open("w") as f:
        for i in range(-(-utterances // PER_RECORDING)):
            audio = path / "audio" / f"{i // 1000:03d}" / f"{i:06d}.flac"
            audio.parent.mkdir(parents=True, exist_ok=True)
            audio.write_text(str(i))
            f.write(f"speaker{i:06d} {audio}\n")


def write_dump(path: Path, utterances: int, seed: int) -> None:
    """Write a formatted directory with empty archives, hypotheses for it, and what ``mix`` reads."""
    path.mkdir()
    (path / "tokens.txt").write_text("<blank>\n<unk>\n<space>\na\n<sos/eos>\n")
    (path / "feats_type").write_text("raw\n")
    sentences, heard = make_sentences(seed), make_sentences(seed + 1)
    for i in range(-(-utterances // 1000)):
        archive = path / "data" / f"{i // 1000:03d}" / f"{i:06d}.ark"
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.write_text(str(i))

    def rows() -> Iterator[tuple[str, dict[str, object]]]:
        for i in range(utterances):
            speaker, text = f"speaker{i // PER_RECORDING:06d}", sentences[i % len(sentences)]
            samples = 30_000 + i * 7919 % 200_000
            yield (
                f"{speaker}-{i:08d}",
                {
                    "wav.scp": path
                    / "data"
                    / f"{i // 1_000_000:03d}"
                    / f"{i // 1000:06d}.ark:{i % 1000 * 250}",
                    "text": text,
                    "utt2spk": speaker,
                    "utt2num_samples": samples,
                    "speech_shape": samples,
                    "text_shape.char": f"{len(text)},5",
                    "hypothesis": heard[i % len(heard)] if i * 7919 % 1000 < 1000 * WRONG else text,
                },
            )

    write_tables(path, rows())


def write_decoded(path: Path, data: Path) -> None:
    """Write what a teacher has decoded: the texts of a formatted directory, with scores."""
    path.mkdir()
    with (data / "text").open() as texts, (data / "utt2num_samples").open() as counts:
        shards = -(-sum(1 for _ in counts) // PER_SHARD)
        counts.seek(0)
        (path / "settings.json").write_text(json.dumps({"shards": shards}))
        for i in range(shards):
            name = f"{i // 1000:04d}/{i + 1:07d}.jsonl" if shards > 10_000 else f"{i + 1:05d}.jsonl"
            (path / name).parent.mkdir(exist_ok=True)
            with (path / name).open("w") as f:
                for line in islice(texts, PER_SHARD):
                    utt, _, text = line.rstrip().partition(" ")
                    samples = int(counts.readline().split()[1])
                    best = {"text": text, "tokens": len(text), "unknown": 0, "score": -len(text)}
                    record = {"utt": utt, "samples": samples, "rate": 16000, "nbest": [best]}
                    f.write(json.dumps(record) + "\n")


def write_store(path: Path, data: Path) -> None:
    """Write the indexes and the manifest of a store of targets, without targets."""
    path.mkdir()
    shards = []
    with (data / "utt2num_samples").open() as counts:
        while rows := [line.split() for line in islice(counts, PER_SHARD)]:
            name = f"{len(shards) // 1000:04d}/{len(shards) + 1:07d}"
            index = path / name / INDEX
            index.parent.mkdir(parents=True)
            with index.open("w") as f:
                for utt, samples in rows:
                    line = {"utt": utt, "samples": int(samples), "text": 1, "audio": 1}
                    f.write(json.dumps({**line, "encoder": [int(samples) // 640, 1]}) + "\n")
            shards.append(ShardEntry(name, rows[0][0], len(rows), fingerprint(index)))
    Manifest((), "", {}, {"encoder": TapFormat("codes", 8)}, {}, 16000, tuple(shards)).write(path)


def measured(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds, CPU seconds and peak gigabytes."""
    process = subprocess.run([sys.executable, "-I", "-c", STARTER, *command], stdout=subprocess.PIPE)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    wall, cpu, gigabytes = json.loads(process.stdout)
    return wall, cpu, gigabytes
