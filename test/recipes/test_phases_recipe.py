"""Distillation in two phases from run.sh: another topology, the first on speech without transcripts, too."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from shell import Finished, failure, model, run, script

from espnet_kd.methods.own import saved_tensors

pytestmark = pytest.mark.slow(seconds=15)

RKD = {
    "task_weight": 0.0, "best_model_criterion": [["valid", "loss", "min"]],
    "criteria": {
        "rkd": {
            "type": "hidden", "student_tap": "encoder.layers.0", "teacher_tap": "encoder.encoders.1",
            "frame_weights": "nonblank",
        },
    },
}  # fmt: skip
SKD = {"criteria": {"skd": {"type": "softmax_l2", "weight": 1.0, "tap": "ctc.ctc_lo"}}}
RECURRENT = {
    **model(1), "encoder": "deepspeech2",
    "encoder_conf": {
        "convolutions": [{"channels": 4, "kernel": [5, 11], "stride": [4, 2]}], "layers": 1, "hidden": 12
    },
}  # fmt: skip
OPTIONS = (
    "--student_config", "conf/recurrent.yaml", "--kd_config", "conf/rkd.yaml,conf/skd.yaml",
    "--unlabelled_sets", "extra", "--test_sets", "dev",
    "--num_splits_asr", "2",
)  # fmt: skip
STAGE = ("--stage", "9", "--stop_stage", "9")
FIRST = Path("exp/asr_recurrent_rkd_raw_char_sp")
SECOND = Path("exp/asr_recurrent_rkd_skd_raw_char_sp")


@pytest.fixture(scope="module")
def phased(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose recurrent student a Transformer taught in two phases; three utterances have no text."""
    root = Path(shutil.copytree(finished.root, tmp_path_factory.mktemp("phased") / "kd1", symlinks=True))
    for name, config in {"rkd": RKD, "skd": SKD, "recurrent": RECURRENT}.items():
        (root / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    for table in ("wav.scp", "utt2num_samples"):
        lines = (root / "dump/raw/test" / table).read_text().splitlines()
        (root / "dump/raw/extra").mkdir(exist_ok=True)
        (root / "dump/raw/extra" / table).write_text("".join(f"extra-{line}\n" for line in lines))
    run(root, *STAGE, *OPTIONS)
    return root


def test_the_first_phase_trains_on_speech_without_transcripts(phased: Path) -> None:
    config = yaml.safe_load((phased / FIRST / "config.yaml").read_text())
    assert [name for _, name, _ in config["train_data_path_and_name_and_type"]] == ["speech"]
    assert config["multiple_iterator"] is True
    assert config["train_shape_file"] == [f"{FIRST}/speech/splits2/utt2num_samples"]
    keys = [line.split()[0] for line in (phased / FIRST / "speech/wav.scp").read_text().splitlines()]
    assert len(keys) == 24 + 3 and sum(key.startswith("extra") for key in keys) == 3
    stats = torch.load(phased / FIRST / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]
    for phase in ("train", "valid"):
        assert "loss_kd_rkd" in stats[phase] and not {"loss_task", "cer_ctc", "acc"} & stats[phase].keys()


def test_the_second_phase_starts_from_the_student_of_the_first(phased: Path) -> None:
    config = yaml.safe_load((phased / SECOND / "config.yaml").read_text())
    assert config["init_param"] == [f"{FIRST}/valid.loss.ave.pth:::kd_"]
    assert [name for _, name, _ in config["train_data_path_and_name_and_type"]] == ["speech", "text"]
    log = (phased / SECOND / "train.log").read_text()
    assert f"Loading pretrained params from {FIRST}/valid.loss.ave.pth" in log
    first, second = (
        saved_tensors(torch.load(phased / exp / "checkpoint.pth", weights_only=True))
        for exp in (FIRST, SECOND)
    )
    assert "kd_criteria.rkd.projection.weight" in first
    assert not [name for name in second if "projection" in name], "the projection is dropped"


def test_unlabelled_speech_must_be_formatted(phased: Path) -> None:
    errors = failure(phased, *STAGE, *OPTIONS, "--unlabelled_sets", "other")
    assert errors == "kd.sh: error: stage 9 needs dump/raw/other/wav.scp, which stage 4 makes\n"


def test_more_speech_is_not_forgotten(phased: Path) -> None:
    errors = failure(phased, *STAGE, *OPTIONS, "--unlabelled_sets", "")
    assert errors == (
        f"kd.sh: error: {FIRST} was trained on unlabelled sets too: "
        "give the same --unlabelled_sets, or remove it\n"
    )


def test_unlabelled_sets_are_formatted_and_filtered_without_text(recipe: Path) -> None:
    stub = script(recipe / "stub", '#!/usr/bin/env bash\necho "$@"\n')
    for name in ("train", "dev", "extra"):
        for root in ("data", "dump/raw/org"):
            (recipe / root / name).mkdir(parents=True)
            (recipe / root / name / "wav.scp").touch()
    words = ("--stage", "3", "--stop_stage", "4", "--speed_perturb_factors", "", "--python", str(stub))
    lines = run(recipe, *words, *OPTIONS).splitlines()
    calls = {line.split()[-1]: "--unlabelled" in line for line in lines if line.startswith("-m espnet_kd ")}
    sets = ("train", "dev", "extra")
    assert calls == {f"dump/raw/{part}{name}": name == "extra" for name in sets for part in ("org/", "")}
