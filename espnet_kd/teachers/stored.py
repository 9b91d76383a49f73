"""Targets that were written to disk before the training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from espnet_kd.errors import UserError
from espnet_kd.store import Record, Store, audio_checksum, text_checksum
from espnet_kd.teachers.rows import OutputLayer, to_targets
from espnet_kd.teachers.targets import Targets


class StoredTeacher:
    """A store in the place of a teacher.

    Args:
        store: of this training's data.
        taps: what to read, by path.
    """

    def __init__(self, store: Store, taps: Sequence[str]) -> None:
        self.store = store
        self.taps = list(dict.fromkeys(taps))
        self._output: OutputLayer | None = None
        self._compared: set[str] = set()

    def targets(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str] | None = None,
    ) -> dict[str, Targets]:
        """As ``OnlineTeacher.targets``, for the utterances ``utt_id``.

        Raises:
            UserError: an utterance is not there, damaged, or has other speech or another transcript.
        """
        if utt_id is None:
            raise UserError("stored targets are found by utterance id, but this batch has none")
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

    def _check_audio(self, records: Sequence[Record], speech: Tensor, lengths: Tensor) -> None:
        """Compare the samples (B, N) with those that the targets were made of, the first time of each.

        Raises:
            UserError: one is another.
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
                    "them again if the data changed; a preprocessor must leave it as its file has it"
                )
            self._compared.add(record.utt)

    def _output_layer(self, device: torch.device) -> OutputLayer | None:
        """That of the store, brought to the device once."""
        if self.store.manifest.output_layer is not None and (
            self._output is None or self._output[0].device != device
        ):
            kept = self.store.output_layer
            weight, bias = (torch.from_numpy(x).to(device) for x in (kept.weight, kept.bias))
            self._output = weight, bias, kept.activation
        return self._output

    def probe(self) -> dict[str, Targets]:
        """Empty targets of the shapes that the teacher gives for ``teachers.probe``."""
        found = {}
        for path in self.taps:
            size, positions = self.store.manifest.taps[path].size, self.store.manifest.probe[path]
            found[path] = Targets(torch.zeros(1, positions, size), torch.tensor([positions]))
        return found
