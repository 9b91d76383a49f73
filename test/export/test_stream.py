"""What is kept from chunk to chunk: the encoder sees each frame of features once, and some again."""

import numpy as np
import pytest

from espnet_kd.export.search import Chunks
from espnet_kd.export.stream import ChunkEncoder

WINDOW, HOP, BEFORE = 4, 2, 3
CUT = Chunks(
    samples=10, overlap=WINDOW - HOP, hop=HOP, trim=1, before=BEFORE, left_context=2, states=[[1, 1]]
)


def encode(samples: int, chunk: int = 10) -> tuple[list[np.ndarray], list[int], list[float]]:
    """Encode 1, 2, ...; the feature of a frame is the sample in its middle, as of a centred STFT.

    Returns:
        Features of each chunk, encoder frames before it, and the state that it began with.
    """
    given: list[np.ndarray] = []
    before: list[int] = []
    states: list[float] = []

    def front_end(speech: np.ndarray) -> list[np.ndarray]:
        return [np.append(speech[0], speech[0, -1] + 1)[::HOP][None, : 1 + speech.shape[1] // HOP, None]]

    def encoder(features: np.ndarray, frames: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        given.append(features[0, :, 0])
        before.append(int(frames[0, 0]))
        states.append(float(state[0, 0]))
        return [features[:, BEFORE:], state + 1]

    parts = ChunkEncoder({"front_end": front_end, "encoder": encoder}, CUT)
    for _ in range(2):  # the second utterance knows nothing of the first
        parts.begin()
        given, before, states = [], [], []
        speech = np.arange(1, samples + 1)
        for start in range(0, samples + 1, chunk):
            parts.accept(speech[start : start + chunk], start + chunk > samples)
    return given, before, states


@pytest.mark.parametrize("chunk", [10, 11])  # whole frames, and a sample that waits for the next chunk
def test_chunks_overlap_by_the_frames_before(chunk: int) -> None:
    given, before, states = encode(34, chunk)
    # of 10 samples the frames in the middle of 1, 3, ... 9, and one beyond the edge, which is trimmed
    assert given[0].tolist() == [1, 3, 5, 7, 9]
    for earlier, later in zip(given, given[1:], strict=False):
        assert later[:BEFORE].tolist() == earlier[-BEFORE:].tolist()
    fresh = np.concatenate([given[0], *(chunk[BEFORE:] for chunk in given[1:])])
    assert fresh[: 17].tolist() == list(range(1, 34, 2)), "each frame once"
    assert states == [0.0, 1.0, 2.0, 3.0]
    assert before == [0, *np.cumsum([len(chunk) - BEFORE for chunk in given[:-1]]).tolist()]


@pytest.mark.parametrize("samples", [1, 9, 10, 20])
def test_the_last_chunk_is_filled_with_silence(samples: int) -> None:
    given, _, _ = encode(samples)
    seen = np.concatenate([given[0], *(chunk[BEFORE:] for chunk in given[1:])])
    expected = list(range(1, samples + 1, 2))
    assert seen[: len(expected)].tolist() == expected and not seen[len(expected) + 1 : -1].any()
    assert len(given) == samples // 10 + 1
