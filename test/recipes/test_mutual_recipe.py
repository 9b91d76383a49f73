"""Peers in a recipe: trained together, decoded one by one."""

import shutil
from pathlib import Path

import pytest
import yaml
from shell import Finished, failure, run

STUDENT = Path("exp/asr_student_mutual_raw_char_sp")
TAG = "decode_asr_model_valid.acc.ave"
OPTIONS = ("--kd_config", "conf/mutual.yaml", "--test_sets", "dev")


@pytest.fixture()
def recipe(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished recipe, with a configuration of peers."""
    root = Path(shutil.copytree(finished.root, tmp_path / "kd1", symlinks=True))
    att = {"type": "kl", "tap": "decoder", "reduction": "utterance"}
    config = {"mutual": {"criteria": {"att": att}}, "scheduled_sampling": {"probability": 0.5}}
    (root / "conf" / "mutual.yaml").write_text(yaml.safe_dump(config))
    return root


def test_every_peer_is_decoded(recipe: Path) -> None:
    run(recipe, *OPTIONS, "--stage", "9", "--stop_stage", "10")
    second = recipe / f"{STUDENT}_peer2"
    assert (second / "valid.acc.ave.pth").exists() and (second / "config.yaml").exists()
    for peer in (recipe / STUDENT, second):
        assert (peer / TAG / "dev" / "text").exists()
    assert not yaml.safe_load((recipe / STUDENT / "train.yaml").read_text()).get("teacher")


def test_a_peer_that_is_not_each_or_first(recipe: Path) -> None:
    errors = failure(recipe, *OPTIONS, "--peers", "all")
    assert errors == "kd.sh: error: --peers all is neither each nor first\n"


@pytest.mark.parametrize("option", [("--generation", "2"), ("--unlabelled_sets", "extra")])
def test_peers_have_no_teacher(recipe: Path, option: tuple[str, str]) -> None:
    assert "peers have no teacher: leave out" in failure(recipe, *OPTIONS, *option)
