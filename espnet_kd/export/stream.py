"""Speech that arrives in chunks: an exported encoder with its buffers and states, and the search after it.

Axes: N samples, F feature frames, M features of each, T encoder frames.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from espnet_kd.export.search import Array, Chunks, Part, Settings, begin_search
from espnet_kd.measure.recogniser import Stream as AnyStream
from espnet_kd.measure.recogniser import chunks


class Encoder(Protocol):
    """An encoder that takes an utterance chunk by chunk."""

    def begin(self) -> None:
        """Begin an utterance, and forget the one before."""

    def accept(self, samples: Array, last: bool) -> list[Array]:
        """Return what ``Search.accept`` takes, of the next samples (N,)."""


class ChunkEncoder:
    """The parts ``front_end`` and ``encoder`` with what ESPnet keeps between chunks.

    Args:
        parts: ``front_end``: (1, N) samples -> (1, F, M) features; ``encoder``: features, encoder frames
            before them (1, 1) and states -> outputs and states.
        cut: how the speech is cut.
    """

    def __init__(self, parts: Mapping[str, Part], cut: Chunks) -> None:
        self._front_end, self._encoder, self._chunks = parts["front_end"], parts["encoder"], cut

    def begin(self) -> None:
        """Begin an utterance, and forget the one before."""
        self._samples = np.zeros(0, np.float32)
        self._features: Array | None = None
        self._frames = np.zeros((1, 1), np.int64)
        self._states = [np.zeros(shape, np.float32) for shape in self._chunks.states]

    def accept(self, samples: Array, last: bool) -> list[Array]:
        """Return what ``Search.accept`` takes, of the next samples (N,).

        Args:
            samples: ``Chunks.samples`` of them, or fewer if they are the last.
            last: the utterance ends with them.
        """
        features = self._front_end(self._take(samples.astype(np.float32), last)[None])[0]
        found = self._encoder(self._with_those_before(features, last), self._frames, *self._states)
        outputs = found[: len(found) - len(self._states)]
        self._states = found[len(outputs) :]
        self._frames = self._frames + outputs[0].shape[1]
        return outputs

    def _take(self, samples: Array, last: bool) -> Array:
        """Return the samples of whole frames, and keep those that the next frame needs."""
        samples, overlap = np.concatenate([self._samples, samples]), self._chunks.overlap
        if last:
            return np.pad(samples, (0, max(0, self._chunks.samples - len(samples))))
        rest = (len(samples) - overlap) % self._chunks.hop
        self._samples = samples[len(samples) - overlap - rest :]
        return samples[: len(samples) - rest]

    def _with_those_before(self, features: Array, last: bool) -> Array:
        """Return (1, F, M) features that see no edge between chunks, after the last of the chunk before."""
        trim, total = self._chunks.trim, features.shape[1]
        if self._features is None:
            features = features[:, : total - trim]
        else:
            features = features[:, trim : total if last else total - trim]
            features = np.concatenate([self._features, features], 1)
        self._features = features[:, -self._chunks.before :]
        return features


class Stream:
    """One utterance that arrives in chunks.

    Args:
        encoder: that begins it.
        parts: predictor and joiner, for a transducer.
        settings: of the search.
        text_of: makes text of tokens.
    """

    def __init__(
        self,
        encoder: Encoder,
        parts: Mapping[str, Part],
        settings: Settings,
        text_of: Callable[[list[int]], str],
    ) -> None:
        encoder.begin()
        self._encoder, self._text_of = encoder, text_of
        self._search = begin_search(parts, settings)

    def accept(self, samples: Array, last: bool) -> str:
        """Take the next samples (N,) and return the text so far."""
        self._search.accept(self._encoder.accept(samples, last))
        return self._text_of(self._search.tokens)


def decode(stream: AnyStream, speech: Array, size: int) -> str:
    """Return the text of a whole utterance (N,) that a stream takes chunk by chunk; "" if it is empty."""
    if not len(speech):
        return ""
    text = ""
    for samples, last in chunks(speech, size):
        text = stream.accept(samples, last)
    return text
