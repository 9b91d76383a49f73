"""Make ESPnet know the encoders of this package by name."""

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.tasks.asr import encoder_choices

from espnet_kd.encoders.deepspeech2 import DeepSpeech2
from espnet_kd.encoders.jasper import Jasper

ENCODERS: dict[str, type[AbsEncoder]] = {"deepspeech2": DeepSpeech2, "jasper": Jasper}


def register_encoders() -> None:
    """Let ``encoder: NAME`` of a configuration name an encoder of ours, in this process."""
    encoder_choices.classes.update(ENCODERS)
