"""The file that keeps what was measured."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from records_of_costs import RECORD

from espnet_kd.errors import UserError
from espnet_kd.measure.measurement import FILE, Spread, read_measurement, write_measurement


def test_quantiles_are_as_on_paper() -> None:
    # 0, 1, ..., 10: the 10 % quantile is 1, the median 5, the 90 % quantile 9
    assert Spread.of(list(range(11))) == Spread(median=5, p10=1, p90=9)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_measurement(RECORD, tmp_path / "tag/test")
    assert read_measurement(tmp_path / "tag/test") == RECORD
    unknown = replace(RECORD, parameters=None, first_text_s=None, errors=None)
    write_measurement(unknown, tmp_path / "tag/test")
    assert read_measurement(tmp_path / "tag/test") == unknown
    assert read_measurement(tmp_path) is None
    older = {key: value for key, value in asdict(RECORD).items() if key not in ("model", "metric")}
    (tmp_path / FILE).write_text(json.dumps(older))
    assert read_measurement(tmp_path) == RECORD


WRONG = {"median": "x", "p10": 0, "p90": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"rtf": None},
        {"end_s": None},
        {"rtf": WRONG},
        {"machine": None},
        {"disk_mb": "a"},
        {"model": 1},
        {"metric": "per"},
        "[]",
        "{",
    ],  # fmt: skip
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: object) -> None:
    write_measurement(RECORD, tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | change) if isinstance(change, dict) else str(change))
    with pytest.raises(UserError, match=FILE):
        read_measurement(tmp_path)
