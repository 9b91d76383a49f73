"""Methods: what changes the training of a model, such as distillation from a teacher; see `METHODS`."""

import importlib
from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from espnet_kd.errors import UserError
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
PLUGINS = "espnet_kd.methods"  # the entry-point group: the name of a plug-in is its key
METHODS |= {plugin.value: (plugin.name,) for plugin in entry_points(group=PLUGINS)}

# Keys of a configuration in which weights may change with the training batch.
SCHEDULED = ("task_weight", *(key for keys in METHODS.values() for key in keys))

# Options that change nothing by themselves, only what a teacher teaches.
OF_TEACHERS = (*METHODS["espnet_kd.methods.distillation:DistillationMethod"], "task_weight", "delay_student")


def registered() -> list[Method]:
    """Return all methods, in the order in which they are applied."""
    return [_load(path) for path in METHODS]


def active(config: Mapping[str, Any]) -> list[Method]:
    """Return the methods that a configuration uses, in the order in which they are applied."""
    return [_load(path) for path, keys in METHODS.items() if any(config.get(key) for key in keys)]


def check_methods(model: Any, args: Namespace) -> list[Method]:
    """Refuse what no training could use, before teachers are loaded or even trained.

    Args:
        model: as ESPnet builds it.
        args: all options of the training.

    Returns:
        The methods that are used, in the order in which they are applied.

    Raises:
        UserError: names the option.
    """
    for method in registered():
        method.check(args, len(model.token_list))
    refuse_adapters(args)
    methods = active(vars(args))
    if methods:
        refuse_data_parallel(args)
    for method in methods:
        method.check_model(model, args)
    return methods


def refuse_data_parallel(args: Namespace) -> None:
    """Refuse torch's DataParallel, which copies modules to every GPU, but not teachers and hooks.

    The copies would share, in threads, the state that methods keep for a step, and all count it.

    Raises:
        UserError: several GPUs would be used by it.
    """
    if args.ngpu > 1 and not args.multiprocessing_distributed:
        raise UserError("several GPUs need DistributedDataParallel: add --multiprocessing_distributed true")


def refuse_adapters(args: Namespace) -> None:
    """Refuse ESPnet's adapters where a file of the model would lack what it has learned, or a method them.

    They take the place of layers that a method has changed, or whose weights a loss reads.

    Raises:
        UserError: names it.
    """
    if not getattr(args, "use_adapter", False):
        return
    if (saved := getattr(args, "save_strategy", "all")) != "all":
        raise UserError(
            f"save_strategy: {saved} leaves a part of the model out of its files, and ESPnet decodes with "
            "random weights in its place: leave it out, or write `all`"
        )
    used = [key for key in ("quantise", "prune") if getattr(args, key, None)]
    targets = (args.adapter_conf or {}).get("target_modules", ())
    if any("joint_network.lin_out".endswith(target) for target in targets):
        used.append("the RNN-T loss")
    if used:
        raise UserError(
            f"use_adapter: {used[0]} would leave out the adapters, which take the place of layers when the "
            "model is complete: leave out one of them, or choose other target_modules in adapter_conf"
        )


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
    try:
        method: Method = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as e:
        if module.startswith("espnet_kd."):
            raise
        raise UserError(
            f"the method {path} of another package does not load: {e}; repair or uninstall its package"
        ) from e
    if not isinstance(method, Method):
        raise UserError(f"{path} is no method: derive a class from espnet_kd.methods.method.Method")
    return method
