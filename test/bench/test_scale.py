"""The benchmark of large directories runs its commands."""

import pytest

from bench import scale


@pytest.mark.slow(seconds=15)
@pytest.mark.long
def test_every_command_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(200, train=False)  # seconds, far from the limits
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[2:] for row in rows[2:]] == [
        "2 perturb, three speeds", "3 format into archives, lists", "3 format again", "4 lengths",
        "5 tokens, char", "5 tokens, bpe", "6 contents", "7 contents again, at a training's start",
        "8 targets, their shards", "9 targets of every utterance are there",
        "8 pseudo-labels, filters", "8 mix", "11 score",
    ]  # fmt: skip
