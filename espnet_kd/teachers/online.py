"""Run teachers on the student's batch at every training step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from espnet_kd.errors import UserError
from espnet_kd.rnnt import one_best_targets
from espnet_kd.rnnt.device import HostCopy
from espnet_kd.teachers.model import SpeechError, TeacherModel
from espnet_kd.teachers.taps import LATTICE, MAX_FRAME_DIFFERENCE, Targets, check_finite
from espnet_kd.teachers.token_maps import TokenMap

Mean = Literal["posteriors", "log_posteriors"]


class OnlineTeacher:
    """Compute targets with one frozen model, or with an ensemble of several, on the student's batch.

    It is no nn.Module, so that the student that holds it does not get the teacher's parameters. In eval mode
    it applies no SpecAugment, and it leaves the student's random state unchanged. Its values for the probe
    and for the first batch of a training must be finite.

    Args:
        experiments: one or more; their tokens are those of the student, see ``maps``.
        taps: module paths of layers; an ensemble has logits only, and of a lattice those along one alignment.
        temperatures: by tap, the temperature of its criteria, for the mean of an ensemble; 1 by default.
        weights: of the experiments in the mean, normalised here; None: equal.
        mean: whether to average `posteriors` or `log_posteriors`.
        maps: for each experiment, the student's tokens in its list, None where the lists are the same; None
            if all are.

    Raises:
        UserError: the number of weights differs from that of experiments, or a layer does not exist.
    """

    def __init__(
        self,
        experiments: Sequence[TeacherModel],
        taps: Sequence[str],
        temperatures: Mapping[str, float] | None = None,
        weights: Sequence[float] | None = None,
        mean: Mean = "posteriors",
        maps: Sequence[TokenMap | None] | None = None,
    ):
        weights = [1.0] * len(experiments) if weights is None else list(weights)
        if len(weights) != len(experiments) or min(weights) <= 0:
            raise UserError(
                f"teacher weights {weights}: give one positive weight for each of {len(experiments)} teachers"
            )
        self.experiments = list(experiments)
        self._observers = [e.observer(taps) for e in experiments]
        self._weights = [w / sum(weights) for w in weights]
        self._averaged = mean
        self.maps = [None] * len(experiments) if maps is None else list(maps)
        self._temperatures = dict(temperatures or {})
        self._checked = False
        self._device: torch.device | None = None

    @torch.no_grad()
    def targets(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str] | None = None,
    ) -> dict[str, Targets]:
        """Compute the targets of a batch.

        Args:
            speech: (B, samples) waveform.
            speech_lengths: (B,) number of samples.
            text: (B, L) tokens, padded with -1; not changed.
            text_lengths: (B,) number of tokens.
            utt_id: ids of the utterances, in training.

        Returns:
            By tap, the targets.

        Raises:
            UserError: targets are not finite, or the teachers of an ensemble differ in frame rate.
        """
        self._move(speech.device)
        copied, seen = HostCopy(text_lengths), []
        for observe, tokens in zip(self._observers, self.maps, strict=True):
            theirs = text if tokens is None else tokens.text(text)
            try:
                found = observe(speech, speech_lengths, theirs, text_lengths)
            except SpeechError as e:
                if utt_id is None:
                    raise
                raise UserError(f"utterance {utt_id[e.place]} {e}") from None
            seen.append(found if tokens is None else tokens.targets(found))
        if not self._checked:
            for experiment, given in zip(self.experiments, seen, strict=True):
                check_finite(given, experiment.owner, utt_id)
            self._checked = utt_id is not None
        if len(seen) == 1:
            return seen[0]
        counts = copied.read()
        return {tap: self._average(tap, [s[tap] for s in seen], text, counts) for tap in seen[0]}

    def loaded(self, batch: object, text_lengths: object) -> None:
        """Return None: no batch comes with the targets of a model that runs beside the student."""

    def _move(self, device: torch.device) -> None:
        """Move the models to a device, if they are not there: looking at all their tensors takes long."""
        if device != self._device:
            for experiment in self.experiments:
                experiment.model.to(device)
            self._device = device

    def _average(self, tap: str, members: Sequence[Targets], text: Tensor, text_lengths: Tensor) -> Targets:
        """Average the members of an ensemble at one tap.

        The softmax of the result, at the tap's temperature, is the mean of the members' posteriors at that
        temperature. For a lattice the mean is over all classes at the nodes of the first member's best
        alignment; ``text_lengths`` are on the host.
        """
        temperature = self._temperatures.get(tap, 1.0)
        self._check_classes(tap, members)
        self._check_frame_rates(tap, [m.lengths for m in members])
        lengths = torch.stack([m.lengths for m in members]).amin(0)
        if tap != LATTICE:
            length = min(m.tensor.shape[1] for m in members)
            mean = self._mean([m.tensor[:, :length].float() / temperature for m in members])
            return Targets(mean * temperature, lengths)
        frames = min(m.joint.enc.shape[1] for m in members)
        first, *others = (replace(m.joint, enc=m.joint.enc[:, :frames]) for m in members)
        targets = one_best_targets(
            first, text, lengths, text_lengths,
            k=first.classes, temperature=temperature, others=others, mean=self._mean,
        )  # fmt: skip
        return Targets(targets, lengths)

    def _check_classes(self, tap: str, members: Sequence[Targets]) -> None:
        """Check that the members have as many classes as the first.

        Raises:
            UserError: one has not.
        """
        sizes = [m.joint.classes if tap == LATTICE else m.tensor.shape[-1] for m in members]
        for experiment, size in zip(self.experiments[1:], sizes[1:], strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"{self.experiments[0].owner} has {sizes[0]} classes at {tap}, {experiment.owner} "
                    f"{size}: the mean needs the same: choose teachers of one token list"
                )

    def _check_frame_rates(self, tap: str, lengths: Sequence[Tensor]) -> None:
        """Check that the members have the same number of positions, (B,) each, for the same speech.

        Raises:
            UserError: two differ by more than rounding.
        """
        for experiment, other in zip(self.experiments[1:], lengths[1:], strict=True):
            apart = (other - lengths[0]).abs()
            if bool((apart > MAX_FRAME_DIFFERENCE).any()):
                ours, theirs = (int(side[apart.argmax()]) for side in (lengths[0], other))
                raise UserError(
                    f"{self.experiments[0].owner} has {ours} positions at {tap}, "
                    f"{experiment.owner} {theirs} for the same speech: the mean needs one frame "
                    "rate: choose teachers of the same subsampling (input_layer) and hop length"
                )

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        """Compute logits whose softmax is the weighted mean of the members' posteriors.

        The mean of log-posteriors sums to less than 1; the softmax normalises it.
        """
        logs = [x.log_softmax(-1) for x in logits]
        if self._averaged == "log_posteriors":
            return torch.as_tensor(sum(w * log for w, log in zip(self._weights, logs, strict=True)))
        weighted = [log + math.log(w) for w, log in zip(self._weights, logs, strict=True)]
        return torch.stack(weighted).logsumexp(0)
