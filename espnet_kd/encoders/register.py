"""Register the encoders and front ends of this package with ESPnet."""

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from espnet_kd.encoders.deepspeech2 import DeepSpeech2
from espnet_kd.encoders.jasper import Jasper
from espnet_kd.encoders.sherpa_fbank import SherpaFbank
from espnet_kd.encoders.spectrogram import Spectrogram
from espnet_kd.host.training import add_choices

ENCODERS: dict[str, type[AbsEncoder]] = {"deepspeech2": DeepSpeech2, "jasper": Jasper}
FRONTENDS: dict[str, type[AbsFrontend]] = {"sherpa_fbank": SherpaFbank, "spectrogram": Spectrogram}


def register_encoders() -> None:
    """Make our names valid for ``encoder`` and ``frontend`` of a configuration, in this process."""
    add_choices(ENCODERS, FRONTENDS)
