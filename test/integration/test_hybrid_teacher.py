"""A teacher of ESPnet's ASR task with `decoder: transducer`, by the stand-in for warprnnt_pytorch."""

import argparse
import sys
from pathlib import Path

import pytest
import torch
import yaml
from recipe import TOKENS, model

from espnet_kd.errors import UserError
from espnet_kd.rnnt import rnnt_loss
from espnet_kd.teachers.experiment import load_experiment
from espnet_kd.teachers.online import OnlineTeacher

STANDINS = Path(__file__).parents[2] / "tools" / "standins"
BATCH = (
    torch.randn(2, 16000),
    torch.tensor([16000, 14000]),
    torch.tensor([[3, 4], [5, -1]]),
    torch.tensor([2, 1]),
)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as training leaves it."""
    from espnet2.tasks.asr import ASRTask

    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.delitem(sys.modules, "warprnnt_pytorch", raising=False)
    changes = {
        "decoder": "transducer",
        "decoder_conf": {"hidden_size": 16},
        "joint_net_conf": {"joint_space_size": 16},
    }
    changes["model_conf"] = {"ctc_weight": 0.3, "report_cer": False, "report_wer": False}
    config = ASRTask.get_default_config() | model(16, 1) | changes | {"token_list": list(TOKENS)}
    built = ASRTask.build_model(argparse.Namespace(**config))
    torch.save(built.state_dict(), tmp_path / "valid.loss.ave.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_its_lattice_is_that_of_its_own_loss(experiment: Path) -> None:
    found = load_experiment(experiment)
    lattice = OnlineTeacher([found], ["joint_network"]).targets(*BATCH)["joint_network"]
    ours = rnnt_loss(lattice.values, BATCH[2].clamp(min=0), lattice.lengths, BATCH[3])
    with torch.no_grad():
        _, stats, _ = found.model(*(x.clone() for x in BATCH))
    torch.testing.assert_close(stats["loss_transducer"].squeeze(), ours, rtol=1e-4, atol=1e-4)


def test_the_stand_in_is_found_and_without_it_the_way_out_is_named(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(STANDINS)])
    monkeypatch.delitem(sys.modules, "warprnnt_pytorch", raising=False)
    assert load_experiment(experiment).checkpoint.name == "valid.loss.ave.pth"  # finds that of the checkout
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(STANDINS)])
    monkeypatch.delitem(sys.modules, "warprnnt_pytorch", raising=False)
    monkeypatch.setattr("espnet_kd.teachers.experiment.STAND_INS", STANDINS / "nowhere")
    with pytest.raises(
        UserError, match="imports warprnnt_pytorch: install it, or set PYTHONPATH to tools/standins"
    ):
        load_experiment(experiment)
