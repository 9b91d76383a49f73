"""Targets as rows of a store, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from espnet_kd.criteria import TopClasses, top_classes
from espnet_kd.store import Tap
from espnet_kd.teachers.targets import Targets


def to_rows(targets: Targets, tap: Tap) -> NDArray[Any]:
    """What is kept of one utterance.

    Args:
        targets: (1, P, V) logits or (1, P, D) hidden vectors.
        tap: how they are kept.

    Returns:
        (P,) of the tap's row type.
    """
    values = targets.values[0, : int(targets.lengths[0])].float()
    rows = np.zeros(len(values), tap.row)
    with np.errstate(over="ignore"):  # the writer refuses what is not finite
        if tap.kind == "values":
            rows["values"] = values.cpu().numpy()
        else:
            top = top_classes(values, tap.k, tap.temperature)
            rows["tokens"], rows["log_probs"] = top.tokens.cpu().numpy(), top.log_probs.cpu().numpy()
    return rows


def to_targets(
    rows: Sequence[NDArray[Any]], tap: Tap, utterances: Sequence[str], device: torch.device
) -> Targets:
    """A padded batch.

    Args:
        rows: (P_b,) of each utterance.
        tap: how they were kept.
        utterances: their ids.
        device: where the batch is wanted.
    """
    padded = np.zeros((len(rows), max(map(len, rows))), tap.row)
    for one, whole in zip(rows, padded, strict=True):
        whole[: len(one)] = one
    lengths = torch.tensor([len(r) for r in rows], device=device)

    def tensor(name: str, dtype: Any) -> Tensor:
        return torch.from_numpy(padded[name].astype(dtype)).to(device)

    if tap.kind == "values":
        return Targets(tensor("values", np.float32), lengths, tuple(utterances))
    top = TopClasses(tensor("tokens", np.int64), tensor("log_probs", np.float32))
    return Targets(top, lengths, tuple(utterances))
