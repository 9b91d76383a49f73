"""Stages 6 to 12 with transducers, of which the student streams: --asr_task asr_transducer."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from shell import Finished, failure, run

CHECKPOINT = "valid.loss_transducer.ave"
OPTIONS = (
    "--asr_task", "asr_transducer", "--teacher_config", "conf/t.yaml", "--student_config", "conf/s.yaml",
    "--kd_config", "conf/lattice.yaml", "--inference_config", "conf/streaming.yaml",
    "--teacher_inference_config", "conf/beam.yaml",
    "--inference_asr_model", f"{CHECKPOINT}.pth", "--test_sets", "dev",
)  # fmt: skip


def transducer(blocks: int) -> dict[str, object]:
    """A transducer of a few thousand parameters."""
    block = {"block_type": "conformer", "hidden_size": 16, "linear_size": 16, "heads": 2}
    return {
        "encoder_conf": {
            "main_conf": {"pos_wise_act_type": "swish"},
            "input_conf": {"vgg_like": False, "subsampling_factor": 4, "conv_size": 16},
            "body_conf": [{**block, "conv_mod_kernel_size": 7, "num_blocks": blocks}],
        },
        "decoder": "rnn",
        "decoder_conf": {"rnn_type": "lstm", "num_layers": 1, "embed_size": 16, "hidden_size": 16},
        "joint_network_conf": {"joint_space_size": 16},
        "model_conf": {"auxiliary_ctc_weight": 0.3, "report_cer": True},
        "frontend_conf": {"n_fft": 400, "hop_length": 160},
        "optim": "adam", "optim_conf": {"lr": 0.005},
        "batch_type": "sorted", "batch_size": 8, "max_epoch": 1, "num_workers": 0, "use_matplotlib": False,
        "keep_nbest_models": 1, "best_model_criterion": [["valid", "loss_transducer", "min"]],
    }  # fmt: skip


def streaming(config: dict[str, Any]) -> dict[str, object]:
    """The same, trained on chunks of random size."""
    chunks = {"dynamic_chunk_training": True, "short_chunk_size": 20, "num_left_chunks": 4}
    return config | {"encoder_conf": config["encoder_conf"] | {"main_conf": chunks}}


@pytest.fixture(scope="module")
def recipe(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished recipe with configurations of transducers beside the others."""
    root = Path(shutil.copytree(finished.root, tmp_path_factory.mktemp("t") / "kd1", symlinks=True))
    configs = {
        "t": transducer(2),
        "s": streaming(transducer(1)),
        "lattice": {"criteria": {"lattice": {"type": "transducer", "weight": 1.0}}},
        "hidden": {
            "task_weight": 0,
            "criteria": {"hidden": {"type": "hidden", "tap": "encoder", "weight": 1.0}},
        },
        "beam": {"beam_size": 1},
        "streaming": {"beam_size": 1, "streaming": True, "decoding_window": 640, "left_context": 16},
    }
    for name, config in configs.items():
        (root / "conf" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return root


def test_transducers_run_through_the_stages(recipe: Path) -> None:
    output = run(recipe, "--stage", "6", *OPTIONS)
    student = recipe / "exp/asr_s_lattice_raw_char_sp"
    decoded = student / f"streaming_asr_model_{CHECKPOINT}/dev"
    assert json.loads((decoded / "score.json").read_text())["wer"]["reference"] > 0
    table = (recipe / "RESULTS.md").read_text()
    assert "## Emission delay" in table and "| 640 |" in table
    assert "distilled: lattice" in table and "valid.loss_transducer.ave.pth" in table
    with zipfile.ZipFile(student / f"{student.name}_{CHECKPOINT}.zip") as packed:
        # The average of one epoch is a link to it.
        assert {f"exp/{student.name}/{name}" for name in ("config.yaml", "1epoch.pth")} <= set(
            packed.namelist()
        )
    assert "stage 12: took" in output
    # A phase of hidden layers alone needs transcripts, too: its speech must have been labelled.
    phase = ("--kd_config", "conf/hidden.yaml", "--unlabelled_sets", "test")
    stage = ("--stage", "9", "--stop_stage", "9")
    assert "stage 9 needs dump/raw/pseudo/" in failure(recipe, *OPTIONS, *phase, *stage)


def test_another_task_is_refused(recipe: Path) -> None:
    assert "--asr_task rnnt is not asr or asr_transducer" in failure(recipe, "--asr_task", "rnnt")
