"""The benchmark of the online teacher times every variant."""

from dataclasses import replace

import torch

from bench.online_teacher import CASES, SAMPLED, distilled, measure
from bench.speech_model import ModelSize, batch, build


def test_every_variant_is_timed_once_a_round() -> None:
    timings = measure(replace(CASES["tiny"], rounds=2))
    assert list(timings) == ["student step", "teacher forward", "step with teacher", *SAMPLED]
    assert all(len(t.seconds) == 2 and min(t.seconds) > 0 for t in timings.values())


def test_the_distilled_student_learns_from_both_taps() -> None:
    torch.manual_seed(0)
    model = distilled(build(ModelSize(1, 16)), build(ModelSize(1, 16)).eval().requires_grad_(False))
    loss, stats, _ = model(**batch(2, 1.0))
    terms = 0.5 * (stats["loss_kd_ctc"] + stats["loss_kd_decoder"])
    assert terms > 0
    torch.testing.assert_close(loss.detach(), stats["loss_task"] + terms)
