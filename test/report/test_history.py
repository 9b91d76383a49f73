from pathlib import Path

import pytest
from fabricated import write_checkpoint

from espnet_kd.report.history import read_history

LOG = """\
[vm] 2026-01-01 INFO: 1epoch:train:1-50batch: loss_ctc=70.1, loss=61.3
[vm] 2026-01-01 INFO: 1epoch results: [train] loss=61.4, optim0_lr0=1.5e-04, time=47.4 seconds, \
total_count=346, [valid] cer_ctc=0.9, loss=50.1, time=1 minute and 0.5 seconds, total_count=14, [att_plot] \
time=5 seconds, total_count=0
[vm] 2026-01-01 INFO: 2epoch results: [train] loss=nan, time=1 hour, 1 minute and 1 second, total_count=692, \
[valid] cer_ctc=0.8, loss_task=40, time=1 second, total_count=28
[vm] 2026-01-01 INFO: 2epoch results: [train] loss=31, time=1 hour, 1 minute and 1 second, total_count=692, \
[valid] cer_ctc=0.7, loss_task=30.0, loss=41.5, time=1 second, total_count=28
"""


def test_a_log_is_read_and_its_later_lines_win(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG)
    h = read_history(tmp_path)
    assert h.curve("valid", "cer_ctc") == {1: 0.9, 2: 0.7}
    assert h.curve("valid", "loss_task", "loss") == {1: 50.1, 2: 30.0}
    assert h.epochs[1]["train"]["optim0_lr0"] == 1.5e-4
    assert h.updates(1) == 692
    assert h.seconds() == pytest.approx(47.4 + 60.5 + 5 + 3661 + 1)


def test_a_damaged_log_raises_no_error(tmp_path: Path) -> None:
    odd = "1epoch results: [train] loss=1.2.3, time=1.2.3 seconds, total_count=7, [valid] acc=an, x=-\n"
    (tmp_path / "train.log").write_text(odd + "9" * 5000 + "epoch results: [valid] acc=0.5\n")
    assert read_history(tmp_path).epochs == {1: {"train": {"total_count": 7, "time": 2.3}, "valid": {}}}


def test_values_that_are_not_numbers_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG.replace("cer_ctc=0.9", "cer_ctc=nan, acc=nan"))
    h = read_history(tmp_path)
    assert h.curve("valid", "acc") == {}  # a CTC model reports it in every epoch
    assert h.curve("valid", "cer_ctc", "loss") == {1: 50.1, 2: 0.7}


def test_a_checkpoint_is_read_before_the_log(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG)
    write_checkpoint(tmp_path, batches=100, epochs=3, cer_ctc=0.6)
    h = read_history(tmp_path)
    assert h.curve("valid", "cer_ctc") == pytest.approx({1: 0.6, 2: 0.3, 3: 0.2})
    assert h.seconds() == 300
    assert h.updates(1) == 300
    assert h.updates(4) == 75  # gradients of four batches make an update


def test_batches_left_at_the_end_of_an_epoch_make_no_update(tmp_path: Path) -> None:
    """ESPnet's trainer updates in batches 4, 8, ... of an epoch: twice in each of three epochs of 11."""
    write_checkpoint(tmp_path, batches=11, epochs=3)
    assert read_history(tmp_path).updates(4) == 6
    (tmp_path / "checkpoint.pth").unlink()
    (tmp_path / "train.log").write_text(LOG.replace(" 1epoch results", ""))  # epochs 1 and 2 have 346 each
    assert read_history(tmp_path).updates(4) == 172


def test_a_damaged_checkpoint_falls_back_to_the_log(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG)
    (tmp_path / "checkpoint.pth").write_bytes(b"PK\x03\x04 cut off")
    assert read_history(tmp_path).updates(1) == 692


def test_nothing_to_read_is_unknown_not_zero(tmp_path: Path) -> None:
    h = read_history(tmp_path)
    assert (h.updates(1), h.seconds(), h.curve("valid", "acc")) == (None, None, {})


def test_a_peers_statistics_take_the_stock_names(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(LOG.replace("cer_ctc=0.9", "cer_ctc=0.9, cer_ctc_peer2=0.6"))
    h = read_history(tmp_path)
    peer = h.of_model("_peer2")
    assert peer.curve("valid", "cer_ctc") == {1: 0.6}  # 2: the log has none of its own
    assert peer.curve("valid", "loss") == {}  # that of peer 1 is not a peer's who reports none
    assert h.of_model("").curve("valid", "cer_ctc") == {1: 0.9, 2: 0.7}
    assert peer.updates(1) == 692
