"""Search for transcripts with the parts of a model, whatever computes them.

A part is a function of arrays that returns a list of arrays: a graph in onnxruntime, or a module of torch.
Nothing here needs torch. Axes: N samples, T encoder frames, D features, B hypotheses, L tokens of a prefix, V
tokens of the vocabulary, K layers, H units of a recurrent layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Part = Callable[..., list[Array]]
SPACE, PIECE = "<space>", "\u2581"  # between words, as a token of characters, and at the start of BPE pieces
SYMBOLS_PER_FRAME = 10  # most tokens that a transducer may emit in a frame
STEPS_PER_FRAME = 1000  # most hypotheses that a beam search of a transducer extends in a frame
NOTHING = -1e10  # logarithm of probability zero, finite so that differences stay numbers


@dataclass(frozen=True)
class Chunks:
    """How the speech is cut for a streaming encoder, as ESPnet's ``OnlineAudioProcessor`` does.

    Attributes:
        samples: that the encoder takes at a time.
        overlap: samples that a frame of features shares with the one after it.
        hop: samples from one frame of features to the next.
        trim: frames at an edge of the samples that see beyond it, and are left out.
        before: frames of features of the chunk before that the encoder gets again.
        left_context: encoder frames before a chunk that its attention sees.
        states: shapes of the encoder's states, which begin with zeros.
    """

    samples: int
    overlap: int
    hop: int
    trim: int
    before: int
    left_context: int
    states: list[list[int]]


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        search: ``ctc``, ``attention`` or ``transducer``.
        blank: token of the blank.
        end: token that ends a transcript, of attention decoders.
        states: shapes of the predictor's states; (K, D) of the attention decoder's cache as its only entry.
        beam_size: hypotheses of an attention decoder; of a transducer, 1 is a greedy search.
        ctc_weight: weight of CTC's scores beside the attention decoder's; 0 for models without CTC.
        penalty: added to the score of each token of an attention decoder, ESPnet's name for a length bonus.
        start: token that begins a transcript; -1: ``end``, as in older exports.
        least: samples that the encoder needs; shorter speech has an empty transcript, as in ESPnet.
        chunks: of a streaming encoder; None for one that takes whole utterances.
    """

    search: str
    blank: int = 0
    end: int = -1
    states: list[list[int]] = field(default_factory=list)
    beam_size: int = 5
    ctc_weight: float = 0.0
    least: int = 1
    chunks: Chunks | None = None
    penalty: float = 0.0
    start: int = -1

    @property
    def greedy(self) -> bool:
        """Whether the best token of each step is taken."""
        return self.search != "attention" and self.beam_size == 1

    @property
    def text(self) -> str:
        """The search in a few words."""
        if self.greedy:
            return f"greedy search of the {'CTC layer' if self.search == 'ctc' else self.search}"
        parts = [f"beam search of {self.beam_size}"]
        parts += [f"CTC weight {self.ctc_weight:g}"] if self.search == "attention" else []
        parts += [f"penalty {self.penalty:g}"] if self.penalty else []
        return ", ".join(parts)


class Search(Protocol):
    """A search that goes on with the next frames of an utterance."""

    def accept(self, outputs: list[Array]) -> None:
        """Take what the encoder gives: (1, T, D), and with a CTC layer (1, T, V) log-probabilities."""

    @property
    def tokens(self) -> list[int]:
        """The best tokens so far."""


def begin_search(parts: Mapping[str, Part], settings: Settings) -> Search:
    """Begin the search of an utterance by CTC or by a transducer."""
    if settings.search == "ctc":
        return CtcGreedy(settings.blank)
    kind = TransducerGreedy if settings.beam_size == 1 else TransducerBeam
    return kind(parts["predictor"], parts["joiner"], settings)


def transcribe(parts: Mapping[str, Part], settings: Settings, speech: Array) -> list[int]:
    """Return the tokens of one utterance.

    Args:
        parts: ``encoder``, and what the search needs: ``decoder``, or ``predictor`` and ``joiner``.
        settings: see there.
        speech: (N,) samples, full scale 1.
    """
    if len(speech) < settings.least:
        return []
    outputs = parts["encoder"](speech[None].astype(np.float32))
    if settings.search == "attention":
        encoded, *ctc = outputs
        return attention_beam(parts["decoder"], settings, encoded, ctc[0][0] if ctc else None)
    search = begin_search(parts, settings)
    search.accept(outputs)
    return search.tokens


class CtcGreedy:
    """The best token of each frame, repetitions and blanks left out."""

    def __init__(self, blank: int) -> None:
        self._blank, self._last = blank, blank
        self.tokens: list[int] = []

    def accept(self, outputs: list[Array]) -> None:
        """Take the next frames, see ``Search``."""
        for token in outputs[1][0].argmax(-1).tolist():
            if token not in (self._last, self._blank):
                self.tokens.append(token)
            self._last = token


class TransducerGreedy:
    """The best token at each step through the frames, at most ``SYMBOLS_PER_FRAME`` in a frame."""

    def __init__(self, predictor: Part, joiner: Part, settings: Settings) -> None:
        self._predictor, self._joiner, self._blank = predictor, joiner, settings.blank
        self.tokens: list[int] = []
        states = [np.zeros(shape, np.float32) for shape in settings.states]
        self._predicted, *self._states = predictor(np.array([[settings.blank]]), *states)

    def accept(self, outputs: list[Array]) -> None:
        """Take the next frames, see ``Search``."""
        for frame in outputs[0][0]:
            for _ in range(SYMBOLS_PER_FRAME):
                token = int(self._joiner(frame[None], self._predicted)[0][0].argmax())
                if token == self._blank:
                    break
                self.tokens.append(token)
                self._predicted, *self._states = self._predictor(np.array([[token]]), *self._states)


@dataclass(frozen=True)
class Path:
    """A hypothesis of a transducer: its tokens, its score, and the predictor's states before the last."""

    tokens: tuple[int, ...]
    score: float
    states: list[Array]


class TransducerBeam:
    """The search that ESPnet's ``BeamSearchTransducer`` has as its default, without a language model.

    In each frame the best hypothesis is extended by its best tokens, until as many that have ended the frame
    by a blank as the beam holds are better than all others. Other than ESPnet's it always ends, for a model
    that gives no blanks.

    Source:
        Graves 2012, arXiv:1211.3711, section 2.4, without its sum over prefixes.
    """

    def __init__(self, predictor: Part, joiner: Part, settings: Settings) -> None:
        self._predictor, self._joiner = predictor, joiner
        self._blank, self._size = settings.blank, settings.beam_size
        states = [np.zeros(shape, np.float32) for shape in settings.states]
        self._kept = [Path((settings.blank,), 0.0, states)]
        self._known: dict[tuple[int, ...], list[Array]] = {}  # tokens -> output of the predictor, and states

    @property
    def tokens(self) -> list[int]:
        """The tokens of the best hypothesis."""
        return list(max(self._kept, key=lambda path: path.score).tokens[1:])

    def accept(self, outputs: list[Array]) -> None:
        """Take the next frames, see ``Search``."""
        for frame in outputs[0][0]:
            running, ended, better = self._kept, [], []
            for _ in range(STEPS_PER_FRAME):
                best = max(running, key=lambda path: path.score)
                running = [path for path in running if path is not best]
                scores, states = self._scores(frame, best)
                ended.append(Path(best.tokens, best.score + float(scores[self._blank]), best.states))
                scores[self._blank] = -np.inf
                for token in np.argsort(-scores, kind="stable")[: min(self._size, len(scores) - 1)]:
                    score = best.score + float(scores[token])
                    running.append(Path((*best.tokens, int(token)), score, states))
                limit = max(path.score for path in running)
                better = [path for path in ended if path.score > limit]
                if len(better) >= self._size:
                    break
            best_ended = sorted(ended, key=lambda path: path.score)[-self._size :]
            self._kept = better if len(better) >= self._size else best_ended
        kept = [path.tokens for path in self._kept if path.tokens in self._known]
        self._known = {tokens: self._known[tokens] for tokens in kept}  # a stream may be long

    def _scores(self, frame: Array, path: Path) -> tuple[Array, list[Array]]:
        """Return log-probabilities (V,) of what follows a hypothesis, and the predictor's states then."""
        if path.tokens not in self._known:
            self._known[path.tokens] = self._predictor(np.array([[path.tokens[-1]]]), *path.states)
        predicted, *states = self._known[path.tokens]
        return self._joiner(frame[None], predicted)[0][0].copy(), states


@dataclass(frozen=True)
class Hypothesis:
    """A prefix and its score; ``ctc`` is what ``CtcPrefix`` keeps of it."""

    tokens: list[int]
    score: float
    cache: Array  # (K, L - 1, D)
    ctc: tuple[float, Array] | None


def attention_beam(decoder: Part, settings: Settings, encoded: Array, ctc: Array | None) -> list[int]:
    """Return the best tokens by a beam search, as ESPnet's without language model.

    Args:
        decoder: step of the attention decoder.
        settings: beam, weight of CTC, penalty, and the end symbol.
        encoded: (1, T, D).
        ctc: (T, V) logarithms of probabilities, None without CTC.
    """
    layers, size = settings.states[0]
    weight = settings.ctc_weight if ctc is not None else 0.0
    prefix = CtcPrefix(ctc, settings.blank, settings.end) if ctc is not None and weight else None
    cache = np.zeros((layers, 0, size), np.float32)
    start = settings.end if settings.start < 0 else settings.start
    running = [Hypothesis([start], 0.0, cache, prefix.start() if prefix else None)]
    ended: list[Hypothesis] = []
    frames = encoded.shape[1]
    for length in range(1, frames + 1):
        scores, caches = decoder(
            np.array([h.tokens for h in running]), encoded, np.stack([h.cache for h in running], 1)
        )
        grown = []
        for i, hypothesis in enumerate(running):
            grown += _extend(hypothesis, scores[i], caches[:, i], settings, prefix)
        grown = sorted(grown, key=lambda h: -h.score)[: settings.beam_size]
        last = length == frames
        ended += [h for h in grown if last or h.tokens[-1] == settings.end]
        running = [h for h in grown if h.tokens[-1] != settings.end]
        if not running or _is_hopeless(ended, length):
            break
    best = max(ended or running, key=lambda h: h.score)
    # ESPnet leaves out the blank, which a decoder has as well
    return [token for token in best.tokens[1:] if token not in (settings.end, settings.blank)]


def _extend(
    hypothesis: Hypothesis, scores: Array, cache: Array, settings: Settings, prefix: "CtcPrefix | None"
) -> list[Hypothesis]:
    """Return a hypothesis with each of its best next tokens."""
    weight = settings.ctc_weight if prefix else 0.0
    most = int(1.5 * settings.beam_size) if prefix else settings.beam_size
    best = np.argsort(-scores, kind="stable")[:most]
    if prefix is not None:  # by CTC the blank begins no text; a beam over all tokens must not keep it
        best = best[best != settings.blank]
    if prefix is not None and settings.end not in best:
        best = np.append(best, settings.end)  # ESPnet always asks CTC for the end, too
    totals = hypothesis.score + (1 - weight) * scores[best] + settings.penalty
    kept: list[tuple[float, Array] | None] = [None] * len(best)
    if prefix is not None and hypothesis.ctc is not None:
        probabilities, states = prefix.extend(hypothesis.tokens, hypothesis.ctc[1], best)
        totals = totals + weight * (probabilities - hypothesis.ctc[0])
        kept = [(float(p), state) for p, state in zip(probabilities, states, strict=True)]
    order = np.argsort(-totals, kind="stable")[: settings.beam_size]
    return [
        Hypothesis([*hypothesis.tokens, int(best[i])], float(totals[i]), cache, kept[i]) for i in order
    ]


def _is_hopeless(ended: list[Hypothesis], length: int, steps: int = 3, distance: float = 10.0) -> bool:
    """Return True if none of the last steps ended a hypothesis nearly as good as the best.

    Source: Watanabe et al. 2017, "Hybrid CTC/attention architecture", equation 50.
    """
    if not ended:
        return False
    best = max(h.score for h in ended)
    for back in range(steps):
        of_length = [h.score for h in ended if len(h.tokens) == length - 1 - back]
        if not of_length or max(of_length) - best >= -distance:
            return False
    return True


class CtcPrefix:
    """Probability by CTC that a transcript begins with a prefix.

    Args:
        scores: (T, V) logarithms of probabilities of one utterance.
        blank: token of the blank.
        end: token that ends a transcript.

    Source:
        Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition",
        algorithm 2.
    """

    def __init__(self, scores: Array, blank: int, end: int) -> None:
        self._scores, self._blank, self._end = scores.astype(np.float64), blank, end

    def start(self) -> tuple[float, Array]:
        """Return probability and state of the empty prefix.

        A state is (T, 2): logarithms of the probability that the frames up to each emit the prefix, the last
        of them a token, and the last of them a blank.
        """
        state = np.full((len(self._scores), 2), NOTHING)
        state[:, 1] = self._scores[:, self._blank].cumsum()
        return 0.0, state

    def extend(self, tokens: list[int], state: Array, new: Array) -> tuple[Array, list[Array]]:
        """Return the probabilities (C,) and states of a prefix with each of C tokens.

        Args:
            tokens: the prefix, the start symbol first.
            state: of the prefix.
            new: (C,) tokens.
        """
        frames, first = len(self._scores), len(tokens) == 1
        emitted = self._scores[:, new]  # (T, C)
        blanks = self._scores[:, self._blank]
        before = np.logaddexp(state[:, 0], state[:, 1])[:, None].repeat(len(new), 1)
        if not first:
            before[:, new == tokens[-1]] = state[:, 1:]  # a repetition needs a blank between
        ending = np.full((frames, len(new), 2), NOTHING)
        if first:
            ending[0, :, 0] = emitted[0]
        total = ending[0, :, 0].copy()
        for t in range(1, frames):
            ending[t, :, 0] = np.logaddexp(ending[t - 1, :, 0], before[t - 1]) + emitted[t]
            ending[t, :, 1] = np.logaddexp(ending[t - 1, :, 0], ending[t - 1, :, 1]) + blanks[t]
            total = np.logaddexp(total, before[t - 1] + emitted[t])
        total[new == self._end] = np.logaddexp(state[-1, 0], state[-1, 1])
        total[new == self._blank] = NOTHING
        return total, list(ending.transpose(1, 0, 2))
