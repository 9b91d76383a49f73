"""The teacher never leaks into the student's files, and is not changed."""

import hashlib
from pathlib import Path

import torch
from recipe import KL, Recipe, own_tensors

CRITERIA = {
    "ctc": KL,
    "att": {**KL, "tap": "decoder", "weight": {"schedule": "linear", "from": 1, "to": 0, "steps": 3}},
    "hid": {
        "type": "hidden",
        "weight": 0.1,
        "student_tap": "encoder.encoders.0",
        "teacher_tap": "encoder.encoders.1",
    },
}


def digests(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir() if p.is_file()}


def test_files_of_student_and_teacher(recipe: Recipe) -> None:
    before = digests(recipe.root / "exp/teacher")
    exp = recipe.train("exp/leak", "student", max_epoch=2, teacher={"exp": "exp/teacher"}, criteria=CRITERIA)

    assert digests(recipe.root / "exp/teacher") == before
    plain = recipe.train("exp/leak-plain", "student")
    stock = torch.load(plain / "1epoch.pth", weights_only=True).keys()
    models = sorted(exp.glob("*epoch.pth")) + sorted(exp.glob("*.ave*.pth"))
    assert len(models) >= 3
    for path in models:
        assert torch.load(path, weights_only=True).keys() == stock, path
    state = torch.load(exp / "checkpoint.pth", weights_only=True)
    assert state["model"].keys() == stock
    own, projection = own_tensors(exp), {f"kd_criteria.hid.projection.{name}" for name in ("weight", "bias")}
    assert own.keys() == {"kd_step"} | projection
    assert own["kd_step"] == 4  # 8 utterances in batches of 4, twice
    optimizer = state["optimizers"][0]
    assert optimizer["espnet_kd"]["state"].keys() == projection
    assert optimizer["param_groups"][0]["params"] == list(range(sum(1 for _ in _parameters(recipe, plain))))
    assert max(optimizer["state"]) < len(optimizer["param_groups"][0]["params"])


def _parameters(recipe: Recipe, exp: Path):
    from espnet_kd.teachers.experiment import load_experiment

    return load_experiment(exp).model.parameters()


def test_tensors_and_buffers_of_the_teacher_in_memory(recipe: Recipe) -> None:
    from espnet_kd.teachers.experiment import load_experiment
    from espnet_kd.teachers.online import OnlineTeacher

    experiment = load_experiment(recipe.root / "exp/teacher")
    before = {k: v.clone() for k, v in experiment.model.state_dict().items()}
    teacher = OnlineTeacher([experiment], ["ctc.ctc_lo", "decoder"])
    text = torch.tensor([[3, 4, -1], [3, 3, 5]])
    torch.manual_seed(0)
    seen = teacher.targets(torch.randn(2, 16000), torch.tensor([12000, 16000]), text, torch.tensor([2, 3]))
    drawn = torch.rand(1)

    torch.manual_seed(0)
    torch.randn(2, 16000)
    assert torch.equal(drawn, torch.rand(1)), "the teacher must not draw from the student's random numbers"
    assert torch.equal(text, torch.tensor([[3, 4, -1], [3, 3, 5]]))
    assert seen["decoder"].lengths.tolist() == [3, 4]
    assert not any(t.values.requires_grad for t in seen.values())
    assert not experiment.model.training
    after = experiment.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
