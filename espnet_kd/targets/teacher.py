"""Convert targets to and from the rows of a store, and read them in training instead of running a teacher."""

from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_kd.criteria import TopClasses, top_classes
from espnet_kd.criteria.distribution import LOG_ZERO
from espnet_kd.criteria.sequence import scores_of
from espnet_kd.errors import UserError
from espnet_kd.host.training import Preprocess
from espnet_kd.rnnt import (
    CollapsedTargets,
    Joint,
    OneBestTargets,
    SequenceScores,
    collapsed_targets,
    one_best_targets,
)
from espnet_kd.rnnt.alignment import Alignment
from espnet_kd.rnnt.device import HostCopy, to_device
from espnet_kd.rnnt.sequence import LEAST
from espnet_kd.targets.format import TapFormat, TargetRecord, audio_checksum, text_checksum
from espnet_kd.targets.quantiser import Quantiser
from espnet_kd.targets.store import Store
from espnet_kd.teachers.taps import SECONDS, Targets
from espnet_kd.teachers.token_maps import TokenMap

WORD = 8  # bytes
STORED_TARGETS = "stored_targets_"  # begin of the names of targets in a batch
OutputTensors = tuple[Tensor, Tensor, str]  # weight, bias and activation of an output layer, as in rnnt.Joint


def to_rows(
    targets: Targets, tap: TapFormat, tokens: Sequence[int] = (), quantiser: Quantiser | None = None
) -> NDArray[Any]:
    """Convert the targets of one utterance to the rows of a store.

    Args:
        targets: (1, P, V) logits, (1, P, D) hidden vectors, or a lattice.
        tap: how they are stored.
        tokens: the transcript, for a lattice or its probability.
        quantiser: for the kind `codes`.

    Returns:
        (P,) of the tap's row type.
    """
    if tap.kind == "score":
        return _score_row(targets, tap, tokens)
    with np.errstate(over="ignore"):  # `write_shard` refuses values that are not finite
        if isinstance(targets.values, Joint):
            return _lattice_rows(targets.values, targets.lengths, tap, tokens)
        if isinstance(targets.values, OneBestTargets):
            return _path_rows(targets.values, tap)
        values = targets.tensor[0, : int(targets.lengths[0])].float()
        rows = np.zeros(len(values), tap.row)
        if tap.kind == "values":
            rows["values"] = values.cpu().numpy()
        elif quantiser is not None:
            rows["codes"] = quantiser.encode(values).cpu().numpy()
        else:
            top = top_classes(values, tap.k, tap.temperature)
            rows["tokens"], rows["log_probs"] = top.tokens.cpu().numpy(), top.log_probs.cpu().numpy()
    return rows


def _score_row(targets: Targets, tap: TapFormat, tokens: Sequence[int]) -> NDArray[Any]:
    """Compute the log-probability of the transcript of one utterance, (1,); LEAST if it is impossible."""
    values = targets.values
    assert isinstance(values, torch.Tensor | Joint)  # a model gives them
    device = values.enc.device if isinstance(values, Joint) else values.device
    labels = torch.tensor([list(tokens)], dtype=torch.long, device=device)
    found = scores_of(values, targets.lengths, labels, torch.tensor([len(tokens)]))
    rows = np.zeros(1, tap.row)
    rows["score"] = found.log_probs.clamp(min=LEAST).cpu().numpy()
    return rows


def _lattice_rows(joint: Joint, lengths: Tensor, tap: TapFormat, tokens: Sequence[int]) -> NDArray[Any]:
    """Convert the lattice of one utterance to rows of the kind `joint`, `collapsed` or `path`."""
    if tap.kind == "joint":
        projected = torch.cat([joint.enc[0, : int(lengths[0])], joint.dec[0, : len(tokens) + 1]])
        rows = np.zeros(len(projected), tap.row)
        rows["values"] = projected.float().cpu().numpy()
        return rows
    # Without the padding that it has in a batch: rows are counted by the utterance's own size.
    enc, dec = joint.enc[:, : int(lengths[0])], joint.dec[:, : len(tokens) + 1]
    joint = joint.with_tensors(enc, dec, joint.weight, joint.bias)
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


def pack(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bytes of rows, (P,), as (P, W) integers, which ESPnet's batches can have; see ``unpack``."""
    size = rows.dtype.itemsize
    content = np.zeros((len(rows), -(-size // WORD) * WORD), np.uint8)
    content[:, :size] = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), size)
    return content.view(np.int64)


def unpack(packed: Tensor, tap: TapFormat) -> dict[str, Tensor]:
    """Take the columns out of packed rows.

    Args:
        packed: (B, P, W) int64, on any device; padding may hold anything.
        tap: how they are stored.

    Returns:
        (B, P) or (B, P, N) by the name of the column; int64, or float32.
    """
    content, columns = packed.view(torch.uint8), {}
    for name, (kind, offset, *_) in (tap.row.fields or {}).items():
        number = kind.base
        column = content[..., offset : offset + kind.itemsize].contiguous()
        if number.kind == "f":
            column = column.view(torch.float16 if number.itemsize == 2 else torch.float32).float()
        else:  # of unsigned integers torch knows little
            signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[number.itemsize]
            column = column.view(signed).long() & (2 ** (8 * number.itemsize) - 1)
        columns[name] = column if kind.shape else column[..., 0]
    return columns


def to_targets(
    packed: Tensor,
    positions: Sequence[int],
    tap: TapFormat,
    utterances: Sequence[str],
    labels: Sequence[int] = (),
    output: OutputTensors | None = None,
) -> Targets:
    """Convert packed rows of several utterances to a padded batch of targets.

    Args:
        packed: (B, P, W), see ``pack``; on the device of the batch.
        positions: number of rows of each utterance.
        tap: how they are stored.
        utterances: ids of the utterances.
        labels: number of tokens of each transcript, for a lattice.
        output: output layer on the device, for a lattice of the kind `joint`.
    """
    columns, names = unpack(packed, tap), tuple(utterances)
    if tap.kind == "joint" and output is not None:
        frames = [p - count - 1 for p, count in zip(positions, labels, strict=True)]
        steps = torch.tensor(frames)[:, None] + torch.arange(max(labels) + 1)  # of the prediction network
        steps = to_device(steps.clamp(max=packed.shape[1] - 1), packed.device)
        values = columns["values"]
        dec = values.gather(1, steps[:, :, None].expand(-1, -1, values.shape[2]))
        return Targets(Joint(values[:, : max(frames)], dec, *output), torch.tensor(frames), names)
    if tap.kind == "collapsed":
        frames = [p // (count + 1) for p, count in zip(positions, labels, strict=True)]
        log_probs = _by_frame(columns["log_probs"], frames, labels)
        return Targets(CollapsedTargets(log_probs), torch.tensor(frames), names)
    if tap.kind == "path":  # frames + labels nodes
        alignment = Alignment(columns["frame"], columns["row"], tuple(positions))
        stored = OneBestTargets(alignment, columns["tokens"], columns["log_probs"])
        frames = [p - count for p, count in zip(positions, labels, strict=True)]
        return Targets(stored, torch.tensor(frames), names)
    lengths = torch.tensor(positions)
    if tap.kind == "score":
        score = columns["score"][:, 0]
        return Targets(SequenceScores(score.masked_fill(score < LEAST / 2, -torch.inf)), lengths, names)
    if tap.kind == "values":
        return Targets(columns["values"], lengths, names)
    if tap.kind == "codes":
        return Targets(columns["codes"].float(), lengths, names)
    return Targets(TopClasses(columns["tokens"], columns["log_probs"]), lengths, names)


def _by_frame(log_probs: Tensor, frames: Sequence[int], labels: Sequence[int]) -> Tensor:
    """Arrange the nodes of lattices, (B, P, 3), frame by frame: (B, T, U, 3)."""
    batch, rows = len(frames), torch.tensor(labels)[:, None, None] + 1
    t, u = torch.arange(max(frames))[:, None], torch.arange(max(labels) + 1)
    places = (t * rows + u).clamp(max=log_probs.shape[1] - 1)  # (B, T, U); beyond an utterance any will do
    last = to_device((u == rows - 1).expand(places.shape), log_probs.device)
    index = to_device(places.view(batch, -1, 1).expand(-1, -1, 3).contiguous(), log_probs.device)
    found = log_probs.gather(1, index).view(*places.shape, 3)
    found[..., 0].masked_fill_(last, -torch.inf)  # the last row has no next label
    return found


def check_record(
    record: TargetRecord, where: Path, samples: int, audio: NDArray[Any] | None, tokens: Sequence[int] | None
) -> None:
    """Check that targets were computed from this audio and this transcript.

    Args:
        record: of the utterance.
        where: the store, for messages.
        samples: length of the audio.
        audio: its samples, (N,); None leaves the check of their values out.
        tokens: the transcript; None if there is none.

    Raises:
        UserError: one is another.
    """
    if record.samples != samples:
        raise UserError(
            f"{record.utt} has {samples} samples, but {record.samples} in {where}: the targets are "
            "of other audio; make them again"
        )
    if audio is not None and record.audio not in (None, audio_checksum(audio)):
        raise UserError(
            f"the audio of {record.utt} is not that of its targets in {where}: make "
            "them again if the data changed; a preprocessor must not change the samples of the file"
        )
    if tokens is not None and record.text not in (None, text_checksum(tokens)):
        raise UserError(
            f"{record.utt} has another transcript in {where}: the targets are of other text; make them again"
        )


class WithStoredTargets:
    """Preprocess an utterance for the student, and add its stored targets: in the workers that load data.

    Args:
        student: ESPnet's preparation of the student's data; None for nothing.
        store: directory of the targets.
        taps: module paths of the layers to read.
    """

    def __init__(self, student: Preprocess | None, store: str | Path, taps: Sequence[str]) -> None:
        self.student, self.store, self.taps = student, Store(store), list(dict.fromkeys(taps))
        for shard in self.store.manifest.shards:  # read once, before processes that load data are forked
            self.store.entries(shard)

    def __call__(self, utt: str, data: dict[str, Any]) -> dict[str, Any]:
        """Return the student's data with the packed rows of every layer added.

        Raises:
            UserError: the utterance is missing or damaged in the store, or of other audio or text.
        """
        record = self.store.read(utt, self.taps)
        # Before the student's augmentation, which may change the samples in place.
        check_record(record, self.store.directory, len(data["speech"]), data["speech"], None)
        found = data if self.student is None else self.student(utt, data)
        if "text" in found:
            check_record(record, self.store.directory, record.samples, None, found["text"].tolist())
        return {**found, **{batch_key(i): pack(record.rows[tap]) for i, tap in enumerate(self.taps)}}


def batch_key(tap: int) -> str:
    """Return the name of the targets of a layer, counted from 0, in a batch."""
    return f"{STORED_TARGETS}{tap}"


class StoredTeacher:
    """Read targets from a store, with the methods of an online teacher.

    Args:
        store: targets of this training's data.
        taps: module paths of the layers to read.
        tokens: the student's tokens in the list of the store; None if the lists are the same.
    """

    def __init__(self, store: Store, taps: Sequence[str], tokens: TokenMap | None = None) -> None:
        self.store, self.tokens = store, tokens
        self.taps = list(dict.fromkeys(taps))
        self._output: OutputTensors | None = None

    def targets(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str] | None = None,
    ) -> dict[str, Targets]:
        """Read the targets of a batch; arguments and result as of ``OnlineTeacher.targets``.

        Trainings read them while they load data, see ``WithStoredTargets``.

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
        samples, labels = speech_lengths.tolist(), text_lengths.tolist()
        waveforms = speech.detach().float().cpu().numpy()
        for i, (record, tokens) in enumerate(zip(records, text.tolist(), strict=True)):
            audio = waveforms[i, : samples[i]]
            check_record(record, self.store.directory, samples[i], audio, tokens[: labels[i]])
        rows = [[torch.from_numpy(pack(r.rows[tap])) for r in records] for tap in self.taps]
        packed = [pad_sequence(of_tap, batch_first=True).to(speech.device) for of_tap in rows]
        return self._unpacked(packed, [list(map(len, of_tap)) for of_tap in rows], labels, utt_id)

    def loaded(
        self, batch: MutableMapping[str, Any], text_lengths: HostCopy
    ) -> Callable[[], dict[str, Targets]] | None:
        """Take the targets that ``WithStoredTargets`` has added out of a batch; None if it has none.

        Returns:
            A function that makes the targets of them; until it is called nothing waits for a GPU.
        """
        if batch_key(0) not in batch:
            return None
        keys = [batch_key(i) for i in range(len(self.taps))]
        packed = [batch.pop(key) for key in keys]
        lengths = [HostCopy(batch.pop(f"{key}_lengths")) for key in keys]
        names = batch.get("utt_id") or [f"number {i}" for i in range(len(packed[0]))]
        return lambda: self._unpacked(
            packed, [copy.read().tolist() for copy in lengths], text_lengths.read().tolist(), names
        )

    def _unpacked(
        self,
        packed: Sequence[Tensor],
        positions: Sequence[Sequence[int]],
        labels: Sequence[int],
        utterances: Sequence[str],
    ) -> dict[str, Targets]:
        """Make the targets of every layer of its packed rows."""
        taps, output = self.store.manifest.taps, self._output_layer(packed[0].device)
        found = {
            tap: to_targets(x, counts, taps[tap], utterances, labels, output)
            for tap, x, counts in zip(self.taps, packed, positions, strict=True)
        }
        return found if self.tokens is None else self.tokens.targets(found)

    def _output_layer(self, device: torch.device) -> OutputTensors | None:
        """Return the store's output layer on a device; None if it has none."""
        if self.store.manifest.output_layer is not None and (
            self._output is None or self._output[0].device != device
        ):
            kept = self.store.output_layer
            weight, bias = (torch.from_numpy(x).to(device) for x in (kept.weight, kept.bias))
            self._output = weight, bias, kept.activation
        return self._output

    def probe(self, seconds: int = SECONDS) -> dict[str, Targets]:
        """Return zeros of the shapes that the teacher's values have for ``teachers.taps.probe``.

        Args:
            seconds: of the noise, SECONDS or LONG_PROBE.
        """
        manifest, found = self.store.manifest, {}
        counts = manifest.probe if seconds == SECONDS else manifest.long_probe
        for path in self.taps:
            size, positions = manifest.taps[path].size, counts[path]
            if manifest.taps[path].kind == "score":
                found[path] = Targets(SequenceScores(torch.zeros(1)), torch.tensor([1]))
                continue
            found[path] = Targets(torch.zeros(1, positions, size), torch.tensor([positions]))
        return found if self.tokens is None else self.tokens.targets(found)
