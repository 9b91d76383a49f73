"""The benchmark of large directories runs its commands."""

import pytest

from bench import scale


def test_every_command_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(200)  # seconds, far from the limits
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| score", "| mix", "| perturb"]
