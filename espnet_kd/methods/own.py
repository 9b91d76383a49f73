"""Parameters and state that methods add to a model, kept out of the model's files.

Parameters of criteria, the other peers and the count of training batches are parts of the model under the
prefix ``kd_``, so that optimizers, devices and several processes treat them as all others. The model's state
dict leaves them out: ``<N>epoch.pth`` and averages have the stock keys alone, and ESPnet loads and fine-tunes
them. They are in ``checkpoint.pth`` only, beside the state of the optimizer, which is that of a stock model::

    {"model": ..., "optimizers": [{"state": ..., "param_groups": ...,
                                   "espnet_kd": {"tensors": {name: tensor}, "state": {name: optimizer's},
                                                 "gradients": {name: tensor}}}]}

The gradients are those of all parameters, ours and stock ones, after batches that no update has used yet: an
epoch may end before there are ``accum_grad`` of them, and ESPnet uses them in the first update of the next.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.host.outputs import OWN_PREFIX

KEY = "espnet_kd"
PEERS = f"{OWN_PREFIX}peers."
State = dict[str, Any]
Groups = list[list[str | None]]  # of parameters: our name, None of a stock one


def count_batches(model: nn.Module) -> None:
    """Give a model the counter ``kd_step``, and keep all that is under ``kd_`` out of its state dict.

    The counter is no buffer: it stays on the host, which reads it in every step and would have to wait for a
    GPU. All processes of a distributed training count alike.
    """
    model.kd_step = torch.zeros((), dtype=torch.int64)
    model.register_state_dict_post_hook(_leave_out)
    model.register_load_state_dict_pre_hook(_ignore)
    model.register_load_state_dict_post_hook(_not_missing)


def count_training(model: nn.Module) -> None:
    """Count a model's training batches, unless a method that was applied before does."""
    if not counts_batches(model):
        count_batches(model)
        model.register_forward_hook(_count)


def counts_batches(model: nn.Module) -> bool:
    """Return whether a model has the counter ``kd_step``."""
    return "kd_step" in vars(model)


def mix_in(model: nn.Module, name: str, *mixins: type) -> None:
    """Put classes before that of a model, in place; names of its parameters stay.

    Args:
        model: of any class.
        name: begin of the name of the new class.
        mixins: the first comes first.
    """
    model.__class__ = _mixed(name, mixins, type(model))


@cache
def _mixed(name: str, mixins: tuple[type, ...], stock: type) -> type:
    return type(f"{name}{stock.__name__}", (*mixins, stock), {})


def _count(model: nn.Module, inputs: object, output: object) -> None:
    if model.training:
        model.kd_step += 1


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a model has under ``kd_``, by name; they share their memory with it."""
    tensors = {"kd_step": model.kd_step} if counts_batches(model) else {}
    for name, part in model.named_children():
        if name.startswith(OWN_PREFIX):
            tensors |= part.state_dict(prefix=f"{name}.")
    return tensors


def peers_of(model: nn.Module) -> list[nn.Module]:
    """Return the models that are trained: the student, and its peers in mutual learning."""
    return [model, *getattr(model, "kd_peers", {}).values()]


def saved_tensors(states: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that the content of a ``checkpoint.pth`` has under ``kd_``.

    Older checkpoints have it among the model's tensors.
    """
    for state in states["optimizers"]:
        if KEY in state:
            return state[KEY]["tensors"]
    return {name: tensor for name, tensor in states["model"].items() if name.startswith(OWN_PREFIX)}


def peer_models(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return the tensors of peers 2, 3, ... with stock names, by peer.

    Args:
        tensors: under ``kd_``, those of a model besides.
    """
    models: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(PEERS):
            number, _, stock = name.removeprefix(PEERS).partition(".")
            models.setdefault(int(number), {})[stock] = tensor
    return models


def without_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a stock model has."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(OWN_PREFIX)}


@torch.no_grad()
def load_own(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Load what a checkpoint has under ``kd_``; criteria may differ from it, peers may not.

    Raises:
        UserError: a tensor has another shape, or the peers are others.
    """
    ours = own_tensors(model)
    for name in sorted(ours.keys() ^ saved.keys()):
        if name.startswith(PEERS):
            has = "has" if name in saved else "lacks"
            raise UserError(f"it {has} {name}, so it is of other peers")
        if name in saved:
            logging.warning(f"{name} of the checkpoint is left out: no criterion has it any more")
        else:
            logging.warning(f"{name} is not in the checkpoint: it starts anew")
    for name in sorted(ours.keys() & saved.keys()):
        if ours[name].shape != saved[name].shape:
            raise UserError(
                f"{name} is {tuple(saved[name].shape)} in the checkpoint, {tuple(ours[name].shape)} in this "
                "configuration"
            )
        ours[name].copy_(saved[name])


def keep_apart(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], with_gradients: bool = False
) -> None:
    """Save and load what is under ``kd_`` with the state of the optimizers, which is stock otherwise.

    Args:
        model: stock, or with parts of ours.
        optimizers: of its parameters.
        with_gradients: whether gradients that are there when the state is saved belong to it.
    """
    names = {id(p): name for name, p in model.named_parameters() if name.startswith(OWN_PREFIX)}

    def groups(optimizer: torch.optim.Optimizer) -> Groups:
        return [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]

    def save(optimizer: torch.optim.Optimizer, state: State) -> State:
        stock, own = split_state(state, groups(optimizer))
        kept = {"tensors": own_tensors(model), "state": own}
        if with_gradients:
            kept["gradients"] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return {**stock, KEY: kept}

    def load(optimizer: torch.optim.Optimizer, state: State) -> State | None:
        found, gradients = groups(optimizer), state.get(KEY, {}).get("gradients", {})
        for name, p in model.named_parameters():
            if name in gradients and gradients[name].shape == p.shape:
                p.grad = gradients[name].to(p, copy=True)
        if KEY not in state and [len(g["params"]) for g in state["param_groups"]] == [len(g) for g in found]:
            return None  # an older checkpoint numbers our parameters, too
        return join_state(state, state.get(KEY, {}).get("state", {}), found)

    for optimizer in optimizers:
        optimizer.register_state_dict_post_hook(save)
        optimizer.register_load_state_dict_pre_hook(load)


def split_state(state: State, groups: Groups) -> tuple[State, State]:
    """Take parameters out of an optimizer's state.

    Args:
        state: of an optimizer; it numbers the parameters, group by group.
        groups: names of those to take out, None of the others.

    Returns:
        The state of an optimizer of the others alone, and the state of each that is taken out, by name.
    """
    names = [name for group in groups for name in group]
    number = {old: new for new, old in enumerate(i for i, name in enumerate(names) if name is None)}
    kept = [
        {**group, "params": [number[i] for i in group["params"] if i in number]}
        for group in state["param_groups"]
    ]
    stock = {number[i]: value for i, value in state["state"].items() if i in number}
    own = {names[i]: value for i, value in state["state"].items() if i not in number}
    return {"state": stock, "param_groups": kept}, own


def join_state(state: State, own: State, groups: Groups) -> State:
    """Put parameters into an optimizer's state, the inverse of ``split_state``.

    Args:
        state: of an optimizer without them.
        own: state by name; what has none there starts anew.
        groups: as for ``split_state``.

    Returns:
        The state of an optimizer of all parameters; or ``state``, for torch to refuse it, if its groups are
        not those of the others.
    """
    if [len(group["params"]) for group in state["param_groups"]] != [group.count(None) for group in groups]:
        return state
    names = [name for group in groups for name in group]
    stock = [i for i, name in enumerate(names) if name is None]
    joined = {stock[i]: value for i, value in state["state"].items() if i < len(stock)}
    joined |= {i: own[name] for i, name in enumerate(names) if name in own}
    numbers = iter(range(len(names)))
    filled = [
        {**saved, "params": [next(numbers) for _ in group]}
        for saved, group in zip(state["param_groups"], groups, strict=True)
    ]
    return {"state": joined, "param_groups": filled}


def _leave_out(model: nn.Module, state: State, prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix + OWN_PREFIX)]:
        del state[name]


def _ignore(model: nn.Module, state: State, prefix: str, *others: object) -> None:
    _leave_out(model, state, prefix, None)


def _not_missing(model: nn.Module, keys: Any) -> None:
    """Take our tensors out of those that are missing; their names may begin with that of a module around."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if f".{OWN_PREFIX}" not in f".{name}"]
