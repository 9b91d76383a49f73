"""The graphs of a streaming transducer for sherpa-onnx, in the layout of NeMo's.

sherpa-onnx gives the encoder the same number of frames of features in each call, and three states that it
does not look into. Here these are all states of ESPnet's encoder in one row, the last frames of features, and
the number of encoder frames so far. ESPnet's first chunk has fewer features than the others: the graph leaves
out what stands before the speech while the number is zero. The blank is sherpa-onnx's last token.

Axes: F frames of features, M features of each, T encoder frames, D features of each, K layers, H units, V
tokens of the vocabulary.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.export.graph_parts import KEPT_CALLS, OnnxPart, largest_difference
from espnet_kd.export.graphs import GraphPlan
from espnet_kd.export.search import Array, Chunks, Part, Settings
from espnet_kd.export.sherpa import RATE, token_names
from espnet_kd.export.sherpa_stream import calls_for, first_frames, frames_of, silence_after
from espnet_kd.host.export import EncoderChunk, Joiner, KnownLengths, Predictor
from espnet_kd.host.streaming import StreamingEncoder

BLANK = "<blk>"
# What comes before the encoder's graph: frames that were kept, and those of this call without the last, which
# ESPnet has not seen yet either.
WINDOW = """
<ir_version: 10, opset_import: ["" : 18]>
window (float[1,{bins},{each}] audio_signal, int64[1] length, float[1,1,1,{size}] cache_last_channel,
        float[1,1,{kept},{bins}] cache_last_time, int64[1] cache_last_channel_len)
    => (float[1,F,{bins}] features)
<int64[3] window_rows = {{1, {kept}, {bins}}}, int64[4] window_cache = {{1, 1, {kept}, {bins}}},
 int64[1] window_none = {{0}}, int64[1] window_kept = {{{kept}}}, int64[1] window_end = {{{end}}},
 int64[1] window_each = {{{each}}}, int64[1] window_total = {{{total}}}, int64[1] window_time = {{1}}>
{{
    window_before = Reshape (cache_last_time, window_rows)
    window_given = Transpose <perm = [0, 2, 1]> (audio_signal)
    window_known = Concat <axis = 1> (window_before, window_given)
    window_is_first = Equal (cache_last_channel_len, window_none)
    window_begin = Where (window_is_first, window_kept, window_none)
    features = Slice (window_known, window_begin, window_end, window_time)
    window_after = Slice (window_known, window_each, window_total, window_time)
    cache_last_time_next = Reshape (window_after, window_cache)
}}
"""


class ChunkOfStates(nn.Module):
    """Normalisation and encoder on the next features, with all states of the encoder in one row."""

    def __init__(self, model: Any, cut: Chunks) -> None:
        super().__init__()
        self.model, self.encoder, self.shapes = model, EncoderChunk(model, cut.left_context), cut.states

    def forward(
        self, features: Tensor, length: Tensor, states: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute (1, D, T), its (1,) length, the states and the number of encoder frames after the chunk.

        Args:
            features: (1, F, M).
            length: (1,) that sherpa-onnx gives; not used.
            states: (1, 1, 1, N).
            before: (1,) number of encoder frames before the chunk.
        """
        if self.model.normalize is not None:
            lengths = torch.full((1,), features.shape[1], dtype=torch.long)
            with KnownLengths(lengths, features.shape[1]):
                features, _ = self.model.normalize(features, lengths)
        parts = states.flatten().split([math.prod(shape) for shape in self.shapes])
        given = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        encoded, *others = self.encoder(features, before[None], *given)
        after = torch.cat([state.flatten() for state in others[-len(given) :]])[None, None, None]
        frames = encoded.shape[1]
        return encoded.transpose(1, 2), 0 * length + frames, after, before + frames


class Renumbered(nn.Module):
    """A part of a transducer whose last token is the blank.

    Args:
        model: a transducer.
        settings: of the search.
    """

    def __init__(self, model: Any, settings: Settings) -> None:
        super().__init__()
        vocabulary = int(model.joint_network.lin_out.out_features)
        self.register_buffer("order", torch.tensor(order_of(vocabulary, settings.blank)))
        self.states = len(settings.states)


class Decoder(Renumbered):
    """Prediction network, with two states, of which it uses what it has."""

    def __init__(self, model: Any, settings: Settings) -> None:
        super().__init__(model, settings)
        self.predictor = Predictor(model)

    def forward(self, token: Tensor, length: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        """Compute (1, D, 1) for a token (1, 1), its (1,) length, and the states (K, 1, H) after it."""
        number = self.order[token.flatten().long()][None]  # type: ignore[index]
        predicted, *states = self.predictor(number, *(hidden, cell)[: self.states])
        unused = (hidden, cell)[self.states :]
        return predicted[..., None], length + 0, *states, *(state + 0 for state in unused)


class JointNetwork(Renumbered):
    """Joint network of a frame (1, D, 1) and what the decoder gave (1, D', 1)."""

    def __init__(self, model: Any, settings: Settings) -> None:
        super().__init__(model, settings)
        self.joiner = Joiner(model)

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Compute (1, 1, 1, V) log-probabilities."""
        scores: Tensor = self.joiner(encoded[..., 0], predicted[..., 0])[:, self.order]
        return scores[:, None, None]


def order_of(vocabulary: int, blank: int) -> list[int]:
    """Return our number of each token of sherpa-onnx."""
    return [number for number in range(vocabulary) if number != blank] + [blank]


def listed(tokens: list[str], token_type: str, blank: int) -> dict[int, str]:
    """Return the numbers and tokens that tokens.txt has for sherpa-onnx."""
    names = [*token_names(tokens, token_type)]
    names[blank] = BLANK
    return {i: names[number] for i, number in enumerate(order_of(len(tokens), blank))}


def refuse_stream(config: Mapping[str, Any], settings: Settings) -> None:
    """Refuse a model that sherpa-onnx cannot run chunk by chunk.

    Raises:
        UserError: its features are others, or its search or its chunks.
    """
    if config.get("frontend") != "sherpa_fbank":
        raise UserError(
            "--format sherpa --stream: sherpa-onnx computes the features, and not those of `frontend: "
            f"{config.get('frontend')}`: train a student with `frontend: sherpa_fbank`, or give --format onnx"
        )
    if settings.search != "transducer":
        raise UserError(
            f"--format sherpa --stream: --search {settings.search}: sherpa-onnx's streaming CTC models have "
            "other features than its transducers: give --search transducer, or --format onnx"
        )
    if config.get("normalize") not in (None, "global_mvn"):
        raise UserError(
            f"--format sherpa --stream: `normalize: {config['normalize']}` needs the whole utterance: train "
            "with global_mvn"
        )
    assert settings.chunks is not None
    if settings.chunks.samples % settings.chunks.hop:
        raise UserError("--format sherpa --stream: --decoding_window: give a multiple of 10 milliseconds")


def plan_stream(model: Any, settings: Settings) -> dict[str, GraphPlan]:
    """Return the graphs that sherpa-onnx asks for; ``complete_encoder`` completes that of the encoder."""
    cut = settings.chunks
    assert cut is not None
    features = torch.randn(1, cut.before + cut.samples // cut.hop, model.frontend.output_size())
    length, states = torch.ones(1, dtype=torch.long), torch.zeros(1, 1, 1, size_of(cut))
    inputs = (features, length, states, length)
    chunk, decoder = ChunkOfStates(model, cut).eval(), Decoder(model, settings).eval()
    joiner = JointNetwork(model, settings).eval()
    token, hidden = torch.zeros(1, 1, dtype=torch.int32), torch.randn(predictor_shape(settings))
    given = {"targets": token, "target_length": token[0] + 1, "hidden": hidden, "cell": hidden.clone()}
    with torch.no_grad():
        encoded, predicted = chunk(*inputs)[0][..., :1], decoder(*given.values())[0]
    names = ("features", "length", "cache_last_channel", "cache_last_channel_len")
    after = ["outputs", "encoded_lengths", "cache_last_channel_next", "cache_last_channel_len_next"]
    outputs = ["predicted", "target_length_after", "hidden_after", "cell_after"]
    return {
        "encoder": GraphPlan(chunk, dict(zip(names, inputs, strict=True)), after, {"features": [1]}),
        "decoder": GraphPlan(decoder, given, outputs, {}),
        "joiner": GraphPlan(
            joiner, {"encoder_outputs": encoded, "decoder_outputs": predicted}, ["scores"], {}
        ),
    }


def size_of(cut: Chunks) -> int:
    """Return how many numbers the states of the encoder are."""
    return sum(math.prod(shape) for shape in cut.states)


def kept_frames(cut: Chunks) -> int:
    """Return how many frames of features are kept from call to call, which ESPnet's chunks have again."""
    return cut.samples // cut.hop + cut.before - first_frames(cut)


def predictor_shape(settings: Settings) -> list[int]:
    """Return the shape of each of the two states that sherpa-onnx keeps for the decoder."""
    return list(settings.states[0]) if settings.states else [1, 1, 1]


def complete_encoder(path: Path, model: Any, settings: Settings) -> None:
    """Put the window over the features before the encoder's graph, and what sherpa-onnx asks of its file."""
    import onnx

    cut = settings.chunks
    assert cut is not None
    each, bins, kept = cut.samples // cut.hop, model.frontend.output_size(), kept_frames(cut)
    sizes = {"bins": bins, "each": each, "kept": kept, "end": each + cut.before, "total": kept + each}
    window = onnx.parser.parse_model(WINDOW.format(size=size_of(cut), **sizes)).graph
    whole = onnx.load(path)
    graph = whole.graph
    time = onnx.helper.make_tensor_value_info(
        "cache_last_time_next", onnx.TensorProto.FLOAT, [1, 1, kept, bins]
    )
    nodes, outputs = [*window.node, *graph.node], [*graph.output[:3], time, graph.output[3]]
    for field, content in ((graph.node, nodes), (graph.input, [*window.input]), (graph.output, outputs)):
        del field[:]
        field.extend(content)
    graph.initializer.extend(window.initializer)
    layers, _, units = predictor_shape(settings)
    facts = {
        "vocab_size": int(model.joint_network.lin_out.out_features) - 1,  # without the blank
        "window_size": each, "chunk_shift": each, "normalize_type": "NA",
        "subsampling_factor": int(model.encoder.embed.subsampling_factor),
        "pred_rnn_layers": layers, "pred_hidden": units,
        **{f"cache_last_channel_dim{i}": size for i, size in enumerate((1, 1, size_of(cut)), 1)},
        **{f"cache_last_time_dim{i}": size for i, size in enumerate((1, kept, bins), 1)},
    }  # fmt: skip
    onnx.helper.set_model_props(whole, {key: str(value) for key, value in facts.items()})
    onnx.checker.check_model(whole)
    onnx.save(whole, path)


class ComparedChunks:
    """ESPnet's streaming encoder, whose outputs are compared with what sherpa-onnx computes in every chunk.

    The graph gets sherpa-onnx's features, and the utterance is followed by silence for both, of which ESPnet
    is not told either that it ends.

    Args:
        stock: ESPnet's encoder, which gets samples.
        graph: the file of the encoder.
        recognizer: of sherpa-onnx, with it.
        cut: how the speech is cut.

    Attributes:
        difference: largest absolute difference of a value, in all utterances.
        calls: the first inputs of the graph.
    """

    def __init__(self, stock: StreamingEncoder, graph: Path, recognizer: Any, cut: Chunks) -> None:
        self._stock, self._graph, self._recognizer, self._cut = stock, OnnxPart(graph), recognizer, cut
        self.difference = 0.0
        self.calls: list[tuple[Array, ...]] = []

    def begin(self) -> None:
        """Begin an utterance."""
        self._stock.begin()
        self._speech: list[Array] = []

    def accept(self, samples: Array, last: bool) -> list[Array]:
        """Return what ESPnet's encoder gives of the next samples; compare when they are the last."""
        self._speech.append(samples)
        outputs: list[Array] = self._stock.accept(samples, last)
        if last:
            self._compare(np.concatenate(self._speech))
        return outputs

    def _compare(self, speech: Array) -> None:
        """Run both on an utterance (N,)."""
        calls = calls_for(len(speech), self._cut)
        speech = np.concatenate([speech, silence_after(len(speech), self._cut)]).astype(np.float32)
        pieces = np.split(speech[: calls * self._cut.samples], calls)
        self._stock.begin()
        want = [self._stock.accept(piece, False)[0] for piece in pieces]
        self.difference = max(self.difference, largest_difference(want, self._by_graph(speech, calls)))

    def _by_graph(self, speech: Array, calls: int) -> list[Array]:
        """Return (1, T, D) of each call that sherpa-onnx makes."""
        stream, frames = self._recognizer.create_stream(), frames_of(len(speech), self._cut)
        stream.accept_waveform(RATE, speech)
        stream.input_finished()
        features = np.array(stream.get_frames(0, frames), np.float32).reshape(frames, -1)
        each, kept = self._cut.samples // self._cut.hop, kept_frames(self._cut)
        time = np.zeros((1, 1, kept, features.shape[1]), np.float32)
        row, none = np.zeros((1, 1, 1, size_of(self._cut)), np.float32), np.zeros(1, np.int64)
        states: list[Array] = [row, time, none]
        found = []
        for call in range(calls):
            window = features[call * each : (call + 1) * each].T[None].copy()
            given = (window, np.array([each]), *states)
            if len(self.calls) < KEPT_CALLS:
                self.calls.append(given)
            encoded, _, *states = self._graph(*given)
            found.append(encoded.transpose(0, 2, 1))
        return found


def as_ours(decoder: Part, joiner: Part, settings: Settings, vocabulary: int) -> dict[str, Part]:
    """Return sherpa-onnx's two graphs as predictor and joiner, to be compared with those of torch."""
    order = np.array(order_of(vocabulary, settings.blank))
    number = np.argsort(order)
    unused = [np.zeros(predictor_shape(settings), np.float32)] * (2 - len(settings.states))

    def predictor(token: Array, *states: Array) -> list[Array]:
        given = number[token].astype(np.int32)
        predicted, _, *after = decoder(given, np.ones(1, np.int32), *states, *unused)
        return [predicted[..., 0], *after[: len(states)]]

    def joint(encoded: Array, predicted: Array) -> list[Array]:
        return [joiner(encoded[..., None], predicted[..., None])[0][0, 0][:, number]]

    return {"predictor": predictor, "joiner": joint}
