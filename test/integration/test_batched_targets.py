"""Targets that are computed in batches of utterances."""

import numpy as np
import pytest
from recipe import RATE, Recipe
from test_stored_targets import CRITERIA, HIDDEN, write

from espnet_kd.targets import worker
from espnet_kd.targets.store import verify


def test_a_batch_is_no_longer_than_it_may_be_with_its_padding():
    assert worker.batches([5, 2, 9, 3, 2], 10) == [[1, 4, 3], [0], [2]]
    assert worker.batches([5, 2], 0) == [[1], [0]], "one at a time"


@pytest.mark.slow(seconds=4)
def test_batches_of_utterances_differ_by_padding_alone(recipe: Recipe) -> None:
    criteria = {**CRITERIA, **HIDDEN}
    single = write(recipe, "exp/single", criteria, ["exp/teacher"], "--shards", "1")
    batched = write(recipe, "exp/batched", criteria, ["exp/teacher"], "--shards", "1", "--batch_seconds", "4")
    assert list(single) == list(batched) and not list(verify(batched))
    assert "batch_seconds" not in single.manifest.settings
    assert batched.manifest.settings["batch_seconds"] == 4
    lengths = [single.read(utt).samples for utt in single]
    groups = worker.batches(lengths, 4 * RATE)
    longest, utts = {group[-1] for group in groups}, list(single)
    assert len(groups) < len(utts)
    for place, utt in enumerate(utts):
        one, other = (store.read(utt).rows for store in (single, batched))
        for tap in ("encoder", "ctc.ctc_lo", "decoder"):
            assert len(one[tap]) == len(other[tap]), utt
        apart = np.abs(one["encoder"]["values"] - other["encoder"]["values"]).max(1)
        if place in longest:  # it has no padding: only sums of floats are in another order
            assert apart.max() < 2e-3, utt
        assert apart.mean() < 0.1, utt  # the vectors' numbers are about 1
