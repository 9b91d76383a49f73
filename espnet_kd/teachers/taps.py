"""Record the outputs of a stock model's layers in one forward pass, as targets or as the student's values."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from espnet_kd.criteria import Criterion, TopClasses
from espnet_kd.errors import UserError
from espnet_kd.host.models import (
    CTC_PARTS,
    JOINT_NETWORK,
    Model,
    blank,
    ctc_layer,
    decoder_prefix,
    encode,
    encoder_end,
    has_lattice,
    has_long_blanks,
    predicted,
    skipped_by,
)
from espnet_kd.rnnt import CollapsedTargets, Joint, OneBestTargets, SequenceScores, joint_of
from espnet_kd.rnnt.device import HostCopy, to_device

LATTICE = JOINT_NETWORK  # the tap that means the lattice
# Two models may round the number of frames differently; a larger difference means another frame rate.
MAX_FRAME_DIFFERENCE = 2
SECONDS = 2  # of the noise that a model is tried with
LONG_PROBE = 10  # the difference gives frame rates
FRAMES_PER_SECOND = 100  # usual rate of feature frames
ENCODER, DECODER = "encoder", "decoder"  # parts of a forward pass


@dataclass(frozen=True)
class Targets:
    """The values of one layer for a batch.

    Axes: B utterances, P positions (T encoder frames or U = L + 1 decoder steps), V tokens or D features.

    Attributes:
        values: (B, P, V) logits, or (B, P, D) hidden vectors; positions beyond ``lengths`` are padding. From
            a store, perhaps only the K most probable classes. For a transducer's lattice, the tensors of its
            joint network or stored targets of the lattice; positions are frames then. From a store, perhaps
            the log-probabilities of the transcripts, one position each.
        lengths: (B,) number of real positions, on the host.
        utterances: B ids; None where they are not known.
    """

    values: Tensor | TopClasses | Joint | CollapsedTargets | OneBestTargets | SequenceScores
    lengths: Tensor
    utterances: Sequence[str] | None = None

    @property
    def tensor(self) -> Tensor:
        """The values of a layer that a model has computed: neither read from a store nor a lattice."""
        assert isinstance(self.values, Tensor)
        return self.values

    @property
    def joint(self) -> Joint:
        """The values of a whole lattice."""
        assert isinstance(self.values, Joint)
        return self.values


class Taps:
    """Record the outputs of submodules by forward hooks.

    ESPnet may call a module more than once in a forward pass. The call that is recorded is

    - for a CTC layer, the first after the encoder has returned, on the encoder's final output;
      self-conditioned CTC calls the layer on inner layers before it, losses and error rates after it;
    - for a layer in the decoder, the only one in the first pass of the decoder;
    - for any other layer, the only one until the encoder has returned.

    If there are several such calls, ``get`` raises an error. Positions are decoder steps for taps in the
    decoder, and encoder frames for all others.

    Args:
        model: an ESPnetASRModel. In training mode, layers that training skips at random are refused.
        paths: module paths such as ``ctc.ctc_lo``, ``decoder``, ``encoder`` or ``encoder.encoders.5``; with
            ``joint_network``, which means the whole lattice, the attribute ``lattice`` is True.
        owner: whose model it is, for messages.

    Raises:
        UserError: the model has no such submodule, or skips it in some steps of training.
    """

    def __init__(self, model: Model, paths: Sequence[str], owner: str = "the model"):
        self.paths = [path for path in dict.fromkeys(paths) if path != LATTICE]
        self.lattice = LATTICE in paths
        if self.lattice:
            check_lattice(model, owner)
        refuse_prediction_network(model, self.paths, owner)
        self.owner = owner
        self._modules = {path: submodule(model, path, owner) for path in self.paths}
        if model.training:
            for path in self.paths:
                _check_never_skipped(model, path, owner)
        # ESPnet's recurrent encoders need the utterances of a batch sorted by length.
        self.packs = any(isinstance(module, nn.RNNBase) for module in model.encoder.modules())
        # The modules whose first return ends a part of the forward pass.
        self._parts = {ENCODER: encoder_end(model)}
        if isinstance(getattr(model, DECODER, None), nn.Module):
            self._parts[DECODER] = model.decoder
        self._ended: dict[str, Any] = {}
        self._recorded: dict[str, list[Any]] = {}
        self._frames: HostCopy | None = None
        self._back: Tensor | None = None

    @contextmanager
    def recording(self, back: Tensor | None = None) -> Iterator[None]:
        """Record, within the block, the modules' outputs; read them with ``get`` afterwards.

        Args:
            back: (B,) index of each utterance in the encoder's batch, if that was sorted; else None.
        """
        self.release()
        self._back = back
        handles = [m.register_forward_hook(self._keep(path)) for path, m in self._modules.items()]
        handles += [m.register_forward_hook(self._end(part)) for part, m in self._parts.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        top = path.split(".")[0]

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if top in CTC_PARTS:
                if ENCODER in self._ended:
                    self._recorded.setdefault(path, [output])
            elif (DECODER if top == DECODER else ENCODER) not in self._ended:
                self._recorded.setdefault(path, []).append(output)

        return hook

    def _end(self, part: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if part == ENCODER and part not in self._ended:
                self._frames = HostCopy(output[1])  # is there when the forward pass is done
            self._ended.setdefault(part, output)

        return hook

    def frames(self) -> Tensor:
        """Return the numbers of encoder frames of the last forward pass, (B,), on the host."""
        assert self._frames is not None  # the encoder has run
        lengths = self._frames.read()
        return lengths if self._back is None else lengths[self._back]

    def get(self, path: str, text_lengths: Tensor) -> Targets:
        """Return the recorded tensor of a layer with its lengths.

        Args:
            path: one of ``paths``.
            text_lengths: (B,) number of tokens of each transcript, on the host.

        Raises:
            UserError: the module did not run, or ran more than once, or its output is not a (B, P, D) tensor
                of frames or steps.
        """
        calls = self._recorded.get(path, [])
        if len(calls) != 1:
            found = f"runs {len(calls)} times" if calls else "is not used"
            raise UserError(f"tap {path!r} of {self.owner} {found} in its forward pass: choose another layer")
        values, top = first_tensor(calls[0]), path.split(".")[0]
        lengths = text_lengths.cpu() + 1 if top == DECODER else self.frames()
        if values is None or values.dim() != 3:
            found = "no tensor" if values is None else f"a tensor of shape {tuple(values.shape)}"
            raise UserError(
                f"tap {path!r} of {self.owner} gives {found}: choose a layer that gives (B, P, D)"
            )
        longest = int(lengths.max())
        if values.shape[1] != longest:
            raise UserError(
                f"tap {path!r} of {self.owner} has {values.shape[1]} positions where the model has {longest}"
                ": choose a layer after the subsampling"
            )
        if self._back is not None and top not in (DECODER, *CTC_PARTS):
            values = values[to_device(self._back, values.device)]
        return Targets(values, lengths)

    def release(self) -> None:
        """Release the recorded tensors, so that their memory can be reused."""
        self._ended, self._recorded, self._frames, self._back = {}, {}, None, None


def first_tensor(output: Any) -> Tensor | None:
    """Find the first tensor in nested tuples: Conformer layers return ((x, pos_emb), mask)."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list):
        for item in output:
            found = first_tensor(item)
            if found is not None:
                return found
    return None


def submodule(model: nn.Module, path: str, owner: str) -> nn.Module:
    """Return the submodule at a path.

    Raises:
        UserError: there is none; lists paths that are similar.
    """
    modules = dict(model.named_modules())
    if path in modules and path:
        return modules[path]
    near = difflib.get_close_matches(path, modules, n=4, cutoff=0.5) or [n for n, _ in model.named_children()]
    raise UserError(f"{owner} has no layer {path!r} to tap; near it: {', '.join(near)}")


def _check_never_skipped(model: nn.Module, path: str, owner: str) -> None:
    """Check that training does not skip a layer at random (LayerDrop, block drop, stochastic depth).

    Raises:
        UserError: it skips the layer, or one that contains it.
    """
    names = path.split(".")
    for depth in range(1, len(names)):
        outer, inner = model.get_submodule(".".join(names[:depth])), names[depth:]
        if (skipped := skipped_by(outer, inner)) is not None:
            raise UserError(
                f"tap {path!r} of {owner} is left out of some steps by `{skipped[0]}: {skipped[1]}`: "
                "set that to 0, or choose a layer that always runs, such as encoder"
            )


def observe(
    model: Model,
    taps: Taps,
    speech: Tensor,
    speech_lengths: Tensor,
    text: Tensor,
    text_lengths: Tensor,
) -> dict[str, Targets]:
    """Run a model in eval mode and return the values of its tapped layers.

    The arguments are those of ``record_taps``.

    Returns:
        By tap, the values and their lengths.
    """
    tokens = HostCopy(text_lengths)
    encoded, _ = record_taps(model, taps, speech, speech_lengths, text, text_lengths)
    seen = {path: taps.get(path, tokens.read()) for path in taps.paths}
    if taps.lattice:
        text = text[:, : int(tokens.read().max())]
        seen[LATTICE] = Targets(lattice(model, encoded, text), taps.frames())
    taps.release()
    return seen


def record_taps(
    model: Model,
    taps: Taps,
    speech: Tensor,
    speech_lengths: Tensor,
    text: Tensor,
    text_lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the parts of a model that the tapped layers need, without losses and error rates.

    The utterances are sorted by length for recurrent encoders, which need the longest first.

    Args:
        model: in eval mode.
        taps: hooks on this model; afterwards they hold the outputs.
        speech: (B, samples) waveform.
        speech_lengths: (B,) number of samples.
        text: (B, L) tokens, padded with -1; not changed.
        text_lengths: (B,) number of tokens.

    Returns:
        (B, T, D) encoder output, (B,) number of frames.
    """
    speech = speech.to(next(model.parameters()).dtype)  # the student may train in another precision
    order = decreasing(speech_lengths.cpu()) if taps.packs else None
    tokens = HostCopy(text_lengths)
    back = None if order is None else order.argsort()
    # Stock encoders draw random numbers for layer drop even in eval mode.
    with torch.random.fork_rng([speech.device] if speech.is_cuda else []), taps.recording(back):
        if order is not None:
            here = to_device(order, speech.device)
            speech, speech_lengths = speech[here], speech_lengths[here]
        encoded, lengths = encode(model, speech, speech_lengths)
        if back is not None:
            # Recurrent encoders of ESPnet give their lengths on the host.
            encoded = encoded[to_device(back, encoded.device)]
            lengths = lengths[to_device(back, lengths.device)]
        layer = ctc_layer(model)
        if layer is not None and {path.split(".")[0] for path in taps.paths} & set(CTC_PARTS):
            layer(encoded)
        if any(path.startswith("decoder") for path in taps.paths):
            text = text[:, : int(tokens.read().max())]
            model.decoder(encoded, lengths, decoder_prefix(model, text), text_lengths + 1)
    return encoded, lengths


def decreasing(lengths: Tensor) -> Tensor | None:
    """Return the order of utterances, (B,) indices, that puts the longest first; None if they are sorted."""
    if bool((lengths[1:] <= lengths[:-1]).all()):
        return None
    return lengths.argsort(descending=True, stable=True)


def lattice(model: Model, encoded: Tensor, text: Tensor) -> Joint:
    """Run the prediction network along the labels, and return the tensors of the lattice.

    Args:
        model: ESPnet's transducer, or its ASR model with a transducer decoder.
        encoded: (B, T, D) encoder output.
        text: (B, L) tokens, padded with -1; not changed.
    """
    return joint_of(model.joint_network, encoded, predicted(model, encoded, text))


def check_lattice(model: nn.Module, owner: str) -> None:
    """Check that a model has a lattice that criteria can compare.

    Raises:
        UserError: it is no transducer, its blank is not token 0, or it has several blanks.
    """
    if not has_lattice(model):
        raise UserError(f"{owner} is no transducer: a criterion on the lattice needs its joint network")
    if blank(model) != 0:
        raise UserError(f"{owner} has the blank at token {blank(model)}: a lattice needs it at 0")
    if has_long_blanks(model):
        raise UserError(f"{owner} has blanks of several durations: a lattice needs one blank")


def check_of_ctc(criterion: Criterion, path: str, name: str) -> None:
    """Refuse options for CTC at another layer.

    Args:
        criterion: with its options.
        path: layer of the student.
        name: of the criterion.

    Raises:
        UserError: the layer is no CTC layer.
    """
    if criterion.of_ctc and path.split(".")[0] not in CTC_PARTS:
        raise UserError(
            f"criterion {name}: `delay` and `frames` are for the frames of CTC, not for {path}: leave them "
            "out, or give tap: ctc.ctc_lo"
        )
    if criterion.of_blank and path.split(".")[0] not in CTC_PARTS:
        raise UserError(
            f"criterion {name}: `target_class: blank`, the default, is for CTC, and {path} has no blank: "
            "give target_class: top, or tap: ctc.ctc_lo"
        )


def refuse_prediction_network(model: nn.Module, paths: Iterable[str], owner: str) -> None:
    """Check that no tap is in the prediction network of a transducer, which has no posteriors.

    Raises:
        UserError: a tap is.
    """
    for path in paths:
        if path.split(".")[0] == "decoder" and has_lattice(model):
            raise UserError(
                f"tap {path!r} of {owner} is in a transducer's prediction network: use `type: transducer`, "
                "which compares the lattice, or tap the encoder"
            )


def check_finite(given: Mapping[str, Targets], owner: str, utterances: Sequence[str] | None = None) -> None:
    """Check that a model's values are finite; a logit may be -inf, which is probability 0.

    Args:
        given: by tap, the values or a lattice.
        owner: whose model it is, for the message.
        utterances: ids of the batch, if known.

    Raises:
        UserError: a real position has NaN or infinity; names the tap and the utterance.
    """
    for path, targets in given.items():
        values, lengths = targets.values, targets.lengths
        if isinstance(values, Joint):
            largest = values.enc.abs().amax(-1)  # NaN is larger than any number
            rest = (values.dec.abs().amax((1, 2)), values.weight.abs().amax(), values.bias.amax())
            largest = largest + sum(x.reshape(-1, 1) for x in rest)
        else:
            largest = targets.tensor.amax(-1)  # (B, P)
        real = (
            torch.arange(largest.shape[1], device=largest.device)
            < to_device(lengths, largest.device)[:, None]
        )
        bad = (real & ~largest.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            where = f" for {utterances[bad[0]]}" if utterances is not None else ""
            raise UserError(
                f"{owner} gives values at {path}{where} that are not finite: its weights or its statistics "
                "(stats_file) are damaged: choose another checkpoint, or train it again"
            )


def probe(
    rate: int, features: int | None = None, seconds: int = SECONDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make one utterance of noise with two tokens, always the same, to find the sizes of a model's layers.

    Args:
        rate: sampling rate in hertz.
        features: features per frame, ESPnet's ``input_size``; None makes a waveform.
        seconds: duration.

    Returns:
        (1, samples) or (1, frames, D) speech, (1,) its length, (1, 2) tokens, (1,) their number.
    """
    shape = (1, seconds * rate) if features is None else (1, seconds * FRAMES_PER_SECOND, features)
    speech = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return speech, torch.tensor([speech.shape[1]]), torch.tensor([[2, 3]]), torch.tensor([2])
