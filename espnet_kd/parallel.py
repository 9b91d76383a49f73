"""Work on many utterances in shards: in this process, in others of this machine, or on a Dask cluster.

``DIR/settings.json`` says what the shards were made with; ``DIR/00001`` and so on hold the utterances, sorted
by their ids, however many workers made them.

A YAML file describes a cluster; ``options`` go to the class of Dask or dask-jobqueue as they are::

    type: slurm        # local, ssh, scheduler (a running one, options: address), or one of dask-jobqueue
    workers: 16        # default of --workers
    options: {queue: gpu, cores: 1, processes: 1, memory: 8GB, walltime: "04:00:00"}

All workers need the same files under the same paths, and an interpreter with espnet_kd. Whoever reaches a
scheduler can have anything run by its workers: those that are started here take only encrypted connections
with the key of this one run. A running scheduler is as safe as it was made: ``options: {address: "tls://...",
security: {tls_ca_file: ..., tls_client_cert: ..., tls_client_key: ...}}``.
"""

import importlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_kd.config import read_config
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, locked, read_json

SETTINGS = "settings.json"
PER_SHARD = 100  # utterances; what a killed worker has to do again at most


@dataclass(frozen=True)
class Shard:
    """Utterances that are worked on together: id, and what a worker has to know of it."""

    path: Path
    utterances: tuple[tuple[str, Any], ...]


def plan(
    directory: Path,
    utterances: Mapping[str, Any],
    count: int | None = None,
    suffix: str = ".jsonl",
) -> list[Shard]:
    """Cut the utterances, in order of their ids, into shards of equal size (give or take one).

    The number of workers is no matter, so that it may differ when the command is repeated.

    Args:
        utterances: id to what a worker has to know.
        count: number of shards; None takes one for every ``PER_SHARD`` utterances.
        suffix: of their names.
    """
    order = sorted(utterances)
    count = min(count or -(-len(order) // PER_SHARD), len(order))
    edges = [len(order) * i // count for i in range(count + 1)]
    return [
        Shard(
            directory / f"{i + 1:05d}{suffix}",
            tuple((u, utterances[u]) for u in order[edges[i] : edges[i + 1]]),
        )
        for i in range(count)
    ]


@contextmanager
def claimed(directory: Path, settings: Mapping[str, Any], what: str = "decoded shards") -> Iterator[None]:
    """Hold a directory for shards of these settings; no other run gets it meanwhile.

    Args:
        what: is kept in it, for the message of an error.

    Raises:
        UserError: it has shards of other settings or other files, or another run works in it.
    """
    with locked(directory, f"another run works in {directory}: wait for it, or stop it"):
        _check_settings(directory, settings, what)
        _sweep(directory)
        yield
        _sweep(directory)


def read_settings(directory: Path) -> dict[str, Any]:
    """What the shards of a directory were made with.

    Raises:
        UserError: they have no or a damaged settings.json.
    """
    path = directory / SETTINGS
    if not path.exists():
        raise UserError(f"{directory} is not finished or something else: there is no {SETTINGS}")
    try:
        return read_json(path)
    except UserError as e:
        raise UserError(f"{e}: remove {directory} and make it again") from None


def _check_settings(directory: Path, settings: Mapping[str, Any], what: str) -> None:
    """Make ``directory`` ready: nothing in it is of other settings or half-written."""
    present = [p for p in directory.iterdir() if not p.name.startswith(".")]
    if (directory / SETTINGS).exists():
        before = read_settings(directory)
        differing = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
        if differing:
            raise UserError(
                f"{directory} holds shards of another {' and '.join(differing)} "
                f"({_difference(before, settings, differing[0])}): repeat the command as it was, "
                "give another directory, or remove this one"
            )
    elif present:
        raise UserError(f"{directory} holds something else than {what}: give another directory")
    with atomic_path(directory / SETTINGS) as temporary:
        temporary.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sweep(directory: Path) -> None:
    """Remove what killed workers have left half-written."""
    for leftover in directory.glob(".[0-9]*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    """The first value that differs, such as ``beam_size 5, now 10``."""
    one, two = before.get(key), now.get(key)
    while True:
        if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
            one, two = next((a, b) for a, b in zip(one, two, strict=True) if a != b)
        elif isinstance(one, dict) and isinstance(two, dict):
            key = min(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))
            one, two = one.get(key), two.get(key)
        else:
            break
    return f"{key} {_short(one)}, now {_short(two)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


KINDS = {
    "local": ("dask.distributed", "LocalCluster"),
    "ssh": ("dask.distributed", "SSHCluster"),
    "scheduler": ("dask.distributed", "Client"),
    "slurm": ("dask_jobqueue", "SLURMCluster"),
    "pbs": ("dask_jobqueue", "PBSCluster"),
    "sge": ("dask_jobqueue", "SGECluster"),
    "lsf": ("dask_jobqueue", "LSFCluster"),
    "oar": ("dask_jobqueue", "OARCluster"),
    "moab": ("dask_jobqueue", "MoabCluster"),
    "htcondor": ("dask_jobqueue", "HTCondorCluster"),
}
# One thread a worker, so that the result does not depend on how many there are; models may take all memory.
LOCAL = {"processes": True, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None}
# Dask's web pages, which anyone could read, are left out: they are not encrypted.
NO_PAGES = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
Work = Callable[[Shard], Shard]


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and how many workers on it."""

    kind: str
    workers: int
    options: dict[str, Any] = field(default_factory=dict)


def parse(cluster: str, workers: int | None, gpu: bool = False) -> Cluster:
    """The cluster of the command line.

    Args:
        cluster: ``local`` or a YAML file.
        workers: None takes what the file says; for this machine its number of cores, or of GPUs.
        gpu: the work is done on GPUs.

    Raises:
        UserError: the file is not as above, or not one worker is wanted.
    """
    config = {"type": "local"} if cluster == "local" else read_config(Path(cluster))
    unknown = config.keys() - {"type", "workers", "options"}
    if unknown:
        unknown_key = min(map(str, unknown))
        raise UserError(f"{cluster}: unknown key {unknown_key}: a cluster has type, workers and options")
    kind, options = config.get("type"), config.get("options") or {}
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{cluster}: no cluster type {kind!r}: there are {', '.join(KINDS)}")
    if not isinstance(options, dict):
        raise UserError(f"{cluster}: options are `key: value` lines, not a {type(options).__name__}")
    number = config.get("workers") if workers is None else workers
    if number is None and kind == "local":
        number = _processors(gpu)
    if number is None and KINDS[kind][0] == "dask_jobqueue":
        raise UserError(f"{cluster}: how many workers? Give `workers` there or --workers")
    number = 1 if number is None else number  # Dask knows how many there are
    if type(number) is not int or number < 1:
        source = f"{cluster}: " if workers is None else "--"
        raise UserError(f"{source}workers: {number!r} is not a number from 1 up")
    return Cluster(kind, number, options)


def run(shards: list[Shard], work: Work, cluster: Cluster) -> Iterator[Shard]:
    """Do all the work; yields shards as they are finished.

    A worker that dies is replaced and its shard begun again, until it has died of that shard several times.

    Raises:
        UserError: the work did, the cluster does not start, or workers die of a shard.
    """
    if cluster.kind == "local" and cluster.workers == 1 and not cluster.options:
        yield from map(work, shards)
        return
    from dask.distributed import KilledWorker, as_completed

    with client(cluster, min(cluster.workers, len(shards)), shards[0].path.parent) as dask:
        futures = {dask.submit(work, shard, pure=False): shard for shard in shards}
        for future in as_completed(futures):
            try:
                yield future.result()
            except KilledWorker:
                raise UserError(
                    f"the worker of {futures[future].path} was killed again and again, perhaps for lack of "
                    "memory: use fewer workers; the same command goes on"
                ) from None


@contextmanager
def secured(cluster: Cluster, shared: Path) -> Iterator[dict[str, Any]]:
    """Options by which all of a cluster's connections are encrypted, with a key of its own.

    Args:
        shared: directory that all of its machines see; the key is in files there that only the user can read.

    Raises:
        UserError: a package is missing.
    """
    given = cluster.options
    in_process = cluster.kind == "local" and given.get("processes") is False  # no connection at all
    if cluster.kind == "scheduler" or in_process or "security" in given or "protocol" in given:
        yield {}
        return
    from dask.distributed import Security

    try:
        security = Security.temporary()
    except ImportError:
        raise UserError("several workers need the package cryptography: pip install cryptography") from None
    if cluster.kind == "local":
        yield {"security": security, "host": "127.0.0.1"}
        return
    shared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tls-", dir=shared) as directory:
        if KINDS[cluster.kind][0] == "dask_jobqueue":  # writes the files
            quiet = {**NO_PAGES, **(given.get("scheduler_options") or {})}
            yield {"security": security, "shared_temp_directory": directory, "scheduler_options": quiet}
            return
        files = _write_keys(security, Path(directory))
        both = {"protocol": "tls://", "security": files}
        names = ("worker_options", "scheduler_options")
        sides = {name: {**both, **(given.get(name) or {})} for name in names}
        sides["scheduler_options"] = {**NO_PAGES, **sides["scheduler_options"]}
        yield {"security": security, **sides}


def _write_keys(security: Any, directory: Path) -> dict[str, Any]:
    """The arguments of ``Security`` with files in the place of keys, so that none is on a command line."""
    files: dict[str, Any] = {"require_encryption": True}
    for name in (
        "tls_ca_file", "tls_client_key", "tls_client_cert", "tls_scheduler_key", "tls_scheduler_cert",
        "tls_worker_key", "tls_worker_cert",
    ):  # fmt: skip
        path = directory.resolve() / f"{name}.pem"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(getattr(security, name))
        files[name] = str(path)
    return files


@contextmanager
def client(cluster: Cluster, workers: int, shared: Path) -> Iterator[Any]:
    """A client of a started cluster; both are closed at the end."""
    from dask.distributed import Client

    module, name = KINDS[cluster.kind]
    make = getattr(importlib.import_module(module), name)
    if module == "dask_jobqueue":  # it would wait for its workers for ever
        submit = shlex.split(make.job_cls.submit_command)[0]
        if not shutil.which(submit):
            raise UserError(f"the {cluster.kind} cluster needs the command {submit}, which is not here")
    local = {**LOCAL, "n_workers": workers, "silence_logs": "ERROR"} if cluster.kind == "local" else {}
    with ExitStack() as stack:
        keys = stack.enter_context(secured(cluster, shared))
        try:
            made = stack.enter_context(make(**{**local, **cluster.options, **keys}))
        except (ImportError, TypeError, ValueError, OSError, RuntimeError) as e:
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise UserError(f"the {cluster.kind} cluster does not start: {reason}") from None
        if cluster.kind == "scheduler":
            yield made
            return
        if module == "dask_jobqueue":
            made.scale(n=workers)
        yield stack.enter_context(Client(made))


def _processors(gpu: bool) -> int:
    if not gpu:
        return len(os.sched_getaffinity(0))
    import torch

    if not torch.cuda.is_available():
        raise UserError("--ngpu 1: this machine shows no GPU to PyTorch")
    return torch.cuda.device_count()


def device_of_worker(kind: str) -> str:
    """A GPU of this machine's for each of its workers in turn; workers of other clusters see their own."""
    if kind != "cuda":
        return kind
    import torch
    from dask.distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:  # not in a cluster
        return kind
    return f"cuda:{name % torch.cuda.device_count()}" if isinstance(name, int) else kind
