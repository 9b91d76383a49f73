"""Distillation in two phases from run.sh: of another topology, the first on speech without transcripts, too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from shell import Finished, failure, model, run, sh, write_corpus

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
)  # fmt: skip
FIRST = Path("exp/asr_recurrent_rkd_raw_char_sp")
SECOND = Path("exp/asr_recurrent_rkd_skd_raw_char_sp")


@pytest.fixture(scope="module")
def phased(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A recipe whose recurrent student a Transformer taught in two phases; six utterances have no text."""
    root = Path(shutil.copytree(finished.root, tmp_path_factory.mktemp("phased") / "kd1", symlinks=True))
    for name, config in {"rkd": RKD, "skd": SKD, "recurrent": RECURRENT}.items():
        (root / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    write_corpus(root / "data", extra=6)
    (root / "data/extra/text").unlink()
    output = run(root, "--stage", "3", "--stop_stage", "4", *OPTIONS)
    return Finished(root, output + run(root, "--stage", "9", "--stop_stage", "11", *OPTIONS))


def test_the_first_phase_trains_on_speech_without_transcripts(phased: Finished) -> None:
    config = yaml.safe_load((phased.root / FIRST / "config.yaml").read_text())
    assert [name for _, name, _ in config["train_data_path_and_name_and_type"]] == ["speech"]
    keys = [line.split()[0] for line in (phased.root / FIRST / "speech/wav.scp").read_text().splitlines()]
    assert len(keys) == 24 + 6 and sum(key.startswith("extra") for key in keys) == 6
    stats = torch.load(phased.root / FIRST / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]
    for phase in ("train", "valid"):
        assert "loss_kd_rkd" in stats[phase] and not {"loss_task", "cer_ctc", "acc"} & stats[phase].keys()
    assert "learned" not in phased.output


def test_the_second_phase_starts_from_the_student_of_the_first(phased: Finished) -> None:
    config = yaml.safe_load((phased.root / SECOND / "config.yaml").read_text())
    assert config["init_param"] == [f"{FIRST}/valid.loss.ave.pth:::kd_"]
    assert [name for _, name, _ in config["train_data_path_and_name_and_type"]] == ["speech", "text"]
    log = (phased.root / SECOND / "train.log").read_text()
    assert f"Loading pretrained params from {FIRST}/valid.loss.ave.pth" in log
    first, second = (
        torch.load(phased.root / exp / "1epoch.pth", weights_only=True) for exp in (FIRST, SECOND)
    )
    assert "kd_criteria.rkd.projection.weight" in first
    assert not [name for name in second if "projection" in name], "the projection is dropped"


def test_the_last_phase_is_decoded_and_the_table_has_both(phased: Finished) -> None:
    assert not list((phased.root / FIRST).glob("decode*"))
    text = (phased.root / "RESULTS.md").read_text()
    assert "| distilled: rkd, then skd |" in text
    rows = [line for line in text.splitlines() if line.startswith(f"| `{SECOND.name}` | ")]
    assert [[cell.strip() for cell in row.split("|")][2:5] for row in rows[1:]] == [
        ["1", "rkd", "0"],
        ["2", "skd", "0"],
    ]
    assert f"{FIRST}/valid.loss.ave.pth" in rows[2]
    assert f"Not scored: `{FIRST.name}`" not in text


def test_a_finished_phase_is_skipped(phased: Finished) -> None:
    output = run(phased.root, "--stage", "9", "--stop_stage", "9", *OPTIONS)
    assert output.count("already trained") == 2


def test_a_phase_after_one_that_is_not_finished_is_refused(phased: Finished, tmp_path: Path) -> None:
    root = Path(shutil.copytree(phased.root, tmp_path / "kd1", symlinks=True))
    record = json.loads((root / FIRST / "run.json").read_text())
    (root / FIRST / "run.json").write_text(json.dumps({**record, "done": False}))
    words = ("start", str(SECOND), "--role", "student", "--config", "conf/skd.yaml")
    result = sh(root, "python3", "-m", "espnet_kd", "runs", *words, "--previous", str(FIRST), "--", "x")
    assert f"{FIRST} is not trained to its end" in result.stderr


def test_unlabelled_speech_must_be_formatted(phased: Finished) -> None:
    options = ("--stage", "9", "--stop_stage", "9", "--student_args", "--seed 2", *OPTIONS)
    errors = failure(phased.root, *options, "--unlabelled_sets", "other")
    assert errors == "kd.sh: error: stage 9 needs dump/raw/other/wav.scp, which stage 4 makes\n"
