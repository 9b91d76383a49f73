"""Where shards are decoded, as the command line and a YAML file say it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from espnet_kd import parallel
from espnet_kd.errors import UserError
from espnet_kd.parallel import Cluster, Shard, device_of_worker, parse_cluster


def write(path: Path, text: str) -> str:
    (path / "cluster.yaml").write_text(text)
    return str(path / "cluster.yaml")


def test_this_machine_by_default() -> None:
    assert parse_cluster("local", 3) == Cluster("local", 3)
    assert parse_cluster("local", None).workers >= 1


def test_a_file_names_a_cluster_its_workers_and_options(tmp_path: Path) -> None:
    path = write(tmp_path, "type: slurm\nworkers: 16\noptions: {queue: gpu, memory: 8GB}\n")
    assert parse_cluster(path, None) == Cluster("slurm", 16, {"queue": "gpu", "memory": "8GB"})
    assert parse_cluster(path, 2).workers == 2
    hosts = write(tmp_path, "type: ssh\noptions: {hosts: [a, a, b]}\n")
    assert parse_cluster(hosts, None) == Cluster("ssh", 1, {"hosts": ["a", "a", "b"]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type: [slurm]\n", r"no cluster type \['slurm'\]: known are local"),
        ("type: sslurm\n", "no cluster type 'sslurm': known are local, ssh"),
        ("type: slurm\nqueue: gpu\n", "unknown key queue: a cluster has type, workers and options"),
        ("type: slurm\noptions: [1]\n", "options are `key: value` lines, not a list"),
        ("type: slurm\nworkers: 0\n", "cluster.yaml: workers: 0 must be a whole number"),
        ("type: slurm\n", "the number of workers is missing"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_cluster(write(tmp_path, text), None)


def test_no_worker_is_refused() -> None:
    with pytest.raises(UserError, match="workers: 0 must be"):
        parse_cluster("local", 0)


@pytest.mark.parametrize("workers", [None, 2])
def test_a_machine_without_a_gpu(workers: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="--ngpu 1: PyTorch finds no GPU on this machine: use --ngpu 0"):
        parse_cluster("local", workers, gpu=True)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        (5, "cuda:1"),  # of this machine, or of SSH
        ("SLURMCluster-2", "cuda:2"),
        ("SLURMCluster-2-3", "cuda:3"),  # of a job with several processes
        ("tcp://127.0.0.1:8786/a", "cuda"),
    ],
)
def test_workers_take_the_gpus_of_their_machine_in_turn(
    monkeypatch: pytest.MonkeyPatch, name: int | str, device: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("dask.distributed.get_worker", lambda: SimpleNamespace(name=name))
    assert (device_of_worker("cuda"), device_of_worker("cpu")) == (device, "cpu")


def test_outside_a_cluster_the_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device_of_worker("cuda") == "cuda"


def test_a_worker_without_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("dask.distributed.get_worker", lambda: SimpleNamespace(name="SLURMCluster-2"))
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    assert device_of_worker("cpu") == "cpu"
    with pytest.raises(UserError, match="PyTorch finds no GPU on node7, but --ngpu is 1: ask for GPUs"):
        device_of_worker("cuda")


@pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP address")  # Dask asks on import
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("local", {"processes": False, "no_such_option": 1}, "the local cluster does not start: "),
        ("slurm", {}, "the slurm cluster needs the command sbatch, which is not in the PATH"),
    ],
)
def test_a_cluster_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: dict, message: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    shards = [Shard(tmp_path / "1", ()), Shard(tmp_path / "2", ())]
    with pytest.raises(UserError, match=message):
        list(parallel.process_shards(shards, lambda shard: shard, Cluster(kind, 2, options)))


def test_no_cluster_is_started_when_every_shard_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "start_cluster", None)
    assert list(parallel.process_shards([], lambda shard: shard, Cluster("slurm", 4))) == []


def test_shards_are_equal_and_in_order() -> None:
    rows = [(f"u{i}", f"{i}.wav") for i in range(5)]
    shards = list(parallel.divide(rows, 5, parallel.shard_paths(Path("d"), 2)))
    assert [[u for u, _ in s.utterances] for s in shards] == [["u0", "u1"], ["u2", "u3", "u4"]]
    assert [s.path.name for s in shards] == ["00001.jsonl", "00002.jsonl"]
    assert [parallel.number_of_shards(*numbers) for numbers in ((5, 100), (201,), (5, 2))] == [5, 3, 2]


class FakeSecurity:
    """A key in the place of one that takes a second to make."""

    @classmethod
    def temporary(cls) -> "FakeSecurity":
        return cls()

    def __getattr__(self, name: str) -> str:
        return f"{name} in PEM"


SHARED = {
    "slurm": lambda given: (given["security"], Path(given["shared_temp_directory"])),
    "ssh": lambda given: (given["security"], Path(given["worker_options"]["security"]["tls_ca_file"]).parent),
}


@pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP address")
@pytest.mark.parametrize("kind", SHARED)
def test_keys_of_other_machines_are_in_files_that_only_the_user_reads_and_go_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("dask.distributed.Security", FakeSecurity)
    options = {"hosts": ["a", "b"], "worker_options": {"nthreads": 1}} if kind == "ssh" else {"queue": "gpu"}
    with parallel.encryption_options(Cluster(kind, 2, options), tmp_path / "new") as given:
        security, directory = SHARED[kind](given)
        assert isinstance(security, FakeSecurity) and directory.stat().st_mode & 0o777 == 0o700
        assert directory.parent == tmp_path / "new"
        pages = {key: given["scheduler_options"].pop(key) for key in ("dashboard", "dashboard_address")}
        assert pages == {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        if kind == "ssh":
            worker, scheduler = given["worker_options"], given["scheduler_options"]
            assert worker.pop("nthreads") == 1 and worker == scheduler and worker["protocol"] == "tls://"
            files = {k: Path(v) for k, v in worker["security"].items() if k != "require_encryption"}
            assert worker["security"]["require_encryption"] is True and len(files) == 7
            assert all(path.read_text() == f"{name} in PEM" for name, path in files.items())
            assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert not directory.exists()


@pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP address")
def test_a_local_cluster_listens_on_this_machine_with_a_key_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask.distributed.Security", FakeSecurity)
    with parallel.encryption_options(Cluster("local", 2), tmp_path) as given:
        assert isinstance(given["security"], FakeSecurity) and given["host"] == "127.0.0.1"
    for own in ({"processes": False}, {"security": "mine"}):  # no connection, or the user's business
        with parallel.encryption_options(Cluster("local", 2, own), tmp_path) as given:
            assert given == {}


@pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP address")
def test_nobody_else_has_anything_run_by_the_workers(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from dask.distributed import Client

    with parallel.start_cluster(Cluster("local", 1), 1, tmp_path) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError):
            Client(address.replace("tls://", "tcp://"), timeout=1)
        assert client.submit(len, (1, 2)).result() == 2
