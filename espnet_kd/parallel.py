"""Process many utterances in shards: in this process, in several processes, or on a Dask cluster.

``DIR/settings.json`` records the settings of the shards; ``DIR/00001`` and so on hold the utterances, sorted
by their ids. The files do not depend on the number of workers.

A YAML file describes a cluster; ``options`` go to the class of Dask or dask-jobqueue as they are::

    type: slurm        # local, ssh, scheduler (a running one, options: address), or one of dask-jobqueue
    workers: 16        # default of --workers
    options: {queue: gpu, cores: 1, processes: 1, memory: 8GB, walltime: "04:00:00"}

All workers need the same files under the same paths, and a Python with espnet_kd. Whoever can connect to a
scheduler can run any code on its workers, so schedulers that are started here accept only encrypted
connections with a key of this run. A scheduler that is running already must be secured by its owner:
``options: {address: "tls://...", security: {tls_ca_file: ..., tls_client_cert: ..., tls_client_key: ...}}``.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from espnet_kd.config import read_config
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import locked, read_json, write_text

SETTINGS = "settings.json"
PER_SHARD = 100  # utterances; at most so many are repeated after a worker is killed
FLAT = 10_000  # shards in one directory
AHEAD = 1000  # shards that wait in the scheduler; all of a large set would fill its memory
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
# One thread per worker, so that the result does not depend on the number of workers; no limit of memory.
LOCAL = {"processes": True, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None}
# Dask's web pages are switched off, because they are not encrypted.
NO_PAGES = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


@dataclass(frozen=True)
class Shard:
    """Utterances that are processed together: their ids, and what a worker needs for each.

    Attributes:
        cpu_seconds: CPU time that a worker has spent on them; work that measures it returns a copy with it.
        seconds: time from begin to end of that work.
    """

    path: Path
    utterances: tuple[tuple[str, Any], ...]
    cpu_seconds: float = 0.0
    seconds: float = 0.0


Work = Callable[[Shard], Shard]


@dataclass(frozen=True)
class Cluster:
    """Type, number of workers and options of a cluster."""

    kind: str
    workers: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Return whether this process is the only worker."""
        return self.kind == "local" and self.workers == 1 and not self.options


def number_of_shards(utterances: int, count: int | None = None) -> int:
    """Return into how many shards to divide so many utterances; ``count`` is the number that a user wants."""
    return min(count or -(-utterances // PER_SHARD), utterances)


def shard_paths(directory: Path, count: int, suffix: str = ".jsonl") -> list[Path]:
    """Return the paths of so many shards; more than ``FLAT`` are in folders of a thousand."""
    if count <= FLAT:
        return [directory / f"{i + 1:05d}{suffix}" for i in range(count)]
    return [directory / f"{i // 1000:04d}" / f"{i + 1:07d}{suffix}" for i in range(count)]


def divide(rows: Iterable[tuple[str, Any]], total: int, paths: Sequence[Path]) -> Iterator[Shard]:
    """Divide utterances into shards whose sizes differ by at most one; yield them one by one.

    They do not depend on the number of workers, so it may change when a command is repeated.

    Args:
        rows: id and what a worker needs, sorted by id.
        total: number of rows.
        paths: of the shards.
    """
    rows = iter(rows)
    edges = [total * i // len(paths) for i in range(len(paths) + 1)]
    for path, start, end in zip(paths, edges, edges[1:], strict=False):
        yield Shard(path, tuple(islice(rows, end - start)))


@contextmanager
def lock_shards(directory: Path, settings: Mapping[str, Any], what: str = "decoded shards") -> Iterator[None]:
    """Lock a directory for shards with these settings in the block.

    Args:
        directory: of the shards.
        settings: everything that the shards depend on.
        what: description of the shards, for error messages.

    Raises:
        UserError: the directory has shards with other settings or other files, or another run uses it.
    """
    with locked(directory, f"another run works in {directory}: wait for it, or stop it"):
        _check_settings(directory, settings, what)
        _sweep(directory)
        yield
        _sweep(directory)


def _check_settings(directory: Path, settings: Mapping[str, Any], what: str) -> None:
    """Check that a directory has only shards with these settings, and record the settings."""
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
        raise UserError(f"{directory} has files other than {what}: give another directory")
    write_text(directory / SETTINGS, json.dumps(settings, indent=1, sort_keys=True) + "\n")


def _sweep(directory: Path) -> None:
    """Remove incomplete files that killed workers have left."""
    for leftover in (*directory.glob(".[0-9]*"), *directory.glob("[0-9][0-9][0-9][0-9]/.[0-9]*")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    """Describe the first value that differs, as in ``beam_size 5, now 10``."""
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


def read_settings(directory: Path) -> dict[str, Any]:
    """Read the settings with which the shards of a directory were made.

    Raises:
        UserError: settings.json is missing or damaged.
    """
    path = directory / SETTINGS
    if not path.exists():
        raise UserError(
            f"{directory} has no {SETTINGS}: it is incomplete or has no shards; repeat the command that "
            "makes it"
        )
    try:
        return read_json(path)
    except UserError as e:
        raise UserError(f"{e}: remove {directory} and make it again") from None


def parse_cluster(cluster: str, workers: int | None, gpu: bool = False) -> Cluster:
    """Return the cluster of the options ``--cluster`` and ``--workers``.

    Args:
        cluster: ``local`` or a YAML file.
        workers: None for the number in the file, or else on this machine the number of cores or GPUs.
        gpu: True if the workers use GPUs.

    Raises:
        UserError: the file is malformed, the number of workers is below 1, or this machine, whose GPUs they
            use, has none.
    """
    config = {"type": "local"} if cluster == "local" else read_config(Path(cluster))
    unknown = config.keys() - {"type", "workers", "options"}
    if unknown:
        unknown_key = min(map(str, unknown))
        raise UserError(f"{cluster}: unknown key {unknown_key}: a cluster has type, workers and options")
    kind, options = config.get("type"), config.get("options") or {}
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{cluster}: no cluster type {kind!r}: known are {', '.join(KINDS)}")
    if not isinstance(options, dict):
        raise UserError(f"{cluster}: options are `key: value` lines, not a {type(options).__name__}")
    number = config.get("workers") if workers is None else workers
    if kind == "local" and (gpu or number is None):
        found = _processors(gpu)
        number = found if number is None else number
    if number is None and KINDS[kind][0] == "dask_jobqueue":
        raise UserError(f"{cluster}: the number of workers is missing: give `workers` there or --workers")
    number = 1 if number is None else number  # unused: Dask knows the number
    if type(number) is not int or number < 1:
        source = f"{cluster}: " if workers is None else "--"
        raise UserError(f"{source}workers: {number!r} must be a whole number of at least 1")
    return Cluster(kind, number, options)


def _processors(gpu: bool) -> int:
    if not gpu:
        return len(os.sched_getaffinity(0))
    import torch

    if not torch.cuda.is_available():
        raise UserError("--ngpu 1: PyTorch finds no GPU on this machine: use --ngpu 0")
    return torch.cuda.device_count()


def process_shards(shards: Iterable[Shard], work: Work, cluster: Cluster) -> Iterator[Shard]:
    """Process all shards, which are made when they are needed; yield each one when it is finished.

    A worker that is killed is replaced and its shard starts again, until workers have been killed by the same
    shard several times.

    Raises:
        UserError: ``work`` raises it, the cluster does not start, or a shard kills its workers.
    """
    if not shards:  # a run before this one was killed between the last shard and its end
        return
    if cluster.is_here:
        yield from map(work, shards)
        return
    from dask.distributed import KilledWorker, as_completed

    shards = iter(shards)
    if not (first := list(islice(shards, AHEAD))):
        return
    with start_cluster(cluster, min(cluster.workers, len(first)), first[0].path.parent) as dask:
        futures = {dask.submit(work, shard, pure=False): shard for shard in first}
        finished = as_completed(list(futures))
        for future in finished:
            shard = futures.pop(future)
            try:
                yield future.result()
            except KilledWorker:
                raise UserError(
                    f"the worker of {shard.path} was killed several times, perhaps for lack of "
                    "memory: repeat the command with fewer workers to resume"
                ) from None
            for more in islice(shards, 1):
                futures[dask.submit(work, more, pure=False)] = more
                finished.add(next(reversed(futures)))


@contextmanager
def start_cluster(cluster: Cluster, workers: int, shared: Path) -> Iterator[Any]:
    """Start a cluster and yield a client of it; both are closed at the end."""
    from dask.distributed import Client

    module, name = KINDS[cluster.kind]
    make = getattr(importlib.import_module(module), name)
    if module == "dask_jobqueue":  # without the command, Dask would wait for ever
        submit = shlex.split(make.job_cls.submit_command)[0]
        if not shutil.which(submit):
            raise UserError(
                f"the {cluster.kind} cluster needs the command {submit}, which is not in the PATH"
            )
    local = {**LOCAL, "n_workers": workers, "silence_logs": "CRITICAL"} if cluster.kind == "local" else {}
    with ExitStack() as stack:
        keys = stack.enter_context(encryption_options(cluster, shared))
        try:
            made = stack.enter_context(make(**{**local, **cluster.options, **keys}))
        except (ImportError, TypeError, ValueError, OSError, RuntimeError) as e:
            reason = first_line(e)
            raise UserError(f"the {cluster.kind} cluster does not start: {reason}") from None
        if cluster.kind == "scheduler":
            yield made
            return
        if module == "dask_jobqueue":
            made.scale(n=workers)
        yield stack.enter_context(Client(made))


@contextmanager
def encryption_options(cluster: Cluster, shared: Path) -> Iterator[dict[str, Any]]:
    """Yield the options that encrypt all connections of a cluster with a new key.

    Args:
        cluster: the cluster.
        shared: directory that all its machines see, for files with the key that only the user can read.

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
        if KINDS[cluster.kind][0] == "dask_jobqueue":  # Dask writes the files itself
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
    """Write keys to files, so that none is on a command line, and return the arguments of ``Security``."""
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


def device_of_worker(kind: str) -> str:
    """Return the device of this worker; workers on one machine take its GPUs in turn.

    Raises:
        UserError: it is to use a GPU, and its machine has none.
    """
    if kind != "cuda":
        return kind
    import torch
    from dask.distributed import get_worker

    if not (count := torch.cuda.device_count()):
        raise UserError(
            f"PyTorch finds no GPU on {socket.gethostname()}, but --ngpu is 1: ask for GPUs in the `options` "
            "of the cluster, or use --ngpu 0"
        )
    try:
        name = str(get_worker().name)  # 3, SLURMCluster-0 or, with several processes, SLURMCluster-0-3
    except ValueError:  # not in a cluster
        return kind
    number = re.search(r"\d+$", name)
    return f"cuda:{int(number[0]) % count}" if number else kind


def device_here(kind: str) -> str:
    """Return where this process can do what a worker does on a device: the CPU if only workers have GPUs."""
    import torch

    return "cpu" if kind == "cuda" and not torch.cuda.device_count() else kind
