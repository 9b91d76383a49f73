"""Copying parts of a teacher; whole models are in test/integration/test_task.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.methods.distillation import DistillationMethod
from espnet_kd.methods.initialise import check_frozen, check_initial, initialise, refuse_replaced
from espnet_kd.methods.own import count_batches
from espnet_kd.schedule import Schedule


def stack(layers: int, size: int = 2) -> nn.Module:
    return nn.ModuleDict(
        {"layers": nn.ModuleList(nn.Linear(size, size) for _ in range(layers)), "head": nn.BatchNorm1d(size)}
    )


def test_layers_by_number_and_buffers_too() -> None:
    student, teacher = stack(2), stack(4)
    teacher["head"].running_mean.fill_(5.0)
    kept = student["layers"][1].bias.clone()
    initialise(student, teacher, {"layers": [3], "head": True})
    assert torch.equal(student["layers"][0].weight, teacher["layers"][3].weight)
    assert torch.equal(student["layers"][1].bias, kept)
    assert student["head"].running_mean.tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("param", "ignore"), [("layer:layers", False), ("head:head:", False), ("::extra,", False), ("", True)]
)
def test_an_initial_student_of_which_nothing_is_loaded(tmp_path: Path, param: str, ignore: bool) -> None:
    """A part that the file has not, a colon that excludes everything, and no parameter of the same shape."""
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    path = tmp_path / "model.pth"
    torch.save({"head.weight": torch.ones(3), "extra.weight": torch.ones(1)}, path)
    student = stack(1)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    given = ":".join(filter(None, (str(path), param)))
    load_pretrained_model(given, student, ignore)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    with pytest.raises(UserError, match=r"would load nothing of .*model\.pth, which has extra, head: "):
        check_initial(student, [given], ignore)


def test_an_initial_student_of_which_a_part_is_loaded(tmp_path: Path) -> None:
    student, path = stack(1), tmp_path / "model.pth"
    for state in ({**student.state_dict(), "extra.weight": torch.ones(1)}, {"module": student.state_dict()}):
        torch.save(state, path)  # DeepSpeed's have a module
        for param in (f"{path}", f"{path}:head:head", f"{path}:head:head:head.weight", f"{path}:::extra"):
            check_initial(student, [param], ignore_mismatch=False)
            check_initial(student, [param], ignore_mismatch=True)
    with pytest.raises(UserError, match="^init_param: the student has no nose; the model has layers, head$"):
        check_initial(student, [f"{path}:head:nose"], ignore_mismatch=True)


def test_a_name_that_freezes_nothing() -> None:
    check_frozen(stack(1), ["layers", "layers.0.weight", "head"])
    with pytest.raises(UserError, match="^freeze_param: the student has no layer; it has layers, head, "):
        check_frozen(stack(1), ["head", "layer"])


def test_a_copy_is_not_shared() -> None:
    student, teacher = stack(1), stack(1)
    initialise(student, teacher, {"layers.0": "layers.0"})
    with torch.no_grad():
        student["layers"][0].weight.add_(1)
    assert not torch.equal(student["layers"][0].weight, teacher["layers"][0].weight)


@pytest.mark.parametrize(
    ("teacher", "parts", "message"),
    [
        (
            stack(2, size=3),
            {"layers": [0]},
            "layers.0.bias is (2,) in the student, layers.0.bias is (3,) in the teacher",
        ),
        (stack(2), {"layers": [2]}, "the teacher has no layers.2; layers has 0, 1"),
        (stack(2), {"layers": []}, "neither true, a path, a list of layer numbers nor"),
        (stack(2), {"layers": [True]}, "neither true, a path, a list of layer numbers nor"),
        (stack(2), ["layers"], "init_from_teacher: ['layers'] is not a mapping: write"),
        (stack(2), {"tail": True}, "the student has no tail; the model has layers, head"),
    ],
)
def test_refused(teacher: nn.Module, parts: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        initialise(stack(2), teacher, parts)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("param", "way_out"),
    [
        ("a.pth", "a.pth:::encoder"),
        ("a.pth:::kd_,encoder.embed", "a.pth:::kd_,encoder.embed,encoder"),
        ("a.pth:model:", "a.pth:model::model.encoder"),
        ("a.pth:enc:encoder", "a.pth:enc:encoder:enc"),
        ("a.pth:ctc:ctc", None),
        ("a.pth:enc:encoders", None),
        ("a.pth:embed:encoder.embed", None),  # a part of it is meant
        ("a.pth:::encoder", None),
        ("a.pth:model::kd_,model.encoder", None),
    ],
)
def test_a_part_that_init_param_would_replace_is_refused(param: str, way_out: str | None) -> None:
    params = ["b.pth:decoder:decoder", param]
    if way_out is None:
        refuse_replaced(["encoder"], params)
    else:
        with pytest.raises(UserError, match=f"encoder would be replaced by .* init_param {way_out}$"):
            refuse_replaced(["encoder"], params)


class Scheduled(nn.Module):
    """A student whose task begins with batch 2, and whose criterion ends with it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(2, 2), nn.Linear(2, 1)
        self.kd_criteria = nn.ModuleDict({"hidden": nn.Linear(2, 3)})
        term = SimpleNamespace(weight=Schedule(1.0, 0.0, 1))
        self.kd_objective = SimpleNamespace(task_weight=Schedule(0.0, 1.0, 1), terms=(term,))
        self.kd_methods = [DistillationMethod()]
        count_batches(self)

    def forward(self, speech: Tensor) -> Tensor:
        step, encoded = float(self.kd_step), self.encoder(speech)
        losses = self.head(encoded).square().sum(), self.kd_criteria["hidden"](encoded).square().sum()
        self.kd_step += 1
        weights = self.kd_objective.task_weight, self.kd_objective.terms[0].weight
        return sum(weight(step) * loss for weight, loss in zip(weights, losses, strict=True))


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {n.rpartition(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("library", ["torch", "lightning"])
def test_adams_weight_decay_spares_what_waits_for_its_loss(library: str) -> None:
    """It would move every weight by the learning rate, whatever the size of the decay."""
    model = Scheduled()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=1e-6)
    found = []
    if library == "torch":
        for method in model.kd_methods:
            method.before_training(model, [optimizer], None)
        for _ in range(3):
            model(torch.ones(1, 2)).backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(moved(model, before))
            before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    else:
        lightning = pytest.importorskip("lightning")
        from espnet_kd.tasks.lightning import KeepOwnState

        class Recipe(lightning.LightningModule):
            """A recipe of ESPnet3."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def training_step(self, batch: Tensor, number: int) -> Tensor:
                return self.model(batch)

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return optimizer

            def on_train_batch_end(self, *_: object) -> None:
                found.append(moved(model, before))
                before.update({name: p.detach().clone() for name, p in model.named_parameters()})

        lightning.Trainer(
            max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[KeepOwnState()],
        ).fit(Recipe(), torch.utils.data.DataLoader(torch.ones(3, 2)))  # fmt: skip
    early, late = {"encoder", "kd_criteria.hidden"}, {"encoder", "head"}
    assert found == [early, early, late]
