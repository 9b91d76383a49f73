"""The stores that the benchmark writes hold its records."""

from pathlib import Path

import numpy as np

from bench.store import make_records, write, write_ark
from espnet_kd.targets.format import TapFormat
from espnet_kd.targets.store import verify

TAPS = {"ctc.ctc_lo": TapFormat("topk", 30, 4), "decoder": TapFormat("topk", 300, 2)}


def test_both_containers_hold_the_records(tmp_path: Path) -> None:
    records = make_records(TAPS, {"ctc.ctc_lo": 25, "decoder": 4}, count=3, seconds=1.0)
    store = write(tmp_path / "store", records, TAPS)
    read_ark = write_ark(tmp_path / "ark", records)
    assert not list(verify(store))
    for record in records:
        for tap, ark in zip(TAPS, read_ark(record.utt), strict=True):
            assert np.array_equal(store.read(record.utt).rows[tap], record.rows[tap])
            assert ark.tobytes() == record.rows[tap].tobytes()
