"""The benchmark of the online teacher times every variant."""

from dataclasses import replace

import torch

from bench.online_teacher import CASES, SAMPLED, distilled, measure, training_step
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


def test_autocast_is_on_in_each_forward_pass_alone() -> None:
    class Weight(torch.nn.Module):
        """Notes the output of its layer, and whether autocast is on in the backward pass."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1, bias=False)
            self.seen: list[torch.Tensor] = []
            self.backward: list[bool] = []

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None, None]:
            y = self.layer(x)
            y.register_hook(lambda _: self.backward.append(torch.is_autocast_enabled("cpu")))
            self.seen.append(y.detach())
            return 1e4 * y.float().sum(), None, None

    model = Weight()
    step = training_step(model, {"x": torch.ones(1, 1)}, torch.bfloat16)
    for _ in range(2):
        model.layer.weight.data += 1.0
        step()
    assert [y.dtype for y in model.seen] == [torch.bfloat16] * 2 and model.backward == [False] * 2
    assert model.seen[1] - model.seen[0] > 0.9, "the weight of the first step, converted and kept"
