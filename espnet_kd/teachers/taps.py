"""Read what layers of a stock model compute in one forward pass; what a teacher hands to a criterion."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from espnet_kd.criteria import TopClasses
from espnet_kd.errors import UserError
from espnet_kd.host.models import (
    CTC_PARTS,
    JOINT_NETWORK,
    Model,
    blank,
    encoder_end,
    has_lattice,
    has_long_blanks,
    predicted,
    skipped_by,
)
from espnet_kd.rnnt import CollapsedTargets, Joint, PathTargets, joint_of

# Two models may round the number of frames differently; more than this is another frame rate.
MAX_FRAME_DIFFERENCE = 2


@dataclass(frozen=True)
class Targets:
    """A batch of values at one tap.

    Axes: B utterances, P positions (T encoder frames or U = L + 1 prediction steps), V tokens or D features.

    Attributes:
        values: (B, P, V) logits, or (B, P, D) hidden vectors; anything beyond ``lengths`` is padding. From a
            store the K most probable classes. At the tap of a transducer's lattice the pieces of its joint
            network, or what is stored of it, and P are frames.
        lengths: (B,) number of real positions.
        utterances: B ids; None where they are not known.
    """

    values: Tensor | TopClasses | Joint | CollapsedTargets | PathTargets
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


def check_finite(given: Mapping[str, Targets], owner: str, utterances: Sequence[str] | None = None) -> None:
    """Refuse what a model gives at its taps where it is not finite; a logit may be -inf, probability 0.

    Args:
        given: tap path to values as they are, or to a lattice.
        owner: the model, for the message.
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
        real = torch.arange(largest.shape[1], device=largest.device) < lengths[:, None]
        bad = (real & ~largest.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            where = f" for {utterances[bad[0]]}" if utterances is not None else ""
            raise UserError(
                f"{owner} gives values at {path}{where} that are not finite: its weights or its statistics "
                "(stats_file) are damaged: choose another checkpoint, or train it again"
            )


LATTICE = JOINT_NETWORK  # the tap


def lattice(model: Model, encoded: Tensor, lengths: Tensor, text: Tensor) -> Joint:
    """Run the prediction network along the labels.

    Args:
        model: ESPnet's transducer, or its ASR model with a transducer decoder.
        encoded: (B, T, D) encoder output.
        lengths: (B,) frames.
        text: (B, L) tokens, padded with -1; not changed.
    """
    return joint_of(model.joint_network, encoded, predicted(model, encoded, lengths, text))


def check_lattice(model: nn.Module, owner: str) -> None:
    """Refuse a model without one.

    Raises:
        UserError: it is no transducer, its blank is not token 0, or it has more blanks than one.
    """
    if not has_lattice(model):
        raise UserError(f"{owner} is no transducer: a criterion on the lattice needs its joint network")
    if blank(model) != 0:
        raise UserError(f"{owner} has the blank at token {blank(model)}: a lattice needs it at 0")
    if has_long_blanks(model):
        raise UserError(f"{owner} has blanks of several durations: a lattice needs one blank")


def refuse_prediction_network(model: nn.Module, paths: Iterable[str], owner: str) -> None:
    """Refuse taps in the prediction network of a transducer, which gives no posteriors.

    Raises:
        UserError: there is one.
    """
    for path in paths:
        if path.split(".")[0] == "decoder" and has_lattice(model):
            raise UserError(
                f"tap {path!r} of {owner} is in a transducer's prediction network: use `type: transducer`, "
                "which compares the lattice, or tap the encoder"
            )


ENCODER, DECODER = "encoder", "decoder"  # parts of a forward pass


class Taps:
    """Forward hooks on submodules, by path.

    ESPnet may call a module more than once in a forward pass; the call that is kept is

    - of a CTC layer the first after the encoder has returned, which is on its final output: self-conditioned
      CTC calls the layer on inner layers before that, their own losses and error rates after it;
    - of a layer in the decoder the only one in the first pass of the decoder;
    - of any other layer the only one until the encoder has returned.

    Where there is no only one, ``get`` refuses. Positions are prediction steps for taps in the decoder and
    encoder frames for all others.

    Args:
        model: an ESPnetASRModel; one in training mode is to be trained, which may leave out layers.
        paths: submodules such as ``ctc.ctc_lo``, ``decoder``, ``encoder`` or ``encoder.encoders.5``; the
            lattice at ``joint_network`` is no output of a submodule: ``lattice`` says whether it is wanted.
        owner: whose model it is, for the message of an error.

    Raises:
        UserError: the model has no such submodule, or leaves it out of some steps of training.
    """

    def __init__(self, model: Model, paths: Sequence[str], owner: str = "the model"):
        self.paths = [path for path in dict.fromkeys(paths) if path != LATTICE]
        self.lattice = LATTICE in paths
        if self.lattice:
            check_lattice(model, owner)
        refuse_prediction_network(model, self.paths, owner)
        self.owner = owner
        self._modules = {path: _submodule(model, path, owner) for path in self.paths}
        if model.training:
            for path in self.paths:
                _check_never_skipped(model, path, owner)
        # ESPnet's recurrent encoders take the utterances of a batch in order of length only.
        self.packs = any(isinstance(module, nn.RNNBase) for module in model.encoder.modules())
        # The modules whose first pass ends a part of the model's.
        self._parts = {ENCODER: encoder_end(model)}
        if isinstance(getattr(model, DECODER, None), nn.Module):
            self._parts[DECODER] = model.decoder
        self._ended: dict[str, Any] = {}
        self._seen: dict[str, list[Any]] = {}
        self._back: Tensor | None = None

    @contextmanager
    def listening(self, back: Tensor | None = None) -> Iterator[None]:
        """Within the block, the modules' outputs are kept; read them with ``get`` afterwards.

        Args:
            back: (B,) where each utterance of the batch is in what the encoder gets, if that is reordered.
        """
        self._ended, self._seen, self._back = {}, {}, back
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
                    self._seen.setdefault(path, [output])
            elif (DECODER if top == DECODER else ENCODER) not in self._ended:
                self._seen.setdefault(path, []).append(output)

        return hook

    def _end(self, part: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self._ended.setdefault(part, output)

        return hook

    def get(self, path: str, text_lengths: Tensor) -> Targets:
        """The tensor at a tap with its lengths.

        Args:
            path: one of ``paths``.
            text_lengths: (B,) tokens of each transcript.

        Raises:
            UserError: the module did not run, or more than once, or its output is no (B, P, D) tensor of
                frames or steps.
        """
        calls = self._seen.get(path, [])
        if len(calls) != 1:
            found = f"runs {len(calls)} times" if calls else "is not used"
            raise UserError(f"tap {path!r} of {self.owner} {found} in its forward pass: choose another layer")
        values, top = _first_tensor(calls[0]), path.split(".")[0]
        lengths = text_lengths + 1 if top == DECODER else self._ended[ENCODER][1]
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
        lengths = lengths.to(values.device)
        if self._back is not None and top != DECODER:
            lengths = lengths[self._back]
            values = values if top in CTC_PARTS else values[self._back]
        return Targets(values, lengths)

    def release(self) -> None:
        """Forget the tensors of the last pass, so that their memory can be used again."""
        self._ended, self._seen, self._back = {}, {}, None


def _first_tensor(output: Any) -> Tensor | None:
    """The first tensor of nested tuples: Conformer layers return ((x, pos_emb), mask)."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list):
        for item in output:
            found = _first_tensor(item)
            if found is not None:
                return found
    return None


def _submodule(model: nn.Module, path: str, owner: str) -> nn.Module:
    modules = dict(model.named_modules())
    if path in modules and path:
        return modules[path]
    near = difflib.get_close_matches(path, modules, n=4, cutoff=0.5) or [n for n, _ in model.named_children()]
    raise UserError(f"{owner} has no layer {path!r} to tap; near it: {', '.join(near)}")


def _check_never_skipped(model: nn.Module, path: str, owner: str) -> None:
    """Refuse a layer that training leaves out of steps at random: LayerDrop, block drop, stochastic depth.

    Raises:
        UserError: it is one, or within one.
    """
    names = path.split(".")
    for depth in range(1, len(names)):
        outer, inner = model.get_submodule(".".join(names[:depth])), names[depth:]
        if (skipped := skipped_by(outer, inner)) is not None:
            raise UserError(
                f"tap {path!r} of {owner} is left out of some steps by `{skipped[0]}: {skipped[1]}`: "
                "set that to 0, or choose a layer that always runs, such as encoder"
            )


SECONDS = 2
FRAMES_PER_SECOND = 100  # of features, as usual


def probe(
    rate: int, features: int | None = None, seconds: int = SECONDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One utterance of noise and two tokens, always the same.

    Args:
        rate: Hz of a waveform.
        features: D of a model that takes features, ESPnet's ``input_size``; None: it takes waveforms.
        seconds: how long.

    Returns:
        (1, samples) or (1, frames, D) speech, (1,) its length, (1, 2) tokens, (1,) their number.
    """
    shape = (1, seconds * rate) if features is None else (1, seconds * FRAMES_PER_SECOND, features)
    speech = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return speech, torch.tensor([speech.shape[1]]), torch.tensor([[2, 3]]), torch.tensor([2])
