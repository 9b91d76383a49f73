"""Where shards are decoded, as the command line and a YAML file say it."""

from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.recipe import cluster
from espnet_kd.recipe.cluster import Cluster, parse
from espnet_kd.recipe.shards import Shard, plan


def write(path: Path, text: str) -> str:
    (path / "cluster.yaml").write_text(text)
    return str(path / "cluster.yaml")


def test_this_machine_by_default() -> None:
    assert parse("local", 3) == Cluster("local", 3)
    assert parse("local", None).workers >= 1


def test_a_file_names_a_cluster_its_workers_and_options(tmp_path: Path) -> None:
    path = write(tmp_path, "type: slurm\nworkers: 16\noptions: {queue: gpu, memory: 8GB}\n")
    assert parse(path, None) == Cluster("slurm", 16, {"queue": "gpu", "memory": "8GB"})
    assert parse(path, 2).workers == 2
    hosts = write(tmp_path, "type: ssh\noptions: {hosts: [a, a, b]}\n")
    assert parse(hosts, None) == Cluster("ssh", 1, {"hosts": ["a", "a", "b"]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type: sslurm\n", "no cluster type 'sslurm': there are local, ssh"),
        ("type: slurm\nqueue: gpu\n", "unknown key queue: a cluster has type, workers and options"),
        ("type: slurm\noptions: [1]\n", "options are `key: value` lines, not a list"),
        ("type: slurm\nworkers: 0\n", "workers: 0 is not a number from 1 up"),
        ("type: slurm\n", "how many workers"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(write(tmp_path, text), None)


def test_no_worker_is_refused() -> None:
    with pytest.raises(UserError, match="workers: 0 is not"):
        parse("local", 0)


@pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP address")  # Dask asks on import
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("local", {"processes": False, "no_such_option": 1}, "the local cluster does not start: "),
        ("slurm", {}, "the slurm cluster needs the command sbatch, which is not here"),
    ],
)
def test_a_cluster_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: dict, message: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    shards = [Shard(tmp_path / "1", ()), Shard(tmp_path / "2", ())]
    with pytest.raises(UserError, match=message):
        list(cluster.run(shards, lambda shard: shard, Cluster(kind, 2, options)))


def test_shards_are_equal_and_in_order_whatever_the_order_of_the_table() -> None:
    wavs = {f"u{i}": f"{i}.wav" for i in (3, 0, 4, 1, 2)}
    shards = plan(Path("d"), wavs, 2)
    assert [[u for u, _ in s.utterances] for s in shards] == [["u0", "u1"], ["u2", "u3", "u4"]]
    assert [s.path.name for s in shards] == ["00001.jsonl", "00002.jsonl"]
    assert len(plan(Path("d"), wavs, 100)) == 5
    many = {f"u{i}": "x" for i in range(201)}
    assert [len(s.utterances) for s in plan(Path("d"), many)] == [67, 67, 67]
