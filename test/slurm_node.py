"""A Slurm of one node on this machine, started for tests: its own directory, ports on 127.0.0.1, no accounting."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CPUS = 16  # more than the machine has: nothing binds jobs to CPUs
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=200000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """The reason why this machine cannot start a Slurm; empty if it can."""
    missing = [name for name in PROGRAMS if not find(name)]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    return "" if os.getuid() == 0 else "slurmd starts jobs as root only"


def find(name: str) -> str | None:
    """Servers are in directories that are not in everybody's path."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def slurm_node(root: Path) -> Iterator[dict[str, str]]:
    """Start the Slurm; yields the environment of its commands. All jobs and servers end with the block."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (root / name).mkdir(parents=True)
    key = root / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    text = CONFIGURATION.format(host=host, root=root, ports=_free_ports(2), cpus=CPUS)
    (root / "slurm.conf").write_text(text)
    # GPUs whose devices are no devices; a count alone is ignored.
    (root / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    environment = {"SLURM_CONF": str(root / "slurm.conf")}
    servers = [
        ["munged", "-F", "--force", *(f"--{what}={root}/munge.{end}" for what, end in (
            ("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed")
        ))],
        ["slurmctld", "-D", "-i", "-f", str(root / "slurm.conf")],
        ["slurmd", "-D", "-f", str(root / "slurm.conf")],
    ]  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []
    with (root / "servers.log").open("wb") as log:
        try:
            for name, *words in servers:
                started.append(
                    subprocess.Popen(
                        [str(find(name)), *words], env={**os.environ, **environment}, stdout=log, stderr=log
                    )
                )
                if name == "munged":
                    _wait(lambda: (root / "munge.socket").exists(), started, root)
            _wait(lambda: "idle" in _output("sinfo", "--noheader", "--format=%t", **environment), started, root)
            yield environment
        finally:
            if len(started) == len(servers):
                _output("scancel", f"--user={os.getuid()}", **environment)
                for _ in range(50):
                    if not _output("squeue", "--noheader", **environment):
                        break
                    time.sleep(0.1)
            for server in reversed(started):
                server.send_signal(signal.SIGTERM)
                try:
                    server.wait(10)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _output(*command: str, **changes: str) -> str:
    result = subprocess.run(command, env={**os.environ, **changes}, capture_output=True, text=True)
    return result.stdout.strip()


def _wait(ready: Callable[[], bool], started: list[subprocess.Popen[bytes]], root: Path) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        ended = [server.args[0] for server in started if server.poll() is not None]
        if ended or time.monotonic() > deadline:
            logs = "\n".join(p.read_text(errors="replace")[-2000:] for p in sorted(root.glob("*.log")))
            raise AssertionError(f"Slurm does not start ({ended or 'too slow'}):\n{logs}")
        time.sleep(0.1)
