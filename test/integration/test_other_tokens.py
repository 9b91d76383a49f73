"""Teachers with another token list than the student's."""

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from recipe import KL, Recipe

from espnet_kd.errors import UserError
from espnet_kd.targets import command

pytestmark = pytest.mark.slow(seconds=10)
CRITERIA = {"ctc": KL, "att": {**KL, "tap": "decoder"}}
HIDDEN = {"enc": {"type": "hidden", "tap": "encoder", "reduction": "utterance"}}
ALONE = {"batch_size": 1, "task_weight": 0.5}


def statistics(exp: Path) -> dict[str, dict[str, float]]:
    return torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]


def test_hidden_vectors_need_no_common_tokens(recipe: Recipe) -> None:
    """A teacher with other tokens, online and stored, teaches as one with the same tokens."""
    foreign = recipe.root / "exp/foreign"
    shutil.copytree(recipe.root / "exp/teacher", foreign)
    config = yaml.safe_load((foreign / "config.yaml").read_text())
    config["token_list"] = [token.lower() for token in config["token_list"]]
    (foreign / "config.yaml").write_text(yaml.safe_dump(config))
    with contextlib.chdir(recipe.root):
        Path("hidden.yaml").write_text(yaml.safe_dump({"criteria": HIDDEN}))
        words = ["--config", "hidden.yaml", "--store", "exp/foreign-targets", "--workers", "1"]
        command.main([*words, "--teacher", "exp/foreign", "--data", "dump/raw/train", "dump/raw/dev"])
    values = []
    stored = {"store": "exp/foreign-targets"}
    teachers = {"same": {"exp": "exp/teacher"}, "online": {"exp": "exp/foreign"}, "stored": stored}
    for name, teacher in teachers.items():
        exp = recipe.train(f"exp/foreign-{name}", "student", teacher=teacher, criteria=HIDDEN, **ALONE)
        values.append(statistics(exp)["train"]["loss_kd_enc"])
    assert values[1] == pytest.approx(values[0], rel=1e-6) and values[0] > 0
    assert values[2] == pytest.approx(values[0], rel=0.05)  # its projection begins with other numbers
    with pytest.raises(UserError, match="the teacher of the store, and neither list contains the other"):
        recipe.train("exp/refused", "student", teacher=stored, criteria={**HIDDEN, "ctc": CRITERIA["ctc"]})


def test_tokens_in_another_order(recipe: Recipe) -> None:
    """A teacher that numbers the tokens in another way teaches what it would with the student's numbers."""
    other = recipe.root / "exp/other-order"
    shutil.copytree(recipe.root / "exp/teacher", other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    tokens = config["token_list"]
    order = [0, *range(len(tokens) - 2, 0, -1), len(tokens) - 1]
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "token_list": [tokens[i] for i in order]}))
    state = torch.load(other / "valid.acc.ave.pth", weights_only=True)
    for name, tensor in state.items():
        if name.startswith(("ctc.ctc_lo.", "decoder.embed.0.", "decoder.output_layer.")):
            state[name] = tensor[order]
    (other / "valid.acc.ave.pth").unlink()  # a link
    torch.save(state, other / "valid.acc.ave.pth")
    found = []
    for name in ("teacher", "other-order"):
        teacher = {"exp": f"exp/{name}"}
        exp = recipe.train(f"exp/of-{name}", "student", teacher=teacher, criteria=CRITERIA, **ALONE)
        found.append({n: v for n, v in statistics(exp)["train"].items() if "loss" in n})
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[0]["loss_kd_att"] > 0
