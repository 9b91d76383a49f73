"""The parsers of the package, each with valid inputs; files are in memory. Import ``harness`` first."""

import argparse
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import audio_headers
import fabricated
from harness import ROOT
from hostile_archives import member
from stores import TAPS
from stores import make as make_store

from espnet_kd import parallel
from espnet_kd.commands import runs
from espnet_kd.commands.progress import Training
from espnet_kd.config import merge_files, parse_yaml
from espnet_kd.corpora.librispeech import read_md5sums
from espnet_kd.corpora.switchboard import read_acronyms
from espnet_kd.criteria import CRITERIA
from espnet_kd.data import statistics
from espnet_kd.data.audio import parse_rate
from espnet_kd.data.datadir import read_data_dir
from espnet_kd.data.dump import read_dump_tables
from espnet_kd.data.headers import find_damage, flac_info, is_shortened
from espnet_kd.data.perturb import parse_factors
from espnet_kd.data.tokens import read_symbols
from espnet_kd.data.unpack import _check_members
from espnet_kd.decoding import records as decoded
from espnet_kd.decoding.records import pseudo_label
from espnet_kd.experiments.comparisons import hours_of
from espnet_kd.experiments.records import read_records
from espnet_kd.files import read_table
from espnet_kd.methods import registered
from espnet_kd.methods.mutual import mutual_options, peer_changes
from espnet_kd.pseudo_label import mix
from espnet_kd.report import groups, history, tables
from espnet_kd.report.run import find_runs
from espnet_kd.schedule import build_schedule
from espnet_kd.scoring import alignment
from espnet_kd.scoring.hub5 import read_report
from espnet_kd.targets.format import checksum, read_index, read_manifest
from espnet_kd.tasks.asr import add_arguments
from espnet_kd.teachers.options import teacher_options, term_options

SLOW = 0.1  # share of an equal part of the inputs that a slow parser gets
MEMORY = Path("/dev/shm")  # where files are written, if it is there

LINE = b"[host] 2026-01-01 00:00:00 (abs_task:1300) INFO: "
LOG = b"".join(
    LINE + line + b"\n"
    for line in (
        b"[train] mini-batch sizes summary: N-batch=57, mean=16.2, min=9, max=20",
        b"1/20epoch started",
        b"1epoch:train:1-3batch: iter_time=0.12, loss_ctc=31.2, loss=27.1, acc=0.21, time=1.3",
        b"1epoch results: [train] iter_time=0.1, loss=27.4, train_time=1.2, time=1 minute and 3.5 seconds, "
        b"total_count=57, gpu_max_cached_mem_GB=0.000, [valid] loss_ctc=nan, acc=0.31, cer=0.8, loss=21.9, "
        b"time=2.3 seconds, total_count=4, gpu_max_cached_mem_GB=0.000, [att_plot] time=0.8 seconds",
        b"The training was finished at 20 epochs",
    )
)
REPORT = (
    b'<SYSTEM title="hyp.ctm" ref_fname="stm">\n<SPEAKER id="en_4156_a">\n'
    b'<PATH id="(en_4156_a-000)" word_cnt="2" labels="&lt;o&gt;" R_T1="3.0" R_T2="4.0">\n'
    b'C,"yes","yes",3.0+3.3:D,"i",,:S,"(th-)","uh",3.3+3.9:I,,"a",3.9+4.0\n</PATH>\n</SPEAKER>\n</SYSTEM>\n'
)
ACRONYMS = b"# Switchboard\nIBM ay b iy eh m\nTVs t iy v iy z\nNAACP eh n\nword w er d\n\nA ey\n"
DATA = {
    "wav.scp": b"r-1 /c/r-1.sph\nr-2 /c/r-2.wav\n",
    "text": b"a-1 ONE TWO\na-2 THREE\nb-1 FOUR\n",
    "utt2spk": b"a-1 a\na-2 a\nb-1 b\n",
    "utt2speed": b"a-1 0.9\nb-1 1.1\n",
    "utt2ref_channels": b"a-1 0\na-2 1\nb-1 0\n",
    "segments": b"a-1 r-1 0.0 1.5\na-2 r-1 1.5 2.25\nb-1 r-2 0 3\n",
}
DUMP = {
    "wav.scp": b"a-1 a.flac\nb-1 b.flac\n",
    "text": b"a-1 A\nb-1 B\n",
    "utt2spk": b"a-1 a\nb-1 b\n",
    "utt2num_samples": b"a-1 16000\nb-1 32000\n",
}
COUNTS = {"hits": 3, "substitutions": 1, "deletions": 0, "insertions": 2, "reference": 4, "errors": 3}
SCORE = {
    **{"sentences": 1, "wer": COUNTS, "cer": COUNTS},
    "utterances": {"u1": {"wer": [3, 4], "cer": [3, 4]}},
}
PLAN_SET = {"set": "dev", "reference": {"u1": [3, 14], "u2": [1, 4]}}
PLAN_RECORD = {
    **{"row": "a", "seed": 1, "length": "1x", "command": "./run.sh", "commit": None, "updates": 9},
    **{"environment": {"gpus": []}, "cpu_seconds": 1.5, "seconds": 2.0, "parameters": 6, "elsewhere": False},
    **{"teacher_rows": [["b", 1, None]], "targets_cpu_seconds": None, "curve": {"acc": [0.5]}},
    "errors": {"dev": {"wer": [[1, 0, 0], [0, 1, 0]], "cer": [[1, 0, 0], [0, 4, 0]]}},
}
PART = {"utterances": 4, "hours": 1.0, "tokens": 7, "score_quantiles": {"0": -1.0}}
LABELS = {"decoded": PART, "kept": PART, "references": None, "filters": []}
PSEUDO_ID = {"text": "A B", "tokens": 3, "unknown": 0, "score": -1.5, "scores": {"ctc": -3.0}}
DECODED = {"utt": "u1", "samples": 16000, "rate": 16000, "nbest": [PSEUDO_ID, PSEUDO_ID]}
RUN = {
    **{"role": "student", "command": "./run.sh", "configs": ["a.yaml"], "teachers": [], "done": True},
    **{"mix": None, "previous": None, "generation": 1, "started": 1.5, "ended": 2.5, "interruptions": 0},
    "data": {"x": "y"},
}
CLUSTERS = (
    {"type": "slurm", "workers": 4, "options": {"queue": "gpu", "cores": 1}},
    {"type": "local", "options": {}},
)
ARCHIVE = [["a/b", "0", ""], ["a/l", "2", "../b"], ["c", "1", "a/b"], ["d", "5", ""]]
TERM = {"type": "kl", "weight": 0.5, "tap": "ctc.ctc_lo", "temperature": 2.0, "reduction": "utterance"}
WARMUP = {"schedule": "warmup", "to": 1, "steps": 9}
TERMS = [
    {"ctc": TERM, "att": {**TERM, "tap": "decoder"}},
    {"h": {"type": "hidden", "student_tap": "encoder", "teacher_tap": "encoder.encoders.1", "weight": 2}},
    *({"one": {"type": name, "tap": "encoder", "weight": WARMUP}} for name in CRITERIA),
]
SCHEDULE = {"schedule": "linear", "from": 0.0, "to": 0.3, "begin": 20, "steps": 300}
TEACHER = {
    **{"exp": ["exp/a", "exp/b"], "weights": [1, 2.5], "mean": "logits"},
    **{"checkpoint": "x.pth", "store": "s", "k": 4},
}
PEERS = {
    **{"peers": [{"seed": 7, "encoder_conf": {"num_blocks": 6}}], "weight": 0.5, "combine": "add"},
    **{"targets": "each", "specaug": "shared", "ss_prefix": "own"},
    "criteria": {"att": {"type": "kl", "tap": "decoder"}},
}
OPTIONS = {"criteria": TERMS[0], "teacher": TEACHER, "mutual": {}, "targets": "soft", "task_weight": 0.5}
OF_ESPNET = {
    **{"init_param": [], "freeze_param": [], "specaug": None, "specaug_conf": {}, "init_from_teacher": {}},
    **{"iterator_type": "sequence", "shuffle_within_batch": False, "share_per_batch": None},
    **{"scheduled_sampling": {}, "prefix": {}, "model_conf": {}, "quantise": {}, "prune": {}},
}
WORDS = "--criteria|ctc={type: kl, tap: ctc.ctc_lo, weight: 0.5}|--teacher|exp=exp/t|--task_weight|0.5"


@dataclass(frozen=True)
class Target:
    """A parser and its valid inputs.

    Attributes:
        seeds: valid inputs: bytes, or trees of plain values.
        run: parses one.
        where: what an error must name.
        also: errors that its docstring declares beside ``UserError``.
        share: of the inputs, compared with the others.
        text: of a tree that is written as bytes.
    """

    seeds: list[Any]
    run: Callable[[Any], object]
    where: str = ""
    also: tuple[type[Exception], ...] = ()
    share: float = 1.0
    text: Callable[[Any], bytes] | None = None


@functools.cache
def targets() -> dict[str, Target]:
    """Return all parsers by name; their files are in memory, in a folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix="attack", dir=MEMORY if MEMORY.is_dir() else None))
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=1)
    from transcripts import of_corpora

    parts = (of_files, of_records, of_settings, of_corpora, of_directories, of_options)
    return {name: target for part in parts for name, target in part(folder).items()}


def file(path: Path, parse: Callable[[Path], object], *seeds: Any, where: str = "", **more: Any) -> Target:
    """Return the target for a parser of one file."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return parse(path)

    return Target(list(seeds), read, where or path.name, **more)


def as_json(tree: Any) -> bytes:
    """Return JSON, which is YAML, too."""
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def of_files(folder: Path) -> dict[str, Target]:
    """Return parsers of tables, lists, logs and headers."""

    def follow(path: Path) -> None:
        training = Training()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            training.read(line)
        assert 0 <= training.fraction <= 1

    def head(path: Path) -> object:
        return find_damage(path, 16000), is_shortened(path)

    heads = [data[:4000] for data in audio_headers.wholes().values()]
    flac = [data for data in heads if data.startswith(b"fLaC")]
    lines = (b"a-1 ONE TWO\na-2 THREE\nb-1\n", "ä-1 日本 語\r\nb\tx y\n".encode())
    sums = b"0123456789abcdef0123456789abcdef  dev-clean.tar.gz\n" * 2
    log = folder / "exp/train.log"
    return {
        "audio head": file(folder / "audio", head, *heads, share=2),
        "FLAC head": file(folder / "a.flac", flac_info, *flac),
        "table": file(folder / "text", read_table, *lines, share=4),
        "symbols": file(folder / "nlsyms.txt", read_symbols, b"<noise>\n<laugh>\n[x]\n"),
        "acronyms": file(folder / "sw-ms98-dict.text", read_acronyms, ACRONYMS),
        "md5sums": file(folder / "md5sum.txt", read_md5sums, sums),
        "report of hubscr": words(lambda text: [a.counts for a in read_report(text).values()], REPORT),
        "training log, live": file(folder / "live.log", follow, LOG, share=SLOW),
        "training log": file(log, lambda p: history.read_history(p.parent).seconds(), LOG, share=SLOW),
    }


def of_records(folder: Path) -> dict[str, Target]:
    """Return parsers of files that the package writes and reads."""
    store = folder / "store"
    make_store(store)
    manifest = json.loads((store / "manifest.json").read_text())
    index = [json.loads(row) for row in (store / "00001/index.jsonl").read_text().splitlines()]
    write(folder / "decode/settings.json", b'{"shards": 1}')

    def signed(tree: Any) -> bytes:
        if isinstance(tree, dict):
            tree = {key: value for key, value in tree.items() if key != "checksum"}
            tree["checksum"] = checksum(tree)
        return as_json(tree)

    def rows(tree: Any) -> bytes:
        return b"".join(as_json(row) + b"\n" for row in (tree if isinstance(tree, list) else [tree]))

    def use_manifest(path: Path) -> object:
        found = read_manifest(path.parent)
        return [tap.row for tap in found.taps.values()], found.hours, found.utterances

    def record(name: str, parse: Callable[[Path], object], seed: Any) -> Target:
        return file(folder / name, lambda path: parse(path.parent), seed, text=as_json)

    labels = [DECODED, DECODED | {"nbest": []}]
    return {
        "score.json": record("test/score.json", alignment.read_score, SCORE),
        "pseudo-labels' manifest": record("pseudo/manifest.json", mix.manifest_summary, LABELS),
        "shards' settings": record("shards/settings.json", parallel.read_settings, {"shards": 3, "a": {}}),
        "run.json": record("exp2/run.json", runs.read_record, RUN),
        "decoded shard": file(
            folder / "decode/00001.jsonl",
            lambda path: [pseudo_label(found) for found in decoded.read_decoded(path.parent)],
            labels,
            text=rows,
        ),
        "records of a plan": file(
            folder / "plan.jsonl",
            lambda path: [(hours_of(found), found.rate("dev", "wer")) for found in read_records(path)],
            [PLAN_SET, PLAN_RECORD],
            text=rows,
        ),
        "store's manifest": file(store / "manifest.json", use_manifest, manifest, where="store", text=signed),
        "store's index": file(folder / "index.jsonl", lambda p: read_index(p, list(TAPS)), index, text=rows),
    }


def of_settings(folder: Path) -> dict[str, Target]:
    """Return parsers of YAML configurations, and of the list of members of an archive."""
    files = sorted((ROOT / "egs").glob("*/kd1/conf/*.yaml"))
    configs = [parse_yaml(path.read_text()) for path in files if path.stat().st_size < 4000]

    def config(path: Path) -> object:
        return statistics.front_end(merge_files([path, path]), fs="16k")

    def archive(tree: Any) -> object:
        rows = tree if isinstance(tree, list) else []
        members = [member(*map(str, row)) for row in rows if isinstance(row, list) and len(row) == 3]
        for info in members:
            info.type = str(info.type)[:1].encode("latin-1", "replace")
        return _check_members(Path("a.tar"), members)

    workers = folder / "cluster.yaml"
    return {
        "YAML configuration": file(folder / "train.yaml", config, *configs, text=as_json, share=0.5),
        "cluster": file(workers, lambda p: parallel.parse_cluster(str(p), None), *CLUSTERS, text=as_json),
        "members of an archive": Target([ARCHIVE], archive, "a.tar"),
    }


def of_directories(folder: Path) -> dict[str, Target]:
    """Return parsers of data directories and experiments, of which one file is damaged."""
    recipe = folder / "recipe" / "exp"
    fabricated.write_recipe(recipe)
    paths = [p for p in recipe.rglob("*") if p.suffix in (".yaml", ".json")]
    members = {str(p.relative_to(recipe)): p.read_bytes() for p in paths}

    def report(exp: Path) -> object:
        found = groups.make_groups(find_runs(list(exp.iterdir()), ["test", "dev"], []))
        return tables.runs(found, ["test"]), tables.commands(found), tables.warnings(found, ["test"])

    return {
        "data directory": directory(folder / "data", DATA, read_data_dir, 2),
        "dump directory": directory(folder / "dump", DUMP, read_dump_tables, 1),
        "experiments": directory(recipe, members, report, SLOW),
    }


def directory(root: Path, files: dict[str, bytes], parse: Callable[[Path], Any], share: float) -> Target:
    """Return the target for a parser of several files, of which one is damaged; inputs: name and content."""
    for name, content in files.items():
        write(root / name, content)

    def read(data: bytes) -> object:
        name, _, content = data.partition(b"\n")
        if (key := name.decode("latin-1")) not in files:
            return None
        try:
            (root / key).write_bytes(content)
            return parse(root)
        finally:
            (root / key).write_bytes(files[key])

    seeds = [name.encode() + b"\n" + content for name, content in files.items()]
    return Target(seeds, read, root.name, share=share)


def of_options(folder: Path) -> dict[str, Target]:
    """Return parsers of options of distillation, from a configuration or a command line."""

    def terms(tree: Any) -> object:
        return [(t.build(), t.term.weight(3)) for t in term_options(tree)]

    def command(text: str) -> object:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return check_all(vars(parser.parse_args(text.split("\n"))))

    def check(tree: Any) -> object:
        return check_all(tree if isinstance(tree, dict) else {})

    def check_all(changes: dict[str, Any]) -> object:
        args = argparse.Namespace(**{**OF_ESPNET, **OPTIONS, **changes})
        return [method.check(args, 30) for method in registered()]

    def peers(tree: Any) -> object:
        return mutual_options(tree), peer_changes(tree)

    weights = [SCHEDULE, 0.5, {**SCHEDULE, "schedule": "cosine"}]
    return {
        "option teacher": Target([TEACHER, {"exp": "exp/a"}], teacher_options),
        "option criteria": Target(TERMS, terms),
        "schedule": Target(weights, lambda tree: build_schedule(tree, "w")(9)),
        "option mutual": Target([PEERS, {**PEERS, "peers": 3}], peers),
        "all options": Target([OPTIONS], check),
        "command line": words(command, WORDS.replace("|", "\n").encode(), share=SLOW),
        "rate": words(parse_rate, b"16k", b"8000", b"44.1k", share=0.5),
        "speeds": words(parse_factors, b"0.9 1.0 1.1", share=0.5),
        "options of statistics": words(
            lambda text: statistics.front_end({}, text, "16k"),
            b"--frontend_conf n_fft=400 --frontend default --seed 3",
            share=0.5,
        ),
    }


def words(parse: Callable[[str], object], *seeds: bytes, share: float = 1.0) -> Target:
    """Return the target for a parser of a text."""
    return Target(list(seeds), lambda data: parse(data.decode("utf-8", "replace")), share=share)


def write(path: Path, data: bytes) -> Path:
    """Write a file and, if needed, its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
