"""Training for int8: the student computes as its exported int8 graphs will, with any other method::

quantise: {weights: int8, activations: int8, begin: 2000}
"""

import argparse
from collections.abc import Mapping
from typing import Any

from espnet_kd.errors import UserError
from espnet_kd.methods.method import BuildModel, Method


class QuantiseMethod(Method):
    """Linear layers of the student compute with the int8 values of its exported graphs."""

    def add_arguments(self, group: Any) -> None:
        """Add ``quantise``."""
        text = "Train for int8: a mapping with weights, activations, begin, keep_float"
        group.add_argument("--quantise", action="mapping", default={}, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse wrong keys."""
        from espnet_kd.export.quantised import quantise_options

        if args.quantise:
            quantise_options(args.quantise)

    def check_model(self, model: Any, args: argparse.Namespace) -> None:
        """Refuse a model that no graph can hold, and layers in ``keep_float`` that it has not."""
        from espnet_kd.export.quantised import check_kept, quantise_options
        from espnet_kd.host.export import obstacle

        if (reason := obstacle(model, vars(args))) is not None:
            raise UserError(f"quantise: `espnet-kd export --int8` cannot export the model: {reason}")
        check_kept(model, quantise_options(args.quantise).keep_float)

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Let the layers of the student and of its peers compute with int8 values from a batch on."""
        from espnet_kd.export.quantised import quantise, quantise_options
        from espnet_kd.methods.own import count_training, peers_of

        options = quantise_options(args.quantise)
        switches = [quantise(peer, options.keep_float) for peer in peers_of(model)]
        count_training(model)

        def renew(model: Any, inputs: object) -> None:
            for switch in switches:
                switch.on = float(model.kd_step) >= options.begin

        model.register_forward_pre_hook(renew)
        return model

    def label(self, config: Mapping[str, Any]) -> str:
        """Return that the model is for int8."""
        return "for int8"
