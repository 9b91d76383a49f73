"""The stand-in for python3 does what python3 does."""

import signal
import subprocess
import time
from pathlib import Path

import fork_server
import pytest
from fork_server import QUICK_PYTHON
from shell import environment, script

PROGRAM = """
import os, sys, time
print(os.getcwd(), sys.argv, os.environ["WORD"], sys.stdin.read(), __name__)
print("wrong", file=sys.stderr)
if sys.argv[1:] == ["sleep"]:
    open("pid", "w").write(str(os.getpid()))
    time.sleep(600)
sys.exit(3)
"""


@pytest.fixture()
def start(tmp_path: Path):
    """Start a program in a folder of its own, by python3 or by the stand-in."""
    script(tmp_path / "program.py", PROGRAM)

    def process(python: str, *words: str) -> subprocess.Popen:
        env = environment(WORD="a word", ESPNET_KD_FORK_SERVER=fork_server.start())
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([python, "-m", "program", *words], cwd=tmp_path, env=env, text=True, **pipes)

    return process


def test_output_arguments_and_status_are_the_same(start, tmp_path: Path) -> None:
    quick, true = (start(python, "a b", "c") for python in (str(QUICK_PYTHON), "python3"))
    expected = true.communicate("input")
    assert quick.communicate("input") == expected and "a word input __main__" in expected[0]
    assert (quick.returncode, true.returncode) == (3, 3)


def test_a_program_on_the_command_line() -> None:
    program = "import sys; print(sys.argv, __name__); sys.exit(4)"
    result = fork_server.quick_python("-c", program, "a b")
    assert (result.returncode, result.stdout) == (4, "['-c', 'a b'] __main__\n")


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit('a message')", "sys.exit()", "sys.exit(True)", "raise ValueError('wrong')", "1 / 0", "pass",
        "os.kill(os.getpid(), 2)", "os.kill(os.getpid(), 15)",
        "threading.Thread(target=lambda: print(2)).start()",
        "multiprocessing.get_context('fork').Process(target=sys.exit, args=(4,)).start()",
    ],
)  # fmt: skip
def test_every_end_is_the_same(end: str) -> None:
    program = f"""
import atexit, multiprocessing, os, sys, threading
atexit.register(print, "the end")
print("begun")
{end}
"""
    true = subprocess.run(["python3", "-c", program], capture_output=True, text=True)
    quick = fork_server.quick_python("-c", program)
    assert (quick.returncode, quick.stdout) == (true.returncode, true.stdout)
    assert quick.stderr.splitlines()[-1:] == true.stderr.splitlines()[-1:]


@pytest.mark.parametrize("python", [str(QUICK_PYTHON), "python3"])
def test_the_program_may_end_in_its_own_way_at_sigterm(python: str) -> None:
    """A line that it writes is whole."""
    program = """
import signal
signal.signal(signal.SIGTERM, lambda *_: (print("the end"), exit(5)))
print("begun", flush=True)
signal.pause()
"""
    env = environment(ESPNET_KD_FORK_SERVER=fork_server.start())
    process = subprocess.Popen([python, "-c", program], env=env, text=True, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    assert process.communicate()[0] == "the end\n" and process.returncode == 5


def test_the_program_dies_with_the_stand_in(start, tmp_path: Path) -> None:
    process = start(str(QUICK_PYTHON), "sleep")
    process.stdin.close()
    file = tmp_path / "pid"
    while not (file.exists() and file.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    alive = Path("/proc") / file.read_text()
    deadline = time.monotonic() + 60
    while alive.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
