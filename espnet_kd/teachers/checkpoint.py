"""Read files of tensors that others wrote; without ESPnet, whose import takes seconds."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_kd.errors import UserError

# Own parameters of a distilled student; its stock model does not have them.
OWN_PREFIX = "kd_"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain values without running anything that it contains.

    Raises:
        UserError: the file is missing or damaged, or holds more than that.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds code or damaged data, not only tensors: refused; save it as a plain state dict"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"{path} is damaged or truncated ({reason}): copy or train it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict, as ``load_checkpoint`` does.

    Raises:
        UserError: the file is damaged or holds more than tensors.
    """
    state = load_checkpoint(path)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path} is not a state dict of tensors: give the model file, such as valid.acc.ave.pth"
        )
    return state


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with NaN or infinite values; masks of attention hold infinity on purpose."""
    return [
        name
        for name, tensor in tensors.items()
        if (tensor.isnan().any() if "mask" in name else not tensor.isfinite().all())
    ]
