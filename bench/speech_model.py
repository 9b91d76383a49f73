"""Make ESPnet models and batches of a given size from random numbers."""

import argparse
from dataclasses import dataclass

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask
from torch import Tensor

SAMPLE_RATE = 16000  # Hz
TOKENS_PER_SECOND = 8
TOKENS = ["<blank>", "<unk>", *(chr(c) for c in range(ord("a"), ord("z") + 1)), "<sos/eos>"]


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a Conformer encoder with one Transformer decoder layer."""

    layers: int
    width: int

    def __str__(self) -> str:
        """Describe the size as the recipes do."""
        return f"{self.layers} x {self.width}"


@dataclass(frozen=True)
class StepCase:
    """Sizes of a model and of a batch (utterances, seconds), and how often a step is timed."""

    size: ModelSize
    utterances: int
    seconds: float
    rounds: int

    def __str__(self) -> str:
        """Describe the sizes."""
        return f"{self.size}, {self.utterances} x {self.seconds} s"


def build(size: ModelSize) -> ESPnetASRModel:
    """Build a CTC/attention model as in the recipes, in training mode."""
    config = ASRTask.get_default_config()
    config.update(
        token_list=TOKENS,
        normalize="utterance_mvn",
        normalize_conf={},
        specaug="specaug",
        specaug_conf={"apply_time_warp": False, "time_mask_width_range": [0, 20]},
        encoder="conformer",
        encoder_conf={
            "input_layer": "conv2d6",
            "num_blocks": size.layers,
            "output_size": size.width,
            "linear_units": 4 * size.width,
            "cnn_module_kernel": 15,
        },
        decoder="transformer",
        decoder_conf={"num_blocks": 1, "linear_units": 4 * size.width},
        model_conf={"ctc_weight": 0.3},
    )
    return ASRTask.build_model(argparse.Namespace(**config)).train()


def batch(utterances: int, seconds: float) -> dict[str, Tensor]:
    """Make a batch for the model's forward pass, with utterances of one length."""
    samples, tokens = int(seconds * SAMPLE_RATE), int(seconds * TOKENS_PER_SECOND)
    return {
        "speech": torch.randn(utterances, samples),
        "speech_lengths": torch.full((utterances,), samples),
        "text": torch.randint(2, len(TOKENS) - 1, (utterances, tokens)),
        "text_lengths": torch.full((utterances,), tokens),
    }
