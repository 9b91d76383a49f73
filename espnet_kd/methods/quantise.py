"""Training for int8: the student computes as its exported int8 graphs will, with any other method::

quantise: {weights: int8, activations: int8, begin: 2000}
"""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_kd.config import refuse_unknown
from espnet_kd.errors import UserError
from espnet_kd.methods.method import BuildModel, Method

if TYPE_CHECKING:
    from espnet_kd.methods.quantised import Switch

KEYS = ("weights", "activations", "begin", "keep_float")
INT8 = "int8"
LATTICE_LAYER = "joint_network.lin_out"  # its inputs, one for each node of the lattice, are never in memory


class Quantise(NamedTuple):
    """How a student is quantised in training.

    Attributes:
        begin: training batches before it.
        keep_float: layers that stay in float, besides ``LATTICE_LAYER``.
    """

    begin: int = 0
    keep_float: tuple[str, ...] = ()


class QuantiseMethod(Method):
    """Linear layers of the student compute with the int8 values of its exported graphs."""

    def add_arguments(self, group: Any) -> None:
        """Add ``quantise``."""
        text = f"Train for int8: a mapping with {', '.join(KEYS)}"
        group.add_argument("--quantise", action="mapping", default={}, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse wrong keys."""
        if args.quantise:
            quantise_options(args.quantise)

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Let the layers of the student and of its peers compute with int8 values from a batch on."""
        from espnet_kd.methods.own import count_training, peers_of
        from espnet_kd.methods.quantised import quantise

        options = quantise_options(args.quantise)
        switches: list[Switch] = [quantise(peer, options.keep_float) for peer in peers_of(model)]
        count_training(model)

        def renew(model: Any, inputs: object) -> None:
            for switch in switches:
                switch.on = float(model.kd_step) >= options.begin

        model.register_forward_pre_hook(renew)
        return model

    def label(self, config: Mapping[str, Any]) -> str:
        """Return that the model is for int8."""
        return "for int8"


def quantise_options(quantise: Mapping[str, Any]) -> Quantise:
    """Check the option ``quantise``.

    Keys:
        weights (int8; int8): of linear layers and convolutions over one frame, with a scale per output
            channel.
        activations (int8; int8): inputs of these layers, with a range that is measured as they come.
        begin (integer; 0): training batches in float before it; validation follows.
        keep_float (list; none): layers that stay in float, by module path; of a transducer
            ``joint_network.lin_out`` does so by itself. `espnet-kd export --int8` leaves the same in float.

    Raises:
        UserError: a key is unknown or its value unusable.
    """
    if not isinstance(quantise, Mapping):
        raise UserError("quantise: write `quantise: {weights: int8, activations: int8, begin: 2000}`")
    refuse_unknown("quantise", quantise, KEYS)
    for key in KEYS[:2]:
        if quantise.get(key, INT8) != INT8:
            raise UserError(f"quantise: {key} is {quantise[key]!r}: int8 is what exported graphs have")
    begin, names = quantise.get("begin", 0), quantise.get("keep_float") or []
    if type(begin) is not int or begin < 0:
        raise UserError(f"quantise: begin is {begin!r}: give a number of training batches, 0 or more")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"quantise: keep_float is {names!r}: give a list of layers, such as [ctc.ctc_lo]")
    return Quantise(begin, tuple(names))
