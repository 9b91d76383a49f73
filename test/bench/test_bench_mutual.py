"""The benchmark of mutual learning times every variant."""

from dataclasses import replace

from bench.mutual import CASES, measure, models, saved_megabytes
from bench.speech_model import ModelSize, batch


def test_every_variant_is_timed_once_a_round() -> None:
    timings = measure(replace(CASES["tiny"], rounds=2))
    assert list(timings) == list(models(ModelSize(1, 16)))
    assert all(len(t.seconds) == 2 and min(t.seconds) > 0 for t in timings.values())


def test_two_peers_save_about_twice_as_much_memory_for_the_backward_pass() -> None:
    kept = {name: saved_megabytes(model, batch(2, 1.0)) for name, model in models(ModelSize(1, 16)).items()}
    assert 1.8 < kept["two peers"] / kept["one model"] < 2.5
