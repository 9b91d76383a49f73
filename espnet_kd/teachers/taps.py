"""Read what submodules of a stock model compute during one forward pass."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.teachers.lattice import LATTICE, check_lattice, refuse_prediction_network
from espnet_kd.teachers.targets import Targets


class Taps:
    """Forward hooks on submodules, by path.

    A tap keeps the first call of its module: in eval mode ESPnet calls ``ctc.ctc_lo`` again for its error
    rates. Positions are prediction steps for taps in the decoder and encoder frames for all others.

    Args:
        model: an ESPnetASRModel.
        paths: submodules such as ``ctc.ctc_lo``, ``decoder``, ``encoder`` or ``encoder.encoders.5``; the
            lattice at ``joint_network`` is no output of a submodule: ``lattice`` says whether it is wanted.
        owner: whose model it is, for the message of an error.

    Raises:
        UserError: the model has no such submodule.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], owner: str = "the model"):
        self.paths = [path for path in dict.fromkeys(paths) if path != LATTICE]
        self.lattice = LATTICE in paths
        if self.lattice:
            check_lattice(model, owner)
        refuse_prediction_network(model, self.paths, owner)
        self.owner = owner
        self._modules = {path: _submodule(model, path, owner) for path in self.paths}
        last = getattr(model, "postencoder", None)
        self._encoder = model.encoder if last is None else last
        self._seen: dict[str, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, the modules' outputs are kept; read them with ``get`` afterwards."""
        self._seen = {}
        handles = [m.register_forward_hook(self._keep(path)) for path, m in self._modules.items()]
        handles.append(self._encoder.register_forward_hook(self._keep("")))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, path: str):
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self._seen.setdefault(path, output)

        return hook

    def get(self, path: str, text_lengths: Tensor) -> Targets:
        """The tensor at a tap with its lengths.

        Args:
            path: one of ``paths``.
            text_lengths: (B,) tokens of each transcript.

        Raises:
            UserError: the module did not run, or its output is no (B, P, D) tensor of frames or steps.
        """
        if path not in self._seen:
            raise UserError(
                f"tap {path!r} of {self.owner} is not used in its forward pass: choose another layer"
            )
        values = _first_tensor(self._seen[path])
        lengths = text_lengths + 1 if path.split(".")[0] == "decoder" else self._seen[""][1]
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
        return Targets(values, lengths.to(values.device))

    def release(self) -> None:
        """Forget the tensors of the last pass, so that their memory can be used again."""
        self._seen = {}


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
