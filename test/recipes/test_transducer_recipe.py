"""Stages 6 to 12 with transducers, of which the student streams: --asr_task asr_transducer."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from shell import Finished, failure, run

pytestmark = [pytest.mark.slow(seconds=70), pytest.mark.long]

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
    talkative = {"init_param": ["talkative.pth"], "optim_conf": {"lr": 1e-5}}
    by_time = {"beam_size": 2, "beam_search_config": {"search_type": "tsd", "max_sym_exp": 2}}
    configs = {
        "t": transducer(2),
        "s": streaming(transducer(1)),
        "lattice": {"criteria": {"lattice": {"type": "transducer", "weight": 1.0}}},
        "hidden": {
            "task_weight": 0,
            "criteria": {"hidden": {"type": "hidden", "tap": "encoder", "weight": 1.0}},
        },
        "delay": {"criteria": {"lattice": {"type": "transducer", "kind": "collapsed", "delay": "auto"}}},
        "auto": {"targets": "auto", "criteria": {"lattice": {"type": "transducer", "weight": 1.0}}},
        "talking_t": transducer(1) | talkative,
        "talking_s": streaming(transducer(1)) | talkative,
        # Time by time, so that a model that always has something to say comes to an end.
        "talking": by_time,
        "talking_in_chunks": by_time | {"streaming": True, "decoding_window": 640, "left_context": 16},
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


def test_a_streaming_student_is_taught_with_its_own_delay(recipe: Path) -> None:
    stage = ("--stage", "9", "--stop_stage", "9")
    tag = ("--student_tag", "tagged")
    errors = failure(recipe, *OPTIONS, "--kd_config", "conf/delay.yaml", *stage, *tag)
    assert errors == (
        "kd.sh: error: 'delay: auto' in conf/delay.yaml needs the student without a teacher, "
        "exp/asr_s_raw_char_sp: add --student_alone true\n"
    )
    run(recipe, *OPTIONS, "--kd_config", "", *stage)
    run(recipe, *OPTIONS, "--kd_config", "conf/delay.yaml", *stage)
    log = (recipe / "exp/asr_s_delay_raw_char_sp/train.log").read_text()
    assert "delay of exp/asr_s_raw_char_sp after exp/asr_t_raw_char_sp: " in log
    assert "criteria: lattice: delay: " in log and "the median of " in log


def test_noisy_students_follow_the_rule(recipe: Path) -> None:
    """The first streams, its teacher does not: hard targets; the second is taught by its like: soft ones."""
    shutil.copytree(recipe / "data/test", recipe / "data/more")
    make_talkative(recipe / "data/token_list/char/tokens.txt", recipe / "talkative.pth")
    options = (
        *OPTIONS, "--speed_perturb_factors", "", "--teacher_config", "conf/talking_t.yaml",
        "--student_config", "conf/talking_s.yaml", "--kd_config", "conf/auto.yaml",
        "--inference_config", "conf/talking_in_chunks.yaml",
        "--teacher_inference_config", "conf/talking.yaml",
        "--unlabelled_sets", "more", "--unlabelled_share", "0.5", "--generation", "2",
        "--pseudo_label_args", "--max_rate 1000 --max_repeats 1000",
    )  # fmt: skip
    output = run(recipe, "--stage", "3", *options)
    assert output.count("streaming is left out") == 1
    name = "asr_talking_s_auto_raw_char_more_share0.5_max_rate1000_max_repeats1000_gen{}"
    for generation, targets in ((1, "hard"), (2, "soft")):
        exp = recipe / "exp" / name.format(generation)
        log = (exp / "train.log").read_text()
        assert f"targets: {targets}: " in log and "2210.05793" in log
        assert ("loss_kd_lattice=" in log) == (targets == "soft")
        assert json.loads((exp / "run.json").read_text())["mix"]["pseudo"][0]["kept"]["utterances"] > 0
    assert "## Generations" in (recipe / "RESULTS.md").read_text()


def make_talkative(tokens: Path, out: Path) -> None:
    """Return an output layer that makes an untrained transducer emit letters now and then."""
    names = tokens.read_text().splitlines()
    weight = 8 * torch.randn(len(names), 16, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor([0.0 if i == 0 else 2.0 if name.isalpha() else -9.0 for i, name in enumerate(names)])
    torch.save({"joint_network.lin_out.weight": weight, "joint_network.lin_out.bias": bias}, out)


def test_another_task_is_refused(recipe: Path) -> None:
    assert "--asr_task rnnt is not asr or asr_transducer" in failure(recipe, "--asr_task", "rnnt")
