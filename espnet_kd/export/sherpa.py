"""Models that sherpa-onnx loads, with our front end in their graphs.

sherpa-onnx computes Kaldi's features for nearly all its models, with a window, a pre-emphasis and a padding
that ESPnet's front end does not have, and no option of its Python interface changes them to the same numbers.
Two kinds get the waveform: omnilingual ASR for CTC, and Moonshine for transducers; see
``sherpa_transducer.py``.

sherpa-onnx gives a CTC model the waveform less its mean, divided by the square root of its variance plus
1e-5. The variance of what it gives is therefore v / (v + 1e-5), below 1, and the graph finds v again, and
the level of the speech, to about 0.1 % for speech at a tenth of full scale. Moonshine's gets the waveform as
it is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from espnet_kd.errors import UserError
from espnet_kd.export.graph_parts import needing_packages
from espnet_kd.export.search import PIECE, SPACE, Array, Settings

RATE = 16000  # samples per second of such models
ADDED = 1e-5  # to the variance
# sherpa-onnx's tokens of a Moonshine model: 1 begins and 2 ends a transcript. Here 0 is the blank, and the
# vocabulary begins at 3.
END, SHIFT = 2, 3
DECODERS = ("preprocess", "encode", "uncached_decode", "cached_decode")  # graphs of a transducer


def at_unit_variance(speech: Array) -> Array:
    """Return (1, N) samples as sherpa-onnx gives them to the graph, in float32."""
    speech = speech.astype(np.float32)
    mean = speech.mean(dtype=np.float32)
    variance = np.square(speech).mean(dtype=np.float32) - mean * mean
    scale = np.float32(1) / np.sqrt(max(variance, np.float32(0)) + np.float32(ADDED))
    found: Array = (speech - mean) * scale
    return found


def token_names(tokens: list[str], token_type: str) -> list[str]:
    """Return a token list whose tokens sherpa-onnx joins to the same text.

    It puts tokens side by side, and reads the sign of BPE's word starts as a space.
    """
    if token_type == "bpe":
        return tokens
    if token_type == "char":
        return [PIECE if token == SPACE else token for token in tokens]
    return [token if token.startswith("<") else f"{PIECE}{token}" for token in tokens]


def listed(tokens: list[str], token_type: str, settings: Settings) -> dict[int, str]:
    """Return the numbers and tokens that tokens.txt has for sherpa-onnx."""
    names = dict(enumerate(token_names(tokens, token_type)))
    if settings.search == "ctc":
        return names
    return {number + SHIFT: name for number, name in names.items() if number != settings.blank}


def refuse(settings: Settings, rate: int) -> None:
    """Refuse a model that sherpa-onnx cannot load.

    Raises:
        UserError: its sampling rate is another, or its search is not one for such models.
    """
    if settings.search == "attention":
        raise UserError(
            "--format sherpa: --search attention is not written for sherpa-onnx: give --search ctc for the "
            "CTC layer, or --format onnx"
        )
    if rate != RATE:
        raise UserError(f"--format sherpa: sherpa-onnx takes {RATE} Hz for such models, not {rate} Hz")
    if settings.beam_size > 1:
        raise UserError(
            f"--format sherpa: sherpa-onnx searches such models greedily, not with a beam of "
            f"{settings.beam_size}: give --beam_size 1"
        )
    if settings.blank != 0 and settings.search == "ctc":
        raise UserError(f"--format sherpa: sherpa-onnx has the blank as token 0, not {settings.blank}")


def recogniser(
    files: Mapping[str, Path], tokens: Path, least: int, threads: int = 1
) -> Callable[[Array], str]:
    """Return a function from (N,) samples at 16 kHz to their transcript by sherpa-onnx.

    Args:
        files: the graphs: ``model`` of CTC, or those of ``DECODERS``.
        tokens: tokens.txt.
        least: samples that the graph needs; shorter speech has an empty transcript.
        threads: of sherpa-onnx.
    """
    with needing_packages():
        import sherpa_onnx
    kinds: Any = sherpa_onnx.OfflineRecognizer
    options = {"tokens": str(tokens), "num_threads": threads}
    if "model" in files:
        recognizer = kinds.from_omnilingual_asr_ctc(model=str(files["model"]), **options)
    else:
        recognizer = kinds.from_moonshine(*(str(files[name]) for name in DECODERS), **options)

    def transcribe(speech: Array) -> str:
        if len(speech) < least:
            return ""
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE, speech)
        recognizer.decode_stream(stream)
        return " ".join(str(stream.result.text).split())

    return transcribe
