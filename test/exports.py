"""Experiments of random weights and speech to check them on, for tests of `espnet-kd export`."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

RATE = 16000
TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]
ENCODER = {
    "output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "input_layer": "conv2d",
}  # fmt: skip
HYBRID = {
    "encoder": "conformer", "encoder_conf": ENCODER, "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 2},
    "model_conf": {"ctc_weight": 0.3},
}  # fmt: skip
TRANSDUCER = {
    "encoder_conf": {
        "input_conf": {"vgg_like": False, "subsampling_factor": 4, "conv_size": 16},
        "body_conf": [
            {"block_type": "conformer", "hidden_size": 16, "linear_size": 32, "heads": 2,
             "conv_mod_kernel_size": 7},
        ],
    },
    "decoder": "rnn", "decoder_conf": {"rnn_type": "lstm", "embed_size": 16, "hidden_size": 16},
    "joint_network_conf": {"joint_space_size": 16},
    "model_conf": {"auxiliary_ctc_weight": 0.3, "report_cer": False, "report_wer": False},
}  # fmt: skip
LOUDER = 30.0  # of the weights before a softmax, so that random models write more than blanks


def write_experiment(root: Path, **config: Any) -> Path:
    """Write an experiment of random weights, with means and variances of features."""
    import torch
    from espnet2.tasks.asr import ASRTask
    from espnet2.tasks.asr_transducer import ASRTransducerTask

    from espnet_kd.encoders.register import register_encoders

    register_encoders()
    task = ASRTransducerTask if "joint_network_conf" in config else ASRTask
    directory = root / "exp"
    directory.mkdir(parents=True)
    bins = 40
    generator = np.random.default_rng(0)
    mean = generator.normal(-8, 1, bins)
    np.savez(root / "stats.npz", count=10, sum=10 * mean, sum_square=10 * (mean**2 + 4))
    frontend = {"fs": RATE, "n_fft": 400, "hop_length": 160, "n_mels": bins}
    full = task.get_default_config() | {
        "token_list": TOKENS, "token_type": "char", "frontend_conf": frontend, "specaug": None,
        "normalize": "global_mvn", "normalize_conf": {"stats_file": str(root / "stats.npz")},
    } | config  # fmt: skip
    torch.manual_seed(1)
    model = task.build_model(argparse.Namespace(**full))
    for name, weight in model.state_dict().items():
        if name in ("ctc.ctc_lo.weight", "ctc_lin.weight", "joint_network.lin_out.weight"):
            weight *= LOUDER
        if name == "joint_network.lin_out.bias":
            weight[:3] -= 10.0  # else blanks or spaces alone
    torch.save(model.state_dict(), directory / "valid.acc.ave.pth")
    (directory / "config.yaml").write_text(yaml.safe_dump(full))
    return directory


def write_check_set(root: Path, rate: int = RATE, texts: bool = True) -> Path:
    """Write noise of three lengths, with transcripts."""
    directory = root / "dump" / "raw" / "dev"
    directory.mkdir(parents=True)
    generator = np.random.default_rng(2)
    tables: dict[str, list[str]] = {"wav.scp": [], "text": []}
    for i, seconds in enumerate((0.9, 1.4, 2.1)):
        path = directory / f"u{i}.wav"
        soundfile.write(path, generator.normal(0, 0.1, int(seconds * rate)), rate)
        tables["wav.scp"].append(f"u{i} {path}")
        tables["text"].append(f"u{i} A B CA")
    for table, lines in tables.items():
        if texts or table != "text":
            (directory / table).write_text("".join(f"{line}\n" for line in lines))
    return directory
