"""Speech that arrives in chunks, decoded by sherpa-onnx with what ``sherpa_chunks.py`` writes.

sherpa-onnx computes features frame by frame, and gives the encoder ``Chunks.samples / Chunks.hop`` frames at
a time as soon as there is one frame more. It is never told which frames are the last: the speech is followed
by silence, until the frames of the last speech have been given.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from espnet_kd.export.graph_parts import needing_packages
from espnet_kd.export.search import Array, Chunks
from espnet_kd.export.sherpa import RATE

STREAM_PARTS = ("encoder", "decoder", "joiner")  # graphs, by sherpa-onnx's names
GIVEN = RATE // 25  # samples that are handed over at a time; any number will do


def frames_of(samples: int, cut: Chunks) -> int:
    """Return how many frames of features an utterance has."""
    return (samples + cut.hop // 2) // cut.hop


def first_frames(cut: Chunks) -> int:
    """Return how many frames of features ESPnet's first chunk has."""
    used = cut.samples - (cut.samples - cut.overlap) % cut.hop
    return frames_of(used, cut) - cut.trim


def calls_for(samples: int, cut: Chunks) -> int:
    """Return how often the encoder runs until it has seen all frames of an utterance."""
    frames, each = frames_of(samples, cut), cut.samples // cut.hop
    return 1 + max(0, -(-(frames - first_frames(cut)) // each))


def silence_after(samples: int, cut: Chunks) -> Array:
    """Return the silence after an utterance with which the encoder runs as often as it needs to."""
    frames = calls_for(samples, cut) * (cut.samples // cut.hop) + 1
    return np.zeros(frames * cut.hop - cut.hop // 2 - samples, np.float32)


class SherpaStream:
    """One utterance that arrives in pieces; see ``measure.recogniser.Stream``."""

    def __init__(self, recognizer: Any, cut: Chunks) -> None:
        self._recognizer, self._cut, self._samples = recognizer, cut, 0
        self._stream = recognizer.create_stream()

    def accept(self, samples: Array, last: bool) -> str:
        """Take the next samples (N,) and return the text so far."""
        self._samples += len(samples)
        if last:
            samples = np.concatenate([samples, silence_after(self._samples, self._cut)])
        self._stream.accept_waveform(RATE, samples.astype(np.float32))
        if last:
            self._stream.input_finished()
        while self._recognizer.is_ready(self._stream):
            self._recognizer.decode_stream(self._stream)
        return " ".join(self._recognizer.get_result(self._stream).split())


def online_recognizer(files: Mapping[str, Path], tokens: Path, threads: int = 1) -> Any:
    """Load a streaming transducer into sherpa-onnx.

    Args:
        files: graphs of ``STREAM_PARTS``.
        tokens: tokens.txt.
        threads: of sherpa-onnx.
    """
    with needing_packages():
        import sherpa_onnx
    graphs = {name: str(files[name]) for name in STREAM_PARTS}
    return sherpa_onnx.OnlineRecognizer.from_transducer(tokens=str(tokens), num_threads=threads, **graphs)
