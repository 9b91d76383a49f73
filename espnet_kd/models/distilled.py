"""A stock ESPnet model that also learns from a teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor, nn

from espnet_kd.criteria import Criterion
from espnet_kd.errors import UserError
from espnet_kd.models.schedule import Schedule
from espnet_kd.teachers.taps import Taps
from espnet_kd.teachers.targets import Targets

# Teacher and student may round the number of frames differently; more than this is another frame rate.
MAX_FRAME_DIFFERENCE = 2


class Teacher(Protocol):
    """Where targets come from."""

    def targets(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str] | None = None,
    ) -> dict[str, Targets]:
        """Tap path to target, for one batch."""


@dataclass(frozen=True)
class Term:
    """One weighted criterion between a tap of the student and a tap of the teacher."""

    name: str
    weight: Schedule
    student_tap: str
    teacher_tap: str


@dataclass(frozen=True)
class Method:
    """What distillation needs besides parameters; no module, so nothing of it enters the state dict."""

    teacher: Teacher
    taps: Taps
    terms: tuple[Term, ...]
    task_weight: Schedule


class Distillation:
    """Mixed in before the class of a stock model by ``distil``; adds weighted criteria to its loss.

    Parameters of criteria lie under ``kd_criteria``; ``kd_step`` counts training batches, for the schedules.
    """

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
        """Stock forward, then the criteria.

        Args:
            speech: (B, samples) waveform.
            speech_lengths: (B,) samples.
            text: (B, L) tokens, padded with -1.
            text_lengths: (B,).
            kwargs: what else the stock model takes; ``utt_id`` names the utterances.

        Returns:
            (1,) loss, statistics and (1,) weight as the stock model gives them. ``loss_task`` is the stock
            loss, ``loss_kd_<name>`` each criterion before its weight, ``loss`` the total.
        """
        method: Method = self.kd_method
        batch = (speech, speech_lengths, text, text_lengths)
        targets = method.teacher.targets(*batch, kwargs.get("utt_id"))
        self.kd_targets = targets
        with method.taps.listening():
            loss, stats, weight = super().forward(*batch, **kwargs)
        self.kd_targets = None
        step = float(self.kd_step)
        total = self._with_task(loss, stats, step)
        for term in method.terms:
            if self.kd_criteria[term.name].needs == "lattice":
                continue  # came with the task
            student, target, mask = aligned(
                method.taps.get(term.student_tap, text_lengths), targets[term.teacher_tap], term
            )
            criterion = self.kd_criteria[term.name]
            guide = guide_for(criterion, targets, mask)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not term.weight.is_zero):
                value = criterion(student, target, mask, *guide)
            stats[f"loss_kd_{term.name}"] = value.detach()[None]
            if not term.weight.is_zero:
                total = total + term.weight(step) * value
        method.taps.release()
        stats["loss"] = total.detach()
        if self.training:
            self.kd_step += 1
        return total, stats, weight

    def _with_task(self, loss: Tensor, stats: dict[str, Any], step: float) -> Tensor:
        """Task loss times its weight; a model that has criteria in the task's own passes adds them."""
        stats["loss_task"] = loss.detach()
        return self.kd_method.task_weight(step) * loss


def distil(model: ESPnetASRModel, method: Method, criteria: dict[str, nn.Module]) -> ESPnetASRModel:
    """Turn a stock model into a distilled one, in place; names of its parameters stay as they are."""
    return distil_as(Distillation, model, method, criteria)


def distil_as(mixin: type, model: nn.Module, method: Method, criteria: dict[str, nn.Module]) -> nn.Module:
    """As ``distil``, by a subclass of Distillation."""
    model.kd_method = method
    model.kd_targets = None
    model.kd_criteria = nn.ModuleDict(criteria)
    for term in method.terms:
        if term.weight.is_zero:
            model.kd_criteria[term.name].requires_grad_(False)
    model.register_buffer("kd_step", torch.zeros((), dtype=torch.float64))
    model.__class__ = _distilled_class(mixin, type(model))
    return model


def guide_for(criterion: Criterion, targets: Mapping[str, Targets], mask: Tensor) -> tuple[Tensor, ...]:
    """What a criterion gets besides student, target and (B, P) mask: its guide, (B, P, G), if it has one."""
    if criterion.guide_tap is None:
        return ()
    return (targets[criterion.guide_tap].values[:, : mask.shape[1]],)


@cache
def _distilled_class(mixin: type, stock: type) -> type:
    return type(f"Distilled{stock.__name__}", (mixin, stock), {})


def aligned(student: Targets, target: Targets, term: Term) -> tuple[Tensor, Tensor, Tensor]:
    """Crop both sides to the same positions.

    Returns:
        (B, P, V) student values, (B, P, V) target values, (B, P) bool mask of real positions.

    Raises:
        UserError: the numbers of positions differ by more than rounding; of stored targets in any utterance.
    """
    if target.utterances is not None:
        check_lengths(student.lengths, target, term)
    s, t = student.values.shape[1], target.values.shape[1]
    if abs(s - t) > MAX_FRAME_DIFFERENCE:
        raise UserError(
            f"criterion {term.name}: the student has {s} positions at {term.student_tap}, the teacher {t} at "
            f"{term.teacher_tap}: use the same subsampling (input_layer) and hop length in both"
        )
    length = min(s, t)
    lengths = torch.minimum(student.lengths, target.lengths)
    mask = torch.arange(length, device=lengths.device) < lengths[:, None]
    return student.values[:, :length], target.values[:, :length], mask


def check_lengths(student: Tensor, target: Targets, term: Term) -> None:
    """Refuse stored targets of another frame rate, by utterance: padding does not hide them.

    Args:
        student: (B,) positions.
        target: of the same utterances.
        term: for the message.

    Raises:
        UserError: they differ by more than rounding; names the utterance.
    """
    lengths = zip(student.tolist(), target.lengths.tolist(), target.utterances, strict=True)
    for ours, stored, utt in lengths:
        if abs(ours - stored) > MAX_FRAME_DIFFERENCE:
            raise UserError(
                f"criterion {term.name}: utterance {utt} has {ours} positions at {term.student_tap}, the "
                f"stored targets {stored} at {term.teacher_tap}: use the teacher's subsampling (input_layer) "
                "and hop length"
            )
