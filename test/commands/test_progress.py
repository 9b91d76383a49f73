"""Following a training's log, and showing its progress."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_lines import HEAD, VALID, batches, results, started

from espnet_kd.commands.progress import GrowingFile, ProgressLines, RemainingTime, Training


def training(*lines: str) -> Training:
    state = Training()
    for line in lines:
        state.read(line)
    return state


@pytest.mark.parametrize(
    ("lines", "fraction", "text"),
    [
        ((), 0.0, "starting"),
        ((HEAD, VALID, started(1, 4)), 0.0, "epoch 1/4"),
        ((HEAD, VALID, started(1, 4), batches(1, 100)), 0.125, "epoch 1/4"),  # 100/200 of 1/4
        ((started(1, 4), batches(1, 100)), 0.0, "epoch 1/4"),  # the number of batches is unknown
        (
            (HEAD, started(1, 4), batches(1, 200), results(1, "acc=0.355, cer=0.7")),
            0.25,
            "epoch 1/4, valid acc 0.355",
        ),
        (
            (HEAD, started(2, 4), results(2, "loss_ctc=53.744, cer_ctc=1.000, loss=3.1e-02")),
            0.5,
            "epoch 2/4, valid CER 1.000",
        ),
        (
            (HEAD, started(4, 4), results(4, "loss=3.1e-02, time=0.6 seconds")),
            1.0,
            "epoch 4/4, valid loss 0.031",
        ),
        (  # a CTC model has no decoder to be accurate
            (HEAD, started(3, 4), results(2, "acc=nan, cer_ctc=0.25"), batches(3, 300)),
            0.75,
            "epoch 3/4, valid CER 0.250",
        ),
    ],
)
def test_progress_is_read_from_a_log(lines: tuple[str, ...], fraction: float, text: str) -> None:
    state = training(*lines)
    assert state.fraction == pytest.approx(fraction)
    assert str(state) == text


def test_only_whole_lines_are_read_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    log = GrowingFile(path)
    assert log.new_lines() == []
    path.write_text("one\ntw")
    assert log.new_lines() == ["one"]
    with path.open("a") as f:
        f.write("o\nthree\n")
    assert log.new_lines() == ["two", "three"]
    assert log.new_lines() == []


def test_a_log_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("old\nhal")
    log = GrowingFile(path)
    log.new_lines()
    path.rename(tmp_path / "train.1.log")
    path.write_text("a longer new line\n")
    assert log.new_lines() == ["a longer new line"]


def test_new_skips_old_lines_but_not_the_next_log(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("old\n")
    log = GrowingFile(path, new=True)
    assert log.new_lines() == []
    path.rename(tmp_path / "train.1.log")
    path.write_text("new\n")
    assert log.new_lines() == ["new"]


def test_a_damaged_line_raises_no_error() -> None:
    state = training(f" {'9' * 5000}/4epoch started", results(1, "acc=an, cer=-, loss=1.2.3, cer_ctc=0.5"))
    assert state.valid == {"loss": 1.2, "cer_ctc": 0.5} and state.epochs == 0


PROGRAM = "import sys; from espnet_kd.commands.progress import main; main(sys.argv[1:])"


def test_time_that_is_left() -> None:
    clock = RemainingTime()
    assert clock.seconds(0.0, 0.0) is None
    assert clock.seconds(0.5, 100.0) is None  # a resumed training starts here
    assert clock.seconds(0.6, 110.0) == pytest.approx(40.0)  # 0.1 in 10 s, 0.4 to go


def test_a_line_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    lines, state = ProgressLines("big"), Training(epochs=40)
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
