"""Convert targets to and from the rows of a store, and read them in training instead of running a teacher."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_kd.criteria import TopClasses, top_classes
from espnet_kd.criteria.distribution import LOG_ZERO
from espnet_kd.errors import UserError
from espnet_kd.rnnt import CollapsedTargets, Joint, OneBestTargets, collapsed_targets, one_best_targets
from espnet_kd.rnnt.alignment import Alignment
from espnet_kd.targets.format import TapFormat, TargetRecord, audio_checksum, text_checksum
from espnet_kd.targets.store import Store
from espnet_kd.teachers.taps import Targets

OutputTensors = tuple[Tensor, Tensor, str]  # weight, bias and activation of an output layer, as in rnnt.Joint


def to_rows(targets: Targets, tap: TapFormat, tokens: Sequence[int] = ()) -> NDArray[Any]:
    """Convert the targets of one utterance to the rows of a store.

    Args:
        targets: (1, P, V) logits, (1, P, D) hidden vectors, or a lattice.
        tap: how they are stored.
        tokens: the transcript, for a lattice.

    Returns:
        (P,) of the tap's row type.
    """
    with np.errstate(over="ignore"):  # `write_shard` refuses values that are not finite
        if isinstance(targets.values, Joint):
            return _lattice_rows(targets.values, targets.lengths, tap, tokens)
        if isinstance(targets.values, OneBestTargets):
            return _path_rows(targets.values, tap)
        values = targets.tensor[0, : int(targets.lengths[0])].float()
        rows = np.zeros(len(values), tap.row)
        if tap.kind == "values":
            rows["values"] = values.cpu().numpy()
        else:
            top = top_classes(values, tap.k, tap.temperature)
            rows["tokens"], rows["log_probs"] = top.tokens.cpu().numpy(), top.log_probs.cpu().numpy()
    return rows


def _lattice_rows(joint: Joint, lengths: Tensor, tap: TapFormat, tokens: Sequence[int]) -> NDArray[Any]:
    """Convert the lattice of one utterance to rows of the kind `joint`, `collapsed` or `path`."""
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
    return _path_rows(one_best_targets(*batch, k=tap.k, temperature=tap.temperature), tap)


def _path_rows(found: OneBestTargets, tap: TapFormat) -> NDArray[Any]:
    """Convert the targets along the best alignment of one utterance to rows of the kind `path`."""
    rows = np.zeros(found.alignment.lengths[0], tap.row)
    nodes = found.alignment
    columns = {"frame": nodes.frames, "row": nodes.rows, "tokens": found.tokens[..., : tap.k]}
    columns["log_probs"] = found.log_probs[..., : tap.k].clamp(min=LOG_ZERO)
    for name, column in columns.items():
        rows[name] = column[0, : len(rows)].cpu().numpy()
    return rows


def to_targets(
    rows: Sequence[NDArray[Any]],
    tap: TapFormat,
    utterances: Sequence[str],
    device: torch.device,
    labels: Sequence[int] = (),
    output: OutputTensors | None = None,
) -> Targets:
    """Convert the rows of several utterances to a padded batch of targets.

    Args:
        rows: (P_b,) of each utterance.
        tap: how they are stored.
        utterances: ids of the utterances.
        device: device of the batch.
        labels: number of tokens of each transcript, for a lattice.
        output: output layer on the device, for a lattice of the kind `joint`.
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
        alignment = Alignment(tensor("frame", np.int64), tensor("row", np.int64), tuple(positions))
        stored = OneBestTargets(alignment, tensor("tokens", np.int64), tensor("log_probs", np.float32))
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
    output: OutputTensors,
) -> Targets:
    """Convert rows of the kind `joint` to the tensors of a joint network, with padding."""
    frames = [len(r) - count - 1 for r, count in zip(rows, labels, strict=True)]
    values = [torch.from_numpy(r["values"].astype(np.float32)) for r in rows]
    enc = pad_sequence([v[:t] for v, t in zip(values, frames, strict=True)], batch_first=True).to(device)
    dec = pad_sequence([v[t:] for v, t in zip(values, frames, strict=True)], batch_first=True).to(device)
    return Targets(Joint(enc, dec, *output), torch.tensor(frames, device=device), tuple(utterances))


def _collapsed(
    rows: Sequence[NDArray[Any]], utterances: Sequence[str], device: torch.device, labels: Sequence[int]
) -> Targets:
    """Convert rows of the kind `collapsed` to targets of a batch, with padding."""
    lattices = [r["log_probs"].reshape(-1, count + 1, 3) for r, count in zip(rows, labels, strict=True)]
    frames = [len(lattice) for lattice in lattices]
    padded = np.zeros((len(rows), max(frames), max(labels) + 1, 3), np.float32)
    for one, whole in zip(lattices, padded, strict=True):
        whole[: one.shape[0], : one.shape[1]] = one
        whole[:, one.shape[1] - 1, 0] = -np.inf  # the last row has no next label
    stored = CollapsedTargets(torch.from_numpy(padded).to(device))
    return Targets(stored, torch.tensor(frames, device=device), tuple(utterances))


class StoredTeacher:
    """Read targets from a store, with the methods of an online teacher.

    Args:
        store: targets of this training's data.
        taps: module paths of the layers to read.
    """

    def __init__(self, store: Store, taps: Sequence[str]) -> None:
        self.store = store
        self.taps = list(dict.fromkeys(taps))
        self._output: OutputTensors | None = None
        self._compared: set[str] = set()

    def targets(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str] | None = None,
    ) -> dict[str, Targets]:
        """Read the targets of a batch; arguments and result as of ``OnlineTeacher.targets``.

        Raises:
            UserError: an utterance is missing or damaged, or the store has targets of other speech or another
                transcript.
        """
        if utt_id is None:
            raise UserError(
                "this batch has no utterance ids, by which stored targets are read: train with espnet_kd's "
                "tasks"
            )
        records = [self.store.read(utt, self.taps) for utt in utt_id]
        where = self.store.directory
        for record, samples in zip(records, speech_lengths.tolist(), strict=True):
            if record.samples != samples:
                raise UserError(
                    f"{record.utt} has {samples} samples, but {record.samples} in {where}: the targets are "
                    "of other audio; make them again"
                )
        self._check_audio(records, speech, speech_lengths)
        for record, tokens, length in zip(records, text.tolist(), text_lengths.tolist(), strict=True):
            if record.text not in (None, text_checksum(tokens[:length])):
                raise UserError(
                    f"{record.utt} has another transcript in {where}: the targets are of other text; "
                    "make them again"
                )
        taps, labels = self.store.manifest.taps, text_lengths.tolist()
        output = self._output_layer(speech.device)
        return {
            tap: to_targets([r.rows[tap] for r in records], taps[tap], utt_id, speech.device, labels, output)
            for tap in self.taps
        }

    def _check_audio(self, records: Sequence[TargetRecord], speech: Tensor, lengths: Tensor) -> None:
        """Check, once for each utterance, that the targets were computed from this audio, (B, N) samples.

        Raises:
            UserError: an utterance has other samples.
        """
        new = [i for i, record in enumerate(records) if record.utt not in self._compared]
        if not new:
            return
        waveforms = speech[new].detach().float().cpu().numpy()
        for i, waveform, length in zip(new, waveforms, lengths[new].tolist(), strict=True):
            record = records[i]
            if record.audio not in (None, audio_checksum(waveform[:length])):
                raise UserError(
                    f"the audio of {record.utt} is not that of its targets in {self.store.directory}: make "
                    "them again if the data changed; a preprocessor must not change the samples of the file"
                )
            self._compared.add(record.utt)

    def _output_layer(self, device: torch.device) -> OutputTensors | None:
        """Return the store's output layer on a device; None if it has none."""
        if self.store.manifest.output_layer is not None and (
            self._output is None or self._output[0].device != device
        ):
            kept = self.store.output_layer
            weight, bias = (torch.from_numpy(x).to(device) for x in (kept.weight, kept.bias))
            self._output = weight, bias, kept.activation
        return self._output

    def probe(self) -> dict[str, Targets]:
        """Return zeros of the shapes that the teacher's values have for ``teachers.taps.probe``."""
        found = {}
        for path in self.taps:
            size, positions = self.store.manifest.taps[path].size, self.store.manifest.probe[path]
            found[path] = Targets(torch.zeros(1, positions, size), torch.tensor([positions]))
        return found
