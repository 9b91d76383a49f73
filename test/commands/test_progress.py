"""Showing the progress of a training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_lines import HEAD, batches, results, started

from espnet_kd.commands.progress import Clock, Lines, Training

PROGRAM = "import sys; from espnet_kd.commands.progress import main; main(sys.argv[1:])"


def test_time_that_is_left() -> None:
    clock = Clock()
    assert clock.left(0.0, 0.0) is None
    assert clock.left(0.5, 100.0) is None  # a resumed training starts here
    assert clock.left(0.6, 110.0) == pytest.approx(40.0)  # 0.1 in 10 s, 0.4 to go


def test_a_line_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    lines, state = Lines("big"), Training(epochs=40)
    for epoch in range(1, 41):
        state.finished = epoch
        lines.update(state, 90.0)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed] == ["2", *(str(n) for n in range(10, 101, 10))]
    assert printed[1] == "big: 10 %, epoch 4/40, 2 min left"
    assert printed[-1] == "big: 100 %, epoch 40/40"


@pytest.mark.parametrize("stop", ["death of the process", "SIGTERM"])
def test_the_command_follows_until_it_is_over(tmp_path: Path, stop: str) -> None:
    path = tmp_path / "train.log"
    path.write_text(HEAD + started(1, 2))
    watched = subprocess.Popen(["sleep", "600"])
    command = [sys.executable, "-c", PROGRAM, str(path), "--pid", str(watched.pid), "--title", "t"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "t: 0 %, epoch 1/2\n"
        with path.open("a") as f:
            f.write(results(2, "acc=0.5"))
        if stop == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            watched.kill()
            watched.wait()
        rest, _ = process.communicate(timeout=60)
        assert rest == "t: 100 %, epoch 2/2, valid acc 0.500\n"
        assert process.returncode == 0
    finally:
        process.kill()
        watched.kill()
        watched.wait()


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(HEAD + started(1, 2) + batches(1, 100))
    watched = subprocess.Popen(["sleep", "1"])
    master, slave = os.openpty()
    command = [sys.executable, "-c", PROGRAM, str(path), "--pid", str(watched.pid), "--title", "model"]
    process = subprocess.Popen(command, stdout=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    watched.wait()
    assert process.wait(60) == 0
    time.sleep(0.05)
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert "model" in shown and "25%" in shown and "epoch 1/2" in shown
