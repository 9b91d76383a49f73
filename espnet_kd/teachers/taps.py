"""Read what submodules of a stock model compute during one forward pass."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.teachers.lattice import LATTICE, check_lattice, refuse_prediction_network
from espnet_kd.teachers.targets import Targets

ENCODER, DECODER = "encoder", "decoder"  # parts of a forward pass
CTC = ("ctc", "ctc_lin")  # where ESPnet's models have their CTC layer


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

    def __init__(self, model: nn.Module, paths: Sequence[str], owner: str = "the model"):
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
        last = getattr(model, "postencoder", None)
        # ESPnet's recurrent encoders take the utterances of a batch in order of length only.
        self.packs = any(isinstance(module, nn.RNNBase) for module in model.encoder.modules())
        # The modules whose first pass ends a part of the model's.
        self._parts = {ENCODER: model.encoder if last is None else last}
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
            if top in CTC:
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
            values = values if top in CTC else values[self._back]
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
        option, rate = None, 0.0
        if isinstance(outer, nn.Sequential):  # ESPnet's MultiSequential
            option, rate = "layer_drop_rate", getattr(outer, "layer_drop_rate", 0.0)
        elif inner[0] == "blocks" and inner[1:] and inner[1] != "0":  # ESPnet's MultiBlocks keeps its first
            option, rate = "blockdrop_rate", getattr(outer, "blockdrop_rate", 0.0)
        elif hasattr(outer, "stochastic_depth_rate"):
            option, rate = "stochastic_depth_rate", outer.stochastic_depth_rate
        if rate:
            raise UserError(
                f"tap {path!r} of {owner} is left out of some steps by `{option}: {rate}`: "
                "set that to 0, or choose a layer that always runs, such as encoder"
            )
