"""What distillation adds to a model stays out of its state dict, and is resumed exactly."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

from espnet_kd.errors import UserError
from espnet_kd.methods.own import count_batches, keep_apart, load_own, own_tensors, peer_models


class Student(nn.Module):
    """A stock model with something under kd_."""

    def __init__(self, hidden: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.kd_criteria = nn.ModuleDict({"hid": nn.Linear(3, hidden)})
        self.last = nn.Linear(3, 1)
        count_batches(self)


def test_the_state_dict_is_stock() -> None:
    stock = ["first.weight", "first.bias", "last.weight", "last.bias"]
    model = Student()
    assert list(model.state_dict()) == stock
    assert own_tensors(model).keys() == {
        "kd_step", "kd_criteria.hid.weight", "kd_criteria.hid.bias",
    }  # fmt: skip
    model.load_state_dict({**model.state_dict(), "kd_step": torch.tensor(7.0)})
    assert model.kd_step == 0, "only a checkpoint says where a training was"
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({name: model.state_dict()[name] for name in stock[:3]})


def test_a_module_around_loads_it_strictly() -> None:
    """As the moving average of ESPnet3's EMACallback does where a training goes on."""
    around = nn.ModuleDict({"ema_model": Student()})
    around.load_state_dict(around.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"ema_model.first.bias\""):
        around.load_state_dict({k: v for k, v in around.state_dict().items() if "first.bias" not in k})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_counter_goes_on_in_every_precision(dtype: torch.dtype) -> None:
    model = Student().to(dtype)
    model.kd_step += 2048  # in float16 2048 + 1 is 2048, in bfloat16 256 + 1 is 256
    model.kd_step += 1
    assert float(model.kd_step) == 2049.0


def test_the_same_tensors_after_loading() -> None:
    one, two = Student(), Student()
    one.kd_step += 5
    load_own(two, {**own_tensors(one), "kd_step": torch.tensor(5.0, dtype=torch.float64)})  # an older one
    assert two.kd_step == 5 and two.kd_step.dtype == torch.int64
    assert torch.equal(one.kd_criteria.hid.weight, two.kd_criteria.hid.weight)


def test_criteria_may_change(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_own(Student(), {"kd_step": torch.tensor(1), "kd_criteria.old.weight": torch.zeros(1)})
    assert [record.message.split(" ")[0] for record in caplog.records] == [
        "kd_criteria.hid.bias", "kd_criteria.hid.weight", "kd_criteria.old.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ({"kd_peers.2.first.bias": torch.zeros(3)}, "it has kd_peers.2.first.bias, so it is of other peers"),
        (own_tensors(Student(4)), "kd_criteria.hid.bias is (4,) in the checkpoint, (2,) in this"),
    ],
)
def test_what_does_not_fit_is_refused(saved: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as error:
        load_own(Student(), saved)
    assert expected in str(error.value)


def test_peers_get_stock_names() -> None:
    tensors = {"kd_step": 0, "kd_peers.2.ctc.bias": 1, "kd_peers.10.ctc.bias": 2}
    assert peer_models(tensors) == {2: {"ctc.bias": 1}, 10: {"ctc.bias": 2}}


def parts(model: nn.Module) -> list[dict[str, Any]]:
    """Groups of parameters such that ours are between stock ones."""
    bias = [p for name, p in model.named_parameters() if "bias" in name]
    return [{"params": [p for p in model.parameters() if p.dim() > 1]}, {"params": bias, "lr": 0.2}]


def test_the_optimizer_of_a_stock_model_takes_the_state() -> None:
    model = Student()
    optimizer = torch.optim.Adam(parts(model))
    keep_apart(model, [optimizer])
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    saved = optimizer.state_dict()
    assert [group["params"] for group in saved["param_groups"]] == [[0, 1], [2, 3]]
    own = saved["espnet_kd"]
    assert own["state"].keys() == {"kd_criteria.hid.weight", "kd_criteria.hid.bias"}
    assert own["tensors"].keys() == own_tensors(model).keys()

    alone = nn.ModuleDict({"first": nn.Linear(2, 3), "last": nn.Linear(3, 1)})
    stock = torch.optim.Adam(parts(alone))
    stock.load_state_dict(saved)
    for name, parameter in alone.named_parameters():
        expected = optimizer.state[dict(model.named_parameters())[name]]
        assert all(torch.equal(value, expected[key]) for key, value in stock.state[parameter].items())
        assert stock.state[parameter]

    again = Student()
    resumed = torch.optim.Adam(parts(again))
    keep_apart(again, [resumed])
    resumed.load_state_dict(stock.state_dict())  # criteria have come since
    assert len(resumed.state) == 4
    for older in (False, True):  # an older checkpoint numbers all parameters
        if older:
            plain = torch.optim.Adam(parts(model))
            plain.load_state_dict({**plain.state_dict(), "state": dict(enumerate(optimizer.state.values()))})
            saved = plain.state_dict()
        resumed.load_state_dict(saved)
        assert len(resumed.state) == 6


def test_gradients_that_wait_for_more_batches_are_resumed() -> None:
    """Three batches, two of which make an update: the third counts in the first update after the epoch."""

    class Training:
        def __init__(self) -> None:
            torch.manual_seed(0)
            self.model = Student()
            self.optimizer = torch.optim.SGD(parts(self.model), lr=0.1)
            keep_apart(self.model, [self.optimizer], with_gradients=True)

        def train(self, *batches: float) -> None:
            for number, batch in enumerate(batches, 1):
                hidden = self.model.first(torch.tensor([batch, 1.0]))
                (self.model.last(hidden).sum() + self.model.kd_criteria["hid"](hidden).sum()).backward()
                if number % 2 == 0:
                    self.optimizer.step()
                    self.optimizer.zero_grad()

    whole, resumed = Training(), Training()
    whole.train(1.0, 2.0, 3.0)
    resumed.model.load_state_dict(whole.model.state_dict())
    load_own(resumed.model, own_tensors(whole.model))
    resumed.optimizer.load_state_dict(whole.optimizer.state_dict())
    for training in (whole, resumed):
        training.train(4.0, 5.0)
    for expected, found in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(expected, found)
    assert not whole.optimizer.state_dict()["espnet_kd"]["gradients"]
