"""Pruning while training: channels of feed-forward layers go, step by step, with any other method::

prune: {target: 0.5, begin: 500, end: 3000}

`espnet-kd shrink EXP` then writes the experiment without them.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from espnet_kd.config import as_number, refuse_unknown
from espnet_kd.errors import UserError
from espnet_kd.methods.method import BuildModel, Method
from espnet_kd.schedule import batches


class Prune(NamedTuple):
    """How a student is pruned.

    Attributes:
        target: share of the channels that are removed in the end.
        begin: training batches before the first.
        end: training batches up to the last.
    """

    target: float
    begin: int
    end: int

    def share(self, step: float) -> float:
        """Return the share of the channels that is removed at a training batch, counted from 0.

        Source:
            Zhu and Gupta 2017, arXiv:1710.01878, equation 1 (unverified), a cubic: most of them go early.
        """
        left = min(max((self.end - step) / (self.end - self.begin), 0.0), 1.0)
        return self.target * (1 - left**3)


class PruneMethod(Method):
    """Channels of feed-forward layers, those of the smallest norm, are removed as the student learns."""

    def add_arguments(self, group: Any) -> None:
        """Add ``prune``."""
        text = f"Remove channels of feed-forward layers: a mapping with {', '.join(Prune._fields)}"
        group.add_argument("--prune", action="mapping", default={}, help=text)

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse wrong keys."""
        if args.prune:
            prune_options(args.prune)

    def check_model(self, model: Any, args: argparse.Namespace) -> None:
        """Refuse a model that has nothing to remove."""
        from espnet_kd.methods.pruning import Pruner

        Pruner(model)

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Remove channels of the student and of its peers as the schedule says."""
        from espnet_kd.methods.own import count_training, peers_of
        from espnet_kd.methods.pruning import Pruner

        options = prune_options(args.prune)
        model.kd_pruners = [Pruner(peer) for peer in peers_of(model)]
        count_training(model)

        def renew(model: Any, inputs: object) -> None:
            for pruner in model.kd_pruners if model.training else ():
                pruner.remove(options.share(float(model.kd_step)))

        model.register_forward_pre_hook(renew)
        return model

    def before_training(self, model: Any, optimizers: Sequence[Any], options: Any) -> None:
        """Keep optimizers, which go on by their momentum, from moving what is removed."""
        if not hasattr(model, "kd_pruners"):
            return
        for optimizer in optimizers:
            for pruner in model.kd_pruners:
                optimizer.register_step_post_hook(lambda *_, pruner=pruner: pruner.clear())

    def label(self, config: Mapping[str, Any]) -> str:
        """Return how much is removed."""
        target = as_number(config["prune"].get("target"))
        return f"pruned by {100 * target:g} %" if isinstance(target, int | float) else "pruned"


def prune_options(prune: Mapping[str, Any]) -> Prune:
    """Check the option ``prune``.

    Keys:
        target (number): share of the channels of every feed-forward layer that is removed, between 0 and 1;
            required.
        begin (integer; 0): training batches before the first channel goes.
        end (integer): training batches up to the last, above ``begin``; required.

    Raises:
        UserError: a key is unknown or missing, or its value unusable.
    """
    example = "write `prune: {target: 0.5, begin: 500, end: 3000}`"
    if not isinstance(prune, Mapping):
        raise UserError(f"prune: {example}")
    for part in ("heads", "layers"):
        if part in prune:
            raise UserError(
                f"prune: {part} cannot be removed in training, channels of feed-forward layers can: "
                "`espnet-kd shrink` and init_from_teacher select them"
            )
    refuse_unknown("prune", prune, Prune._fields)
    target = as_number(prune.get("target"))
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target < 1:
        raise UserError(f"prune: target is {target!r}: give a number between 0 and 1; {example}")
    begin = batches(prune.get("begin", 0), "prune.begin")
    if "end" not in prune:
        raise UserError(f"prune: end is missing; {example}")
    return Prune(float(target), begin, batches(prune["end"], "prune.end", begin + 1))
