"""A device made of the CPU, on which a training step shows what it would cost on a GPU.

Tensors on it cannot be used together with those of the host, as on a GPU. Every operation is counted, and so
is every point at which the host waits for the device: reading a number or the size of a mask, and copying in
either direction (without ``non_blocking`` torch waits for all that the device still has to do).
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

KIND = "lazy"  # a type of device that torch knows and that needs no driver
DEVICE = torch.device(KIND, 0)
READS = ("_local_scalar_dense", "nonzero", "masked_select", "aten.equal.", "_unique")
COPIES = ("_to_copy", "copy_")
OURS = "espnet_kd"
OUTSIDE = ("torch", "contextlib", "typeguard")  # parts of file names that are not where a wait comes from


class OnDevice(Tensor):
    """A tensor on the device; ``held`` is the same one on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        """Wrap a tensor of the CPU."""
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=DEVICE,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse to compute where nothing is counted."""
        raise RuntimeError(f"{func} on the device outside of `counted`")

    def __repr__(self) -> str:
        """Return the shape alone."""
        return f"OnDevice{tuple(self.shape)}"

    def tolist(self) -> Any:
        """Copy to the host."""
        return self.cpu().tolist()

    def new(self, *given: Any) -> Tensor:
        """Make a tensor of a list, or of a size, as the old constructor does."""
        if isinstance(given[0], list | tuple):
            return torch.tensor(given[0], dtype=self.dtype).to(DEVICE)
        return self.new_empty(given)


class _Made(TorchFunctionMode):
    """Make tensors of Python's numbers on the host, then copy them, as torch does for a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            device = options.pop("device", None)
            made = func(*args, **options)
            return made if device is None else made.to(device)
        return func(*args, **options)


class Counts(TorchDispatchMode):
    """Counts of operations, by name, and of waits, by kind and place."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    @property
    def own(self) -> int:
        """The number of waits whose place is in espnet_kd."""
        return sum(number for name, number in self.waits.items() if f" at {OURS}/" in name)

    def compared(self, other: "Counts") -> list[tuple[Counter[str], Counter[str]]]:
        """Return waits and operations, each with those of another step."""
        return [(self.waits, other.waits), (self.operations, other.operations)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        flat, spec = tree_flatten((args, options))
        device = options.get("device")
        here = any(isinstance(x, OnDevice) for x in flat)
        there = device is not None and torch.device(device).type == KIND
        if not here and not there:
            return func(*args, **options)
        if here:
            self._refuse_both_sides(func, args, flat)
        if (kind := self._wait(str(func), args, options, here, there)) is not None:
            self.waits[f"{kind} at {_place()}"] += 1
        if not func.is_view:
            self.operations[str(func)] += 1
        inside = [x.held if isinstance(x, OnDevice) else x for x in flat]
        positional, named = tree_unflatten(inside, spec)
        if device is not None:
            named["device"] = "cpu"
        named.pop("pin_memory", None)
        found = func(*positional, **named)
        if device is not None and not there:
            return found.clone() if any(found is x for x in inside) else found
        given = {id(x.held): x for x in flat if isinstance(x, OnDevice)}  # in-place operations return these

        def wrapped(x: Any) -> Any:
            return x if not isinstance(x, Tensor) else given[id(x)] if id(x) in given else OnDevice(x)

        return tree_map(wrapped, found)

    def _wait(self, name: str, args: Any, options: Any, here: bool, there: bool) -> str | None:
        """Return why the host waits for an operation; None if it does not."""
        if any(part in name for part in READS):
            return name.split(".")[1]
        if "repeat_interleave.Tensor" in name and options.get("output_size") is None:
            return "repeat_interleave"
        if name.startswith(("aten.index.Tensor", "aten.index_put", "aten._index_put")):
            return _wait_of_index(name, args)
        if name.startswith("aten._to_copy") and options.get("device") is not None and here != there:
            return None if options.get("non_blocking") else "to the device" if there else "to the host"
        if name.startswith("aten.copy_"):
            to, source = args[0], args[1]
            crosses = isinstance(to, OnDevice) != isinstance(source, OnDevice) and source.dim() > 0
            return "copy" if crosses and not (len(args) > 2 and args[2]) else None
        return None

    def _refuse_both_sides(self, func: Any, args: Any, flat: list[Any]) -> None:
        """Refuse tensors of host and device in one operation; a number or an index may be on the host."""
        others = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, OnDevice) and x.dim()]
        if others and not any(part in str(func) for part in ("index", *COPIES)):
            raise RuntimeError(f"{func}: expected all tensors to be on one device")


def _wait_of_index(name: str, args: Any) -> str | None:
    for index in args[1]:
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            filled = "index_put" in name and args[2].dim() == 0  # torch turns this into masked_fill
            return None if filled else "index by a mask"
        if isinstance(index, Tensor) and not isinstance(index, OnDevice):
            return "index on the host"
    return None


def _place() -> str:
    """Return file and line that made the operation, the nearest one outside of torch."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename != __file__ and not any(part in frame.filename for part in OUTSIDE):
            parts = frame.filename.split("/")
            package = next((p for p in (OURS, "espnet2") if p in parts), None)
            start = len(parts) - 1 - parts[::-1].index(package) if package else -2
            return f"{'/'.join(parts[start:])}:{frame.lineno}"
    return "torch"


class _Autocast(torch.autocast):
    """Autocast of the device, which is that of the CPU here."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == KIND else device_type, *args, **kwargs)


@contextmanager
def counted() -> Iterator[Counts]:
    """Count, within the block, what is done on the device; only there can it be done."""
    counts = Counts()
    with (
        mock.patch("torch.autocast", _Autocast),
        mock.patch("torch.get_autocast_dtype", lambda kind: torch.bfloat16),
        mock.patch("torch.is_autocast_enabled", lambda kind: False),
        _Made(),
        counts,
    ):
        yield counts


def to_device(model: nn.Module) -> nn.Module:
    """Move a model to the device, in place; within ``counted``."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = nn.Parameter(parameter.detach().to(DEVICE), parameter.requires_grad)
                module._parameters[name] = moved
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(DEVICE)
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
    return model
