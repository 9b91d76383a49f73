"""Logs of trials: where a training stands, and why it has failed."""

from pathlib import Path

from espnet_kd.experiments.logs import reason_of


def test_the_reason_is_found_in_the_end_of_another_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    begin = "# started 2026-01-01\n./run.sh\nrun.sh: 1 of 1 jobs failed; the log of the first ends:\n"
    end = "  | # ended with status 1\n# ended with status 1\n"
    log.write_text(begin + "  | espnet-kd: error: no such layer\n" + end)
    assert reason_of(log) == "no such layer"
    log.write_text(begin + "  | ValueError: no masks\n" + end)
    assert reason_of(log) == "ValueError: no masks"
