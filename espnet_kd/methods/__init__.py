"""Methods: what changes the training of a model, such as distillation from a teacher; see `METHODS`."""

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from espnet_kd.methods.method import Method

# The class of each method and the top-level keys of a configuration that switch it on, in the order in which
# methods are applied to a model. A method's module is imported only where it is used.
METHODS: dict[str, tuple[str, ...]] = {
    "espnet_kd.methods.distillation:DistillationMethod": (
        "teacher", "criteria", "init_from_teacher", "targets",
    ),
    "espnet_kd.methods.mutual:MutualMethod": ("mutual",),
    "espnet_kd.methods.sampling:SamplingMethod": ("scheduled_sampling", "prefix"),
    "espnet_kd.methods.mixed_batches:MixedBatchesMethod": ("share_per_batch",),
    "espnet_kd.methods.consistency:ConsistencyMethod": ("consistency",),
    "espnet_kd.methods.nbest:NBestMethod": ("nbest",),
    "espnet_kd.methods.quantise:QuantiseMethod": ("quantise",),
    "espnet_kd.methods.prune:PruneMethod": ("prune",),
}  # fmt: skip


def registered() -> list[Method]:
    """Return all methods, in the order in which they are applied."""
    return [_load(path) for path in METHODS]


def active(config: Mapping[str, Any]) -> list[Method]:
    """Return the methods that a configuration uses, in the order in which they are applied."""
    return [_load(path) for path, keys in METHODS.items() if any(config.get(key) for key in keys)]


def idle_keys(config: Mapping[str, Any]) -> set[str]:
    """Return the keys of methods that are switched on with options that change nothing."""
    return {
        key
        for path, keys in METHODS.items()
        if any(config.get(key) for key in keys) and _load(path).is_off(config)
        for key in keys
    }


@cache
def _load(path: str) -> Method:
    module, _, name = path.partition(":")
    method: Method = getattr(importlib.import_module(module), name)()
    return method
