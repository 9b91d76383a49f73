"""Read checkpoint files safely; does not import ESPnet, which takes seconds."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_kd.errors import UserError

LIGHTNING = "pytorch-lightning_version"  # key that tells a checkpoint of Lightning (ESPnet3)


def load_checkpoint(path: Path, shapes_only: bool = False) -> dict[str, Any]:
    """Read a file of tensors and plain values without executing any code in it.

    Args:
        path: the file.
        shapes_only: leave the values of tensors on the disk; only their shapes and types can be used.

    Raises:
        UserError: the file is missing or damaged, or holds other objects.
    """
    try:
        device = "meta" if shapes_only else "cpu"
        content = torch.load(path, map_location=device, weights_only=True, mmap=shapes_only)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds code or damaged data, not only tensors, and was not loaded: save it as a plain "
            "state dict"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged or truncated ({reason}): copy or train it again") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}, not a checkpoint: give a file that ESPnet wrote"
        )
    return content


def load_tensors(path: Path, shapes_only: bool = False) -> dict[str, Tensor]:
    """Read a state dict, or that of a Lightning checkpoint, without executing any code in the file.

    Args:
        path, shapes_only: see ``load_checkpoint``.

    Raises:
        UserError: the file is missing or damaged, or holds other objects than tensors.
    """
    state = load_checkpoint(path, shapes_only)
    if LIGHTNING in state and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path} is not a state dict of tensors: give the model file, such as valid.acc.ave.pth"
        )
    return state


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors with NaN or infinite values; attention masks may hold infinity."""
    return [
        name
        for name, tensor in tensors.items()
        if (tensor.isnan().any() if "mask" in name else not tensor.isfinite().all())
    ]
