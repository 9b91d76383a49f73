"""Targets as rows of a store, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_kd.criteria import TopClasses, top_classes
from espnet_kd.rnnt import CollapsedTargets, Joint, PathTargets, collapsed_targets, path_targets
from espnet_kd.rnnt.alignment import Path
from espnet_kd.store import Tap
from espnet_kd.teachers.targets import Targets

LOG_ZERO = -1e4  # nats; stands for log 0, which is not finite
OutputLayer = tuple[Tensor, Tensor, str]  # weight, bias and activation, as in rnnt.Joint


def to_rows(targets: Targets, tap: Tap, tokens: Sequence[int] = ()) -> NDArray[Any]:
    """What is kept of one utterance.

    Args:
        targets: (1, P, V) logits, (1, P, D) hidden vectors, or a lattice.
        tap: how they are kept.
        tokens: the transcript, for a lattice.

    Returns:
        (P,) of the tap's row type.
    """
    with np.errstate(over="ignore"):  # the writer refuses what is not finite
        if isinstance(targets.values, Joint):
            return _lattice_rows(targets.values, targets.lengths, tap, tokens)
        if isinstance(targets.values, PathTargets):
            return _path_rows(targets.values, tap)
        values = targets.values[0, : int(targets.lengths[0])].float()
        rows = np.zeros(len(values), tap.row)
        if tap.kind == "values":
            rows["values"] = values.cpu().numpy()
        else:
            top = top_classes(values, tap.k, tap.temperature)
            rows["tokens"], rows["log_probs"] = top.tokens.cpu().numpy(), top.log_probs.cpu().numpy()
    return rows


def _lattice_rows(joint: Joint, lengths: Tensor, tap: Tap, tokens: Sequence[int]) -> NDArray[Any]:
    if tap.kind == "joint":
        projected = torch.cat([joint.enc[0, : int(lengths[0])], joint.dec[0, : len(tokens) + 1]])
        rows = np.zeros(len(projected), tap.row)
        rows["values"] = projected.float().cpu().numpy()
        return rows
    labels = torch.tensor([list(tokens)], device=joint.enc.device)
    batch = (joint, labels, lengths, torch.tensor([len(tokens)], device=labels.device))
    if tap.kind == "collapsed":
        log_probs = collapsed_targets(*batch, temperature=tap.temperature).log_probs[0, : int(lengths[0])]
        rows = np.zeros(log_probs.shape[0] * log_probs.shape[1], tap.row)
        rows["log_probs"] = log_probs.clamp(min=LOG_ZERO).flatten(0, 1).cpu().numpy()
        return rows
    return _path_rows(path_targets(*batch, k=tap.k, temperature=tap.temperature), tap)


def _path_rows(found: PathTargets, tap: Tap) -> NDArray[Any]:
    rows = np.zeros(found.path.lengths[0], tap.row)
    columns = {"frame": found.path.frames, "row": found.path.rows, "tokens": found.tokens[..., : tap.k]}
    columns["log_probs"] = found.log_probs[..., : tap.k].clamp(min=LOG_ZERO)
    for name, column in columns.items():
        rows[name] = column[0, : len(rows)].cpu().numpy()
    return rows


def to_targets(
    rows: Sequence[NDArray[Any]],
    tap: Tap,
    utterances: Sequence[str],
    device: torch.device,
    labels: Sequence[int] = (),
    output: OutputLayer | None = None,
) -> Targets:
    """A padded batch.

    Args:
        rows: (P_b,) of each utterance.
        tap: how they were kept.
        utterances: their ids.
        device: where the batch is wanted.
        labels: length of each transcript, for a lattice.
        output: for a lattice of the kind `joint`; on the device.
    """
    if tap.kind == "joint" and output is not None:
        return _joint(rows, utterances, device, labels, output)
    if tap.kind == "collapsed":
        return _collapsed(rows, utterances, device, labels)
    padded = np.zeros((len(rows), max(map(len, rows))), tap.row)
    for one, whole in zip(rows, padded, strict=True):
        whole[: len(one)] = one

    def tensor(name: str, dtype: Any) -> Tensor:
        return torch.from_numpy(padded[name].astype(dtype)).to(device)

    positions = [len(r) for r in rows]
    if tap.kind == "path":  # frames + labels nodes
        path = Path(tensor("frame", np.int64), tensor("row", np.int64), tuple(positions))
        stored = PathTargets(path, tensor("tokens", np.int64), tensor("log_probs", np.float32))
        frames = [p - count for p, count in zip(positions, labels, strict=True)]
        return Targets(stored, torch.tensor(frames, device=device), tuple(utterances))
    lengths = torch.tensor(positions, device=device)
    if tap.kind == "values":
        return Targets(tensor("values", np.float32), lengths, tuple(utterances))
    top = TopClasses(tensor("tokens", np.int64), tensor("log_probs", np.float32))
    return Targets(top, lengths, tuple(utterances))


def _joint(
    rows: Sequence[NDArray[Any]],
    utterances: Sequence[str],
    device: torch.device,
    labels: Sequence[int],
    output: OutputLayer,
) -> Targets:
    frames = [len(r) - count - 1 for r, count in zip(rows, labels, strict=True)]
    values = [torch.from_numpy(r["values"].astype(np.float32)) for r in rows]
    enc = pad_sequence([v[:t] for v, t in zip(values, frames, strict=True)], batch_first=True).to(device)
    dec = pad_sequence([v[t:] for v, t in zip(values, frames, strict=True)], batch_first=True).to(device)
    return Targets(Joint(enc, dec, *output), torch.tensor(frames, device=device), tuple(utterances))


def _collapsed(
    rows: Sequence[NDArray[Any]], utterances: Sequence[str], device: torch.device, labels: Sequence[int]
) -> Targets:
    lattices = [r["log_probs"].reshape(-1, count + 1, 3) for r, count in zip(rows, labels, strict=True)]
    frames = [len(lattice) for lattice in lattices]
    padded = np.zeros((len(rows), max(frames), max(labels) + 1, 3), np.float32)
    for one, whole in zip(lattices, padded, strict=True):
        whole[: one.shape[0], : one.shape[1]] = one
        whole[:, one.shape[1] - 1, 0] = -np.inf  # after the last label there is none
    stored = CollapsedTargets(torch.from_numpy(padded).to(device))
    return Targets(stored, torch.tensor(frames, device=device), tuple(utterances))
