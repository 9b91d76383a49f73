"""The benchmark of transducer distillation times every part."""

from dataclasses import replace

from bench.speech_model import ModelSize
from bench.transducer import CASES, OWN, measure


def test_every_part_is_timed_once_a_round() -> None:
    small = replace(
        CASES["an4"], student=ModelSize(1, 16), teacher=ModelSize(1, 16), utterances=2, seconds=1.0, rounds=1
    )
    timings = measure(small)
    parts = ["RNN-T step", "teacher encoder", "KL floor", "distillation step"]
    assert list(timings) == [*parts, *OWN]
    assert all(len(t.seconds) == 1 and t.median > 0 for t in timings.values())
