"""The plot of frame weights: values, and which teacher is shown."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fabricated import CRITERIA, distilled, write_checkpoint, write_experiment, write_score

from espnet_kd.errors import UserError
from espnet_kd.report import frame_weights
from espnet_kd.report.frame_weights import WeightCurve, WeightedLayer
from espnet_kd.report.groups import make_groups
from espnet_kd.report.posteriors import Panel
from espnet_kd.report.run import find_runs


def test_weights_on_paper() -> None:
    hidden = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])  # norms 5, 0, 10: mean 5
    found = frame_weights._weights("activation", hidden, None)
    assert found.tolist() == pytest.approx([1, 0, 2])
    # norms squared 25, 0, 100: mean 125 / 3
    assert frame_weights._weights("activation", hidden, None, 2.0).tolist() == pytest.approx([0.6, 0, 2.4])
    logits = torch.tensor([[3.0, 1.0], [1.0, 1.0], [1.0, 3.0]]).log()  # 1 - P(blank): 1/4, 1/2, 3/4
    assert frame_weights._weights("nonblank", hidden, logits).tolist() == pytest.approx([0.5, 1, 1.5])


def test_the_teacher_of_a_weighted_phase_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def groups() -> list:
        return make_groups(find_runs([p for p in Path("exp").iterdir()], ["dev"], []))

    hidden = {"type": "hidden", "student_tap": "encoder", "teacher_tap": "encoder.blocks.3"}
    first = distilled() | {"criteria": {"rkd": {**hidden, "frame_weights": "activation", "weight_power": 2}}}
    plain = distilled() | {"criteria": CRITERIA | {"h": hidden}}
    write_experiment(Path("exp/plain"), plain, {"role": "student"})
    write_score(Path("exp/plain"), "dev", wrong=3)
    assert frame_weights.find_weighted_layer(groups()) is None
    write_experiment(Path("exp/first"), first, {"role": "student"})
    write_experiment(Path("exp/second"), distilled(), {"role": "student", "previous": "exp/first"})
    for exp in ("plain", "first", "second"):
        write_checkpoint(Path("exp", exp), 20)
    write_score(Path("exp/second"), "dev", wrong=3)
    layer = WeightedLayer(tmp_path / "exp/teacher", None, "encoder.blocks.3", 2.0)
    assert frame_weights.find_weighted_layer(groups()) == layer


def test_a_plot(tmp_path: Path) -> None:
    posteriors = np.random.default_rng(0).dirichlet(np.ones(4), 30).astype(np.float32)
    panel = Panel("teacher", posteriors, ["<blank>", "a", "b", "c"])
    curve = WeightCurve("nonblank", np.ones(30, dtype=np.float32))
    frame_weights.plot_weights(panel, [curve], 1.2, "u: a b", tmp_path / "weights.png")
    assert (tmp_path / "weights.png").stat().st_size > 5000


def test_an_unknown_utterance(tmp_path: Path) -> None:
    for name in ("wav.scp", "text"):
        (tmp_path / name).write_text("u x\n")
    with pytest.raises(UserError, match="has no utterance v"):
        frame_weights.draw_weights(WeightedLayer(tmp_path), tmp_path, tmp_path / "w.png", "v")
