"""The table of several sets of pseudo-labels."""

import json
from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.report.labels import main


def counts(errors: int, reference: int) -> dict:
    return {"errors": errors, "reference": reference, "rate": 100 * errors / reference}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    quality = {"wer": counts(2, 8), "cer": counts(1, 20)}
    manifest = {
        "labeller": "hf",
        "inference": {"suppress_numerals": True},
        "decoded": {"utterances": 4, "hours": 1.5},
        "kept": {"utterances": 3, "hours": 1.0},
        "normalisation": [
            {"step": "digits", "changed": 2, "most_frequent": [{"from": "4|5", "to": "four", "times": 2}]}
        ],
        "filters": [{"name": "score", "limits": {"keep_top": 75}, "dropped": 1}],
        "references": {"decoded": {"wer": counts(4, 8), "cer": counts(9, 20)}, "kept": quality},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_a_row_a_set_and_what_was_changed_and_dropped(labels: Path, capsys: pytest.CaptureFixture) -> None:
    main([f"raw={labels}", f"words={labels}", "--title", "Labels of AN4", "--out", str(labels / "out.md")])
    lines = (labels / "out.md").read_text().splitlines()
    assert lines[0] == "# Labels of AN4"
    row = "hf, numbers as words | `digits` | 3 of 4 | 1.00 | 50.0 (4/8) | 25.0 (2/8) | 5.0 (1/20) |"
    assert f"| raw | {row}" in lines and f"| words | {row}" in lines
    assert r"| `digits` | 2 | `4\|5` → `four` (2) |" in lines
    assert "| score | keep_top 75 | 1 |" in lines
    main([f"raw={labels}"])
    assert "| raw | hf" in capsys.readouterr().out


def test_what_is_no_set_of_labels(labels: Path) -> None:
    with pytest.raises(UserError, match="give a name and a directory, NAME=DIR"):
        main([str(labels)])
    (labels / "manifest.json").write_text('{"decoded": 1}')
    with pytest.raises(UserError, match="manifest.json does not belong to pseudo-labels"):
        main([f"raw={labels}"])
