"""What the integration tests share: model sizes, command-line options, a way to train."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RATE = 16000
TOKENS = ("<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>")


def model(size: int, blocks: int, encoder: str = "transformer", layer: str = "conv2d") -> dict[str, Any]:
    """Configuration of a small CTC/attention model."""
    return {
        "encoder": encoder,
        "encoder_conf": {
            "output_size": size, "attention_heads": 2, "linear_units": 2 * size, "num_blocks": blocks,
            "input_layer": layer,
        },
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 2 * size, "num_blocks": 1},
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
        "frontend_conf": {"fs": RATE, "n_fft": 400, "hop_length": 160},
        "specaug": "specaug",
        "specaug_conf": {
            "apply_time_warp": False, "apply_time_mask": False, "apply_freq_mask": True,
            "freq_mask_width_range": [0, 5],
        },
        "optim": "adam", "optim_conf": {"lr": 0.001}, "scheduler": "warmuplr",
        "scheduler_conf": {"warmup_steps": 10},
        "batch_type": "unsorted", "batch_size": 4, "num_workers": 0, "use_matplotlib": False, "grad_clip": 5,
        "keep_nbest_models": 2, "best_model_criterion": [["valid", "acc", "max"]], "max_epoch": 1, "seed": 3,
        "use_tensorboard": False,
    }  # fmt: skip


def transducer(size: int, blocks: int) -> dict[str, Any]:
    """Configuration of a small transducer."""
    changes = {
        "encoder_conf": {
            "main_conf": {"pos_wise_act_type": "swish"},
            "input_conf": {"vgg_like": False, "subsampling_factor": 4, "conv_size": size},
            "body_conf": [
                {
                    "block_type": "conformer", "hidden_size": size, "linear_size": 2 * size, "heads": 2,
                    "conv_mod_kernel_size": 7, "num_blocks": blocks,
                }
            ],
        },
        "decoder": "rnn",
        "decoder_conf": {"rnn_type": "lstm", "num_layers": 1, "embed_size": size, "hidden_size": size},
        "joint_network_conf": {"joint_space_size": size},
        "model_conf": {"auxiliary_ctc_weight": 0.3, "report_cer": False, "report_wer": False},
        "best_model_criterion": [["valid", "loss_transducer", "min"]],
    }  # fmt: skip
    plain = model(size, blocks)
    return {key: plain[key] for key in plain if not key.startswith(("encoder", "scheduler"))} | changes


MODELS = {
    "teacher": model(32, 2, "conformer"),
    "student": model(16, 1, "conformer"),
    "transducer_teacher": transducer(32, 2),
    "transducer_student": transducer(16, 1),
}
KL = {"type": "kl", "weight": 1.0, "tap": "ctc.ctc_lo", "reduction": "utterance"}


def own_tensors(exp: Path) -> dict[str, Any]:
    """What a checkpoint.pth has under kd_."""
    from espnet_kd.methods.own import saved_tensors
    from espnet_kd.teachers.checkpoint import load_checkpoint

    return saved_tensors(load_checkpoint(exp / "checkpoint.pth"))


@dataclass(frozen=True)
class Recipe:
    """A stock recipe directory."""

    root: Path

    def options(self, name: str, **changes: Any) -> list[str]:
        """The part of a command line that data and model need."""
        config = self.root / f"conf-{name}.yaml"
        config.write_text(yaml.safe_dump({**MODELS.get(name, {}), **changes}))
        result = ["--config", str(config), "--token_type", "char", "--token_list", "tokens.txt"]
        for split, data in (("train", "train"), ("valid", "dev")):
            for file, kind in (("wav.scp", "speech,sound"), ("text", "text,text")):
                result += [f"--{split}_data_path_and_name_and_type", f"dump/raw/{data}/{file},{kind}"]
        return result

    def training(self, out: str | Path, name: str, **changes: Any) -> list[str]:
        """A whole command line for training."""
        result = self.options(name, **changes) + ["--output_dir", str(out)]
        for split in ("train", "valid"):
            for file in ("speech_shape", "text_shape.char"):
                result += [f"--{split}_shape_file", f"stats/{split}/{file}"]
        return result + [
            "--normalize",
            "global_mvn",
            "--normalize_conf",
            "stats_file=stats/train/feats_stats.npz",
        ]

    def train(self, out: str | Path, name: str, task: Any = None, **changes: Any) -> Path:
        """Train in this process, with our task unless another is given."""
        if task is None:
            from espnet_kd.tasks.asr import ASRDistillationTask as task
        with contextlib.chdir(self.root):
            task.main(cmd=self.training(out, name, **changes))
        return self.root / out
