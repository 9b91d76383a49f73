"""Parts of ESPnet's models as modules of tensors only, which torch.onnx writes as graphs.

A graph takes one utterance as a whole, or the next chunk of one, without padding. Axes: N samples, F feature
frames, M features of each, T encoder frames, D features, B hypotheses, L tokens of a prefix, V tokens of the
vocabulary, K layers, H units of a recurrent layer.
"""

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from espnet_kd.host.installed import check_espnet

check_espnet()  # before anything of ESPnet is imported

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from espnet2.legacy.nets.pytorch_backend.transformer.mask import subsequent_mask
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from espnet_kd.host.models import Model, ctc_layer, has_lattice, has_transformer_decoder
from espnet_kd.host.outputs import BLOCK_ENCODERS

# What becomes of a number that is known, where ESPnet computes with the tensor that holds it.
ARITHMETIC: dict[str, Any] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": lambda value, divisor, rounding_mode=None: value // divisor,
    **dict.fromkeys(("floordiv", "floor_divide"), operator.floordiv),
    **dict.fromkeys(("long", "to", "type"), lambda value, *_, **__: value),
}


class KnownLengths(TorchFunctionMode):
    """Let a length that ESPnet reads from a tensor be the symbol that torch.export has for it.

    ESPnet's masks have as many columns as the maximum of a tensor of lengths. torch.export cannot know that
    this equals the size of a batch; for a single utterance it does.

    Args:
        lengths: (1,) tensor.
        value: the number in it, an integer or a symbol.
    """

    def __init__(self, lengths: Tensor, value: Any) -> None:
        super().__init__()
        self._known = {id(lengths): (lengths, value)}  # with the tensor, so that its id is not used again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, unless its result is known."""
        name, kwargs = getattr(func, "__name__", "").strip("_"), kwargs or {}
        if name == "uniform":
            return args[0]  # of block drop, which does nothing in eval mode
        if name == "new" and len(args) == 2 and isinstance(args[1], list):
            return torch.stack([torch.full((), value, dtype=args[0].dtype) for value in args[1]])
        _, value = self._known.get(id(args[0]), (None, None)) if args else (None, None)
        if value is None:
            return func(*args, **kwargs)
        if name == "max" and len(args) == 1:
            return value
        if name == "tolist":
            return [value]
        result = func(*args, **kwargs)
        if name in ARITHMETIC:
            self._known[id(result)] = (result, ARITHMETIC[name](value, *args[1:], **kwargs))
        return result


@contextmanager
def computed_positions(module: nn.Module) -> Iterator[None]:
    """Within the block ESPnet computes positional encodings, instead of taking rows of its tables.

    The tables have 5000 frames; a graph with them would be larger, and could take no longer speech. Those of
    ESPnet's `legacy` relative positions count back from their end, so that they are needed as they are.
    """
    found = [(m, m.pe) for m in module.modules() if isinstance(getattr(m, "pe", None), Tensor)]
    found = [(m, table) for m, table in found if not getattr(m, "reverse", False)]
    found = [(m, table) for m, table in found if "pe" not in m._buffers and "pe" not in m._parameters]
    for m, _ in found:
        m.pe = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for m, table in found:
            m.pe = table


class Acoustics(nn.Module):
    """Front end, normalisation, encoder and CTC layer: (1, N) samples -> (1, T, D), (1, T, V).

    The second output, logarithms of probabilities, is missing without a CTC layer.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, speech: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs for one utterance."""
        model, samples = self.model, speech.shape[1]
        lengths = torch.full((1,), samples, dtype=torch.long)
        with KnownLengths(lengths, samples), computed_positions(model.encoder):
            features, frames = model._extract_feats(speech, lengths)
            if model.normalize is not None:
                features, frames = model.normalize(features, frames)
            encoded, *_ = model.encoder(features, frames)
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded
        layer = ctc_layer(model)
        return (encoded,) if layer is None else (encoded, layer(encoded).log_softmax(-1))


class FrontEnd(nn.Module):
    """Front end and normalisation: (1, N) samples -> (1, F, M) features."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, speech: Tensor) -> Tensor:
        """Compute the features of some samples."""
        samples = speech.shape[1]
        lengths = torch.full((1,), samples, dtype=torch.long)
        with KnownLengths(lengths, samples):
            features, frames = self.model._extract_feats(speech, lengths)
            if self.model.normalize is not None:
                features, _ = self.model.normalize(features, frames)
        found: Tensor = features
        return found


class EncoderChunk(nn.Module):
    """Encoder and CTC layer on the next chunk: features, frames before it, states -> outputs, states.

    Relied upon: ``chunk_forward`` of a transducer's encoder takes the features of a chunk, with those before
    it that its convolutions need; its blocks keep what they need of earlier chunks as the list ``cache``.

    Args:
        model: a transducer.
        left_context: encoder frames before the chunk that attention sees.
    """

    def __init__(self, model: Model, left_context: int) -> None:
        super().__init__()
        self.model, self.left_context = model, left_context

    def forward(self, features: Tensor, before: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Compute (1, T, D), with a CTC layer (1, T, V) log-probabilities, and the states after the chunk.

        Args:
            features: (1, F, M).
            before: (1, 1) number of encoder frames before the chunk.
            states: see ``first_states``.
        """
        encoder, frames = self.model.encoder, features.shape[1]
        lengths, given = torch.full((1,), frames, dtype=torch.long), iter(states)
        for block in encoder.encoders.blocks:
            block.cache = caches_of(block.cache, [next(given) for _ in caches(block)])
        with KnownLengths(lengths, frames), computed_positions(encoder):
            encoded = encoder.chunk_forward(features, lengths, before, left_context=self.left_context)
        layer = ctc_layer(self.model)
        outputs = (encoded,) if layer is None else (encoded, layer(encoded).log_softmax(-1))
        return *outputs, *(cache for block in encoder.encoders.blocks for cache in caches(block))


def caches(block: Any) -> list[Tensor]:
    """Return what an encoder's block keeps of the chunks before: a list, of a convolution one tensor."""
    return [block.cache] if isinstance(block.cache, Tensor) else list(block.cache)


def caches_of(kept: Any, values: list[Tensor]) -> Any:
    """Return the values as a block keeps them, like ``kept``."""
    return values[0] if isinstance(kept, Tensor) else values


def first_states(model: Model, left_context: int) -> list[Tensor]:
    """Return the states of a streaming encoder before the first chunk; its caches are reset."""
    model.encoder.reset_cache(left_context, device=torch.device("cpu"))
    return [cache for block in model.encoder.encoders.blocks for cache in caches(block)]


class AttentionStep(nn.Module):
    """Next token of the attention decoder: (B, L) tokens, (1, T, D), cache -> (B, V), cache.

    The first output is logarithms of probabilities. The cache, (K, B, L - 1, D), becomes (K, B, L, D).
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, tokens: Tensor, encoded: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the outputs for hypotheses of the same length."""
        mask = subsequent_mask(tokens.shape[1], device=tokens.device)[None]
        memory = encoded.expand(tokens.shape[0], -1, -1)
        with computed_positions(self.decoder):
            scores, states = self.decoder.forward_one_step(tokens, mask, memory, cache=list(cache))
        return scores, torch.stack(states)


class Predictor(nn.Module):
    """Prediction network of a transducer: (1, 1) token, (K, 1, H) states -> (1, D), states.

    LSTM has two states, GRU one, and a stateless network none.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, token: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs for the last token of one hypothesis."""
        embedded = self.decoder.embed(token)
        if not states:
            return (embedded[:, 0],)
        both = states if len(states) == 2 else (*states, None)
        output, after = self.decoder.rnn_forward(embedded, both)
        return output[:, 0], *(state for state in after if state is not None)


class Joiner(nn.Module):
    """Joint network: (1, D) encoder frame, (1, D') of the predictor -> (1, V) log-probabilities."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.joint_network = model.joint_network

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Compute the output for one frame and one hypothesis."""
        output: Tensor = self.joint_network(encoded, predicted).log_softmax(-1)
        return output


def state_shapes(model: Model) -> list[tuple[int, int, int]]:
    """Return the shapes of a prediction network's states."""
    decoder = model.decoder
    if isinstance(decoder, StatelessDecoder):
        return []
    return [(decoder.dlayers, 1, decoder.output_size)] * (2 if decoder.dtype == "lstm" else 1)


def cache_shape(model: Model) -> tuple[int, int]:
    """Return the layers of an attention decoder and the features that each keeps of a token."""
    return len(model.decoder.decoders), int(model.decoder.decoders[0].size)


def searches(model: Model) -> dict[str, str]:
    """Return the searches that a model may have, and what stands in the way of each, "" for nothing."""
    found = {}
    if has_lattice(model):
        known = isinstance(getattr(model, "decoder", None), RNNDecoder | StatelessDecoder)
        found["transducer"] = "" if known else (
            f"the prediction network {type(model.decoder).__name__} is not one of ESPnet's task "
            "asr_transducer with an LSTM, a GRU or no state"
        )  # fmt: skip
    elif getattr(model, "decoder", None) is not None:
        known = has_transformer_decoder(model) and hasattr(model.decoder, "decoders")
        found["attention"] = "" if known else (
            f"the attention decoder is a {type(model.decoder).__name__}, not a transformer"
        )  # fmt: skip
    if ctc_layer(model) is not None:
        found["ctc"] = ""
    return found


def obstacle(model: Model, config: Mapping[str, Any], stream: bool = False) -> str | None:
    """Return why the front end or the encoder of a model cannot be in a graph, None if they can.

    Args:
        model: ESPnet model.
        config: of its experiment.
        stream: the graph is to take the speech in chunks.
    """
    frontend, encoder = getattr(model, "frontend", None), str(config.get("encoder"))
    if frontend is None:
        return "its input is features, not waveforms"
    if not type(frontend).__module__.startswith("espnet_kd.") and type(frontend) is not DefaultFrontend:
        return f"the front end `{config.get('frontend')}` is not `default`, `spectrogram` or `sherpa_fbank`"
    for name in ("preencoder", "postencoder"):
        if getattr(model, name, None) is not None:
            return f"it has a {name}"
    main = (config.get("encoder_conf") or {}).get("main_conf") or {}
    if encoder == "deepspeech2":
        return "onnxruntime cannot run the graph of its recurrent encoder `deepspeech2`"
    if encoder in BLOCK_ENCODERS:
        return (
            f"its encoder `{encoder}` runs a Python loop over as many blocks as the speech has, with states "
            "that are numbers of Python and absent at first; a graph has neither"
        )
    if stream and not (has_lattice(model) and main.get("dynamic_chunk_training")):
        return (
            "--stream: its encoder needs the whole utterance; what streams is a transducer of the task "
            "asr_transducer that was trained with `main_conf: {dynamic_chunk_training: true}`"
        )
    return None
