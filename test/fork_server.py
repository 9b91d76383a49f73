"""A process that has imported ESPnet; forks of it run programs without importing it anew.

The interpreter ``quick_python`` asks it for ``-m MODULE`` and ``-c PROGRAM``. What a test kills runs under
the true interpreter.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

# What stages run; the programs are imported for what they import, and then run afresh.
PROGRAMS = [f"espnet2.bin.{name}" for name in (
    "aggregate_stats_dirs", "asr_inference", "asr_train", "asr_transducer_inference", "asr_transducer_train",
    "launch", "lm_calc_perplexity", "lm_train", "pack", "split_scps",
)]  # fmt: skip
LIBRARIES = ("dask.distributed", "jiwer", "matplotlib.pyplot")
LONGEST_REQUEST = 1 << 20  # bytes
QUICK_PYTHON = Path(__file__).with_name("quick_python")


def quick_python(
    *words: str, cwd: str | Path | None = None, check: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python3 WORDS`` without importing ESPnet anew; what it wrote is in stdout and stderr."""
    env = {**os.environ, **environment, "ESPNET_KD_FORK_SERVER": start()}
    result = subprocess.run([QUICK_PYTHON, *words], cwd=cwd, env=env, capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@functools.cache
def start() -> str:
    """The address of this process's server, which ends with it."""
    folder = tempfile.TemporaryDirectory(prefix="fork_server")
    address = str(Path(folder.name) / "socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)  # requests wait while the server imports
    number = listener.fileno()
    command = [sys.executable, __file__, str(number)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number])
    listener.close()

    @atexit.register
    def stop() -> None:
        server.stdin.close()
        server.wait()
        folder.cleanup()

    return address


def serve(listener: socket.socket) -> None:
    """Fork for every request until standard input ends."""
    for name in (*PROGRAMS, *LIBRARIES):
        importlib.import_module(name)
    for name in PROGRAMS:
        del sys.modules[name]
    gc.freeze()  # else every fork looks at all of it, and so copies it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection = listener.accept()[0]
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> NoReturn:
    """Run the program in a process of its own and send its exit status.

    A message ends it by SIGTERM; if nobody waits for it any more, it is killed.
    """
    message, files, *_ = socket.recv_fds(connection, LONGEST_REQUEST, 3)
    child = os.fork()
    if child == 0:
        os.setsid()
        become(files, **json.loads(message))
    ended = os.pidfd_open(child)
    while ended not in select.select([connection, ended], [], [])[0]:
        if connection.recv(64):
            signal.pidfd_send_signal(ended, signal.SIGTERM)
            continue
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet
            os.kill(child, signal.SIGKILL)
        break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # it was killed
        connection.send(str(status).encode())
    os._exit(0)


def become(files: list[int], argv: list[str], cwd: str, env: dict[str, str]) -> NoReturn:
    """Do what ``python3 ARGV`` does; ARGV is ``-m MODULE ...`` or ``-c PROGRAM ...``."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0:1] = [cwd, *env.get("PYTHONPATH", "").split(os.pathsep)]
    status: int | str | None = None
    try:
        if argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    except SystemExit as e:
        status = e.code
    except BaseException as e:
        sys.excepthook(*sys.exc_info())
        status = -signal.SIGINT if isinstance(e, KeyboardInterrupt) else 1
    end(status)


def end(status: int | str | None) -> NoReturn:
    """Do what an interpreter does at its end, but free nothing: that would copy 300 MB of shared pages."""
    if isinstance(status, str):
        print(status, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stderr.flush()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
