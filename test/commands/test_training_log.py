"""What a training log says while it grows."""

from pathlib import Path

import pytest
from training_lines import HEAD, VALID, batches, results, started

from espnet_kd.commands.progress import Log, Training


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
def test_what_a_log_says(lines: tuple[str, ...], fraction: float, text: str) -> None:
    state = training(*lines)
    assert state.fraction == pytest.approx(fraction)
    assert str(state) == text


def test_only_whole_lines_are_read_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    log = Log(path)
    assert log.lines() == []
    path.write_text("one\ntw")
    assert log.lines() == ["one"]
    with path.open("a") as f:
        f.write("o\nthree\n")
    assert log.lines() == ["two", "three"]
    assert log.lines() == []


def test_a_log_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("old\nhal")
    log = Log(path)
    log.lines()
    path.rename(tmp_path / "train.1.log")
    path.write_text("a longer new line\n")
    assert log.lines() == ["a longer new line"]


def test_new_passes_over_what_was_there_but_not_over_the_next_log(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("old\n")
    log = Log(path, new=True)
    assert log.lines() == []
    path.rename(tmp_path / "train.1.log")
    path.write_text("new\n")
    assert log.lines() == ["new"]


def test_a_damaged_line_ends_nothing() -> None:
    state = training(f" {'9' * 5000}/4epoch started", results(1, "acc=an, cer=-, loss=1.2.3, cer_ctc=0.5"))
    assert state.valid == {"loss": 1.2, "cer_ctc": 0.5} and state.epochs == 0
