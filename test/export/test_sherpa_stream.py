"""Streaming through sherpa-onnx: the frames that it gives the encoder, and the silence after an utterance."""

from dataclasses import replace

import numpy as np
import pytest

from espnet_kd.export.search import Chunks
from espnet_kd.export.sherpa_stream import SherpaStream, calls_for, first_frames, frames_of, silence_after
from espnet_kd.export.stream import ChunkEncoder

CUT = Chunks(samples=10240, overlap=320, hop=160, trim=1, before=11, left_context=16, states=[[1]])


def test_the_numbers_of_640_ms() -> None:
    # 10240 samples are 64 frames, of which ESPnet leaves out the last, whose window is not complete.
    assert first_frames(CUT) == 63
    # 63 frames need one call, 64 to 127 two, since each call has 64 frames more.
    assert [calls_for(160 * frames, CUT) for frames in (1, 63, 64, 127, 128)] == [1, 1, 2, 2, 3]
    # sherpa-onnx makes two calls when there are 2 * 64 + 1 frames: 129 * 160 - 80 samples.
    assert len(silence_after(160 * 64, CUT)) == 129 * 160 - 80 - 160 * 64


@pytest.mark.parametrize("samples", [10240, 5120, 2560])
def test_espnets_chunks_are_what_was_kept_and_the_new_frames_without_the_last(samples: int) -> None:
    """The frames of ESPnet's processor, each the number of its middle; so that the graph can cut the same."""
    cut, given = replace(CUT, samples=samples), []

    def front_end(speech: np.ndarray) -> list[np.ndarray]:
        frames = (speech.shape[1] + 80) // 160
        return [speech[:, 80::160][:, :frames, None]]

    def encoder(features: np.ndarray, _: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        given.append(features[0, :, 0] // 160)
        return [features, state]

    parts = ChunkEncoder({"front_end": front_end, "encoder": encoder}, cut)
    parts.begin()
    for call in range(4):
        parts.accept(np.arange(call * samples, (call + 1) * samples), False)
    each, first = samples // 160, first_frames(cut)
    kept = each + cut.before - first
    assert given[0].tolist() == list(range(first)) and kept >= cut.before
    for call, frames in enumerate(given[1:], 1):
        assert frames.tolist() == list(range(call * each - kept, (call + 1) * each))[: each + cut.before]


class Recognizer:
    """Counts frames as sherpa-onnx does, and writes the number of each call."""

    def create_stream(self) -> "Recognizer":
        self.samples, self.calls, self.ended = 0, 0, False
        return self

    def accept_waveform(self, rate: int, samples: np.ndarray) -> None:
        assert rate == 16000 and samples.dtype == np.float32 and not self.ended
        self.samples += len(samples)

    def input_finished(self) -> None:
        self.ended = True

    def is_ready(self, stream: "Recognizer") -> bool:
        frames = (self.samples + 80) // 160 if self.ended else max(0, (self.samples - 280) // 160 + 1)
        return self.calls * 64 + 64 < frames

    def decode_stream(self, stream: "Recognizer") -> None:
        self.calls += 1

    def get_result(self, stream: "Recognizer") -> str:
        return f" {self.calls}  "


@pytest.mark.parametrize("samples", [1, 500, 10000, 10080, 10300, 20320, 20480, 50000])
@pytest.mark.parametrize("size", [640, 10240])
def test_all_frames_are_given_and_no_more_calls_made_than_that_takes(samples: int, size: int) -> None:
    recognizer = Recognizer()
    stream, speech = SherpaStream(recognizer, CUT), np.zeros(samples)
    texts = [stream.accept(speech[i : i + size], i + size >= samples) for i in range(0, samples, size)]
    seen = 63 + 64 * (recognizer.calls - 1)  # of frames that the encoder does not leave for the next call
    assert texts[-1] == str(recognizer.calls) and recognizer.ended
    assert seen >= frames_of(samples, CUT) > (seen - 64 if recognizer.calls > 1 else -1)
