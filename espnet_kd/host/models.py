"""What we rely on inside ESPnet's models, under names of our own.

Axes: B utterances, T encoder frames, L tokens, U = L + 1, D features, V tokens of the vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from espnet_kd.host.installed import check_espnet

check_espnet()  # before anything of ESPnet is imported

from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from espnet2.asr.decoder.transformer_decoder import BaseTransformerDecoder
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder as PredictionRNN
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from espnet2.asr_transducer.joint_network import JointNetwork
from espnet2.asr_transducer.utils import TooShortUttError as TransducerTooShort
from espnet2.asr_transducer.utils import make_chunk_mask
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.s2t.espnet_ctc_model import ESPnetS2TCTCModel
from torch import Tensor, nn

__all__ = ["CTC", "JointNetwork"]

Model = Any  # one of ESPnet's models, which have no types
JOINT_NETWORK = "joint_network"  # attribute of models with an RNN-T loss, and its module path
CTC_PARTS = ("ctc", "ctc_lin")  # attribute of the CTC layer: of the ASR model, of the transducer

# What ESPnet raises where the subsampling needs more frames than an utterance has.
TOO_SHORT_ERRORS = (TooShortUttError, TransducerTooShort)


def too_short_reason(error: Exception) -> str:
    """Return ESPnet's message on an utterance that is too short, without its remark on decoding."""
    return str(error).split(", return")[0]


def encode(model: Model, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Run the front end and the encoder of a model.

    Relied upon: ``encode`` returns the output and its lengths; the output of an encoder with intermediate CTC
    layers is a tuple, the final output first.

    Returns:
        (B, T, D) final output, (B,) frames.
    """
    output, frames = model.encode(speech, lengths)
    return output[0] if isinstance(output, tuple) else output, frames


class PromptedEncoder(ESPnetS2TCTCModel):
    """A model of the task s2t_ctc that is always asked for the same language and task.

    Relied upon: ``encode`` also takes the text before, here "not available", and the tokens of the prompt,
    for each of which the encoder has a position before those of the speech.
    """

    kd_prompt: tuple[int, ...]

    def encode(self, speech: Tensor, lengths: Tensor) -> tuple[Any, Tensor]:
        """Run the front end and the encoder."""
        one = torch.ones_like(lengths)
        before = speech.new_full((len(speech), 1), self.na, dtype=torch.long)
        prompt = torch.cat([torch.full_like(before, token) for token in self.kd_prompt], 1)  # no wait
        return super().encode(speech, lengths, before, one, prompt, one * len(self.kd_prompt))


def ask_for(model: Model, prompt: tuple[int, ...]) -> None:
    """Ask a model of the task s2t_ctc for the language and task with these tokens."""
    model.__class__ = PromptedEncoder
    model.kd_prompt = prompt


def ctc_layer(model: Model) -> Any | None:
    """Return the layer that makes CTC logits (B, T, V) of the encoder output; None without one.

    ``CTC.forward`` and ``CTC.softmax`` would apply dropout, also in eval mode.
    """
    layer = getattr(model, "ctc_lin", None)
    return getattr(getattr(model, "ctc", None), "ctc_lo", None) if layer is None else layer


def auxiliary_logits(model: Model, encoded: Tensor) -> Tensor:
    """Run the CTC layer of a transducer on (B, T, D) encoder output as its loss does, with dropout."""
    logits: Tensor = model.ctc_lin(nn.functional.dropout(encoded, model.ctc_dropout_rate))
    return logits


def encoder_end(model: Model) -> Any:
    """Return the module whose output is the encoder output of the model."""
    last = getattr(model, "postencoder", None)
    return model.encoder if last is None else last


def skipped_by(outer: Any, inner: list[str]) -> tuple[str, float] | None:
    """Return the option that leaves out a layer in some steps of training, and its probability.

    LayerDrop (``MultiSequential``), block drop (``MultiBlocks``, which always runs its first block),
    stochastic depth (layers of Conformers and Branchformers).

    Args:
        outer: a module around the layer.
        inner: the path from there to the layer.
    """
    option, rate = "", 0.0
    if isinstance(outer, nn.Sequential):
        option, rate = "layer_drop_rate", getattr(outer, "layer_drop_rate", 0.0)
    elif inner[0] == "blocks" and inner[1:] and inner[1] != "0":
        option, rate = "blockdrop_rate", getattr(outer, "blockdrop_rate", 0.0)
    elif hasattr(outer, "stochastic_depth_rate"):
        option, rate = "stochastic_depth_rate", outer.stochastic_depth_rate
    return (option, rate) if rate else None


def decoder_prefix(model: Model, text: Tensor) -> Tensor:
    """Return what the attention decoder reads for transcripts.

    Args:
        model: an ``ESPnetASRModel``.
        text: (B, L) tokens, padded with -1; not changed.

    Returns:
        (B, U) tokens, the start symbol first, padded with the end symbol.
    """
    padding = (text == -1) | (text == model.ignore_id)
    return nn.functional.pad(text.masked_fill(padding, model.eos), (1, 0), value=model.sos)


def has_transformer_decoder(model: Model) -> bool:
    """Return whether the decoder takes encoded, frames, prefix (B, U) and its lengths (B,) in one pass."""
    return isinstance(getattr(model, "decoder", None), BaseTransformerDecoder)


def sampling_probability(model: Model) -> float:
    """Return how often an RNN decoder reads its own prediction, not the transcript; in eval mode, too."""
    decoder: Any = getattr(model, "decoder", None)
    return float(decoder.sampling_probability) if isinstance(decoder, RNNDecoder) else 0.0


def reads_language(model: Model) -> bool:
    """Return whether the decoder's prefix begins with the token of a language."""
    return getattr(model, "lang_token_id", None) is not None


def make_deterministic(model: Model) -> None:
    """Switch off what draws random numbers in eval mode: an RNN decoder's sampling, chunks of random size."""
    decoder: Any = getattr(model, "decoder", None)
    if hasattr(decoder, "sampling_probability"):
        decoder.sampling_probability = 0.0
    if getattr(model.encoder, "dynamic_chunk_training", False):
        model.encoder.dynamic_chunk_training = False


def has_lattice(model: Model) -> bool:
    """Return whether a model is ESPnet's transducer, or its ASR model with a transducer decoder."""
    return getattr(model, JOINT_NETWORK, None) is not None


def blank(model: Model) -> int:
    """Return the token of the blank; ESPnet's transducer has it at 0 and no attribute for it."""
    return int(getattr(model, "blank_id", 0))


def has_long_blanks(model: Model) -> bool:
    """Return whether a hybrid has blanks of several durations."""
    return bool(getattr(model, "transducer_multi_blank_durations", None))


def predicted(model: Model, encoded: Tensor, text: Tensor) -> Tensor:
    """Run the prediction network of a transducer along the labels.

    Args:
        model: with a joint network.
        encoded: (B, T, D) encoder output, for its device.
        text: (B, L) tokens, padded with -1; not changed.

    Returns:
        (B, U, D).
    """
    # As ESPnet's get_transducer_task_io, which reads every utterance's length from the GPU.
    labels = text.masked_fill((text == -1) | (text == model.ignore_id), 0)
    labels = nn.functional.pad(labels, (1, 0))  # begins with the blank, and is padded with it
    model.decoder.set_device(encoded.device)
    output: Tensor = model.decoder(labels)
    return output


def predicts_in_steps(model: Model) -> bool:
    """Return whether ``predict_step`` can run the prediction network of a transducer."""
    return isinstance(model.decoder, PredictionRNN | StatelessDecoder)


def predict_step(
    model: Model, label: Tensor, states: tuple[Tensor, ...] | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the prediction network of a transducer for one label of each utterance, as its ``forward`` does.

    Relied upon: of an RNN ``embed``, ``dropout_embed``, ``init_state`` and ``rnn_forward``; its states are
    two tensors, of which GRUs have None in place of the second.

    Args:
        model: with a joint network; ``decoder.set_device`` was called.
        label: (B,) tokens, the blank first.
        states: those after the label before, (layers, B, D') each; None at the start.

    Returns:
        (B, D') output, and the next states; () of a network that reads one label.
    """
    decoder = model.decoder
    if isinstance(decoder, StatelessDecoder):
        return decoder.forward(label[:, None])[:, 0], ()  # not decoder(...), which has hooks
    before = decoder.init_state(len(label)) if states is None else (*states, None)[:2]
    output, after = decoder.rnn_forward(decoder.dropout_embed(decoder.embed(label[:, None])), before)
    return output[:, 0], tuple(state for state in after if state is not None)


def lattice_inputs(enc_out: Tensor, dec_out: Tensor, no_projection: bool) -> tuple[Tensor, Tensor] | None:
    """Return the inputs of a joint network where a whole lattice is asked for, as in training.

    Relied upon: the forward of ESPnet's models calls ``joint_network`` with (B, T, 1, D) and (B, 1, U, D'),
    and hands what it returns to the transducer part of the loss; decoding and error rates call it otherwise.

    Returns:
        (B, T, D) encoder output, (B, U, D') output of the prediction network; None for other calls.
    """
    whole = enc_out.dim() == dec_out.dim() == 4 and enc_out.shape[2] == dec_out.shape[1] == 1
    return (enc_out[:, :, 0], dec_out[:, 0]) if whole and not no_projection else None


def own_chunks(model: Model) -> tuple[int, int]:
    """Return the frames of a streaming transducer's smallest chunk, and how many it sees before it."""
    return model.encoder.short_chunk_size, model.encoder.num_left_chunks


@contextmanager
def in_chunks(model: Model, chunks: tuple[int, int] | None) -> Iterator[None]:
    """Within the block the encoder of a transducer sees chunks of its input, as in streaming.

    Args:
        chunks: frames that the encoder sees at a time, and how many such chunks before them, 0 for all.
            None: it sees everything at once.
    """
    if chunks is None:
        yield
        return
    size, left = chunks

    def limit(body: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        x = inputs[0]
        mask = make_chunk_mask(x.size(1), size, num_left_chunks=left, device=x.device)
        return inputs, options | {"chunk_mask": mask}

    handle = model.encoder.encoders.register_forward_pre_hook(limit, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def frames_of(model: Any) -> Any | None:
    """Return a function from the lengths of a transformers model's input to encoder frames; None without one.

    Relied upon: models on waveforms, Whisper and Parakeet have one of these two methods.
    """
    rules = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
    return next((getattr(model, name) for name in rules if hasattr(model, name)), None)
