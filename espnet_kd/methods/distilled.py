"""The student: a stock ESPnet model whose loss has weighted criteria besides that of the task."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from typing import Any, Protocol

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor, nn

from espnet_kd.criteria import Criterion, Transcript
from espnet_kd.criteria.sequence import scores_of
from espnet_kd.data.dump import are_hypotheses
from espnet_kd.errors import UserError, refusing
from espnet_kd.methods.distillation import refuse_soft
from espnet_kd.methods.own import count_batches, mix_in
from espnet_kd.rnnt.device import HostCopy, to_device
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.options import ANY_TOKEN, Term
from espnet_kd.teachers.speech import TEACHER_SPEECH
from espnet_kd.teachers.taps import DECODER, MAX_FRAME_DIFFERENCE, Taps, Targets

LARGEST_TERM = 8  # of a ratio of frame rates, such as 3 : 2


def ratio_of(student: tuple[int, int], teacher: tuple[int, int], name: str) -> Fraction:
    """Return how many teacher frames there are in a student frame, as a fraction.

    Args:
        student: frames of a short and of a longer signal.
        teacher: those of the teacher.
        name: of the criterion, for the message of an error.

    Raises:
        UserError: the rates are in no ratio of small numbers.
    """
    ours, theirs = student[1] - student[0], teacher[1] - teacher[0]
    ratio = Fraction(theirs, ours).limit_denominator(LARGEST_TERM) if ours > 0 else Fraction(0)
    # Each side rounds by less than a frame.
    if not 0 < ratio.numerator <= LARGEST_TERM or abs(theirs - ratio * ours) > 1 + ratio:
        raise UserError(
            f"criterion {name}: `frame_rate: resample` needs frame rates in a ratio of small numbers; "
            f"for the same signal the student has {ours} frames, the teacher {theirs}: change the hop length"
        )
    return ratio


def resampled(
    target: Targets, lengths: Tensor, ratio: Fraction, needs: str, temperature: float = 1.0
) -> Targets:
    """Average a teacher's frames over the time of each student frame, parts of frames in proportion.

    Args:
        target: (B, T, D) of the teacher.
        lengths: (B,) frames of the student; its last frames may reach beyond the teacher's last, which is
            then repeated.
        ratio: teacher frames in a student frame.
        needs: what the values are: of `logits` the mean is that of the posteriors; of `codes`, which have
            none, those of the frame in the middle are taken.
        temperature: of the posteriors whose mean is taken, those that the criterion compares. KL to their
            mean has the gradient of the mean KL to each of them.

    Returns:
        (B, T', D) float, T' the largest of ``lengths``.
    """
    logits, values = needs == "logits", target.values.float()
    values = (values / temperature).log_softmax(-1) if logits else values
    span, unit = ratio.numerator, ratio.denominator  # a student and a teacher frame, in common units of time
    begin = torch.arange(int(lengths.max()), device=values.device) * span
    last = (to_device(target.lengths, values.device) - 1)[:, None]
    if needs == "codes":
        middle = ((2 * begin + span) // (2 * unit)).minimum(last)  # (B, T')
        return Targets(values.gather(1, middle[..., None].expand(-1, -1, values.shape[2])), lengths)
    terms = []
    for k in range(-(-span // unit) + 1):  # as many can a student frame touch
        frame = begin // unit + k  # (T',)
        overlap = torch.minimum(begin + span, (frame + 1) * unit) - torch.maximum(begin, frame * unit)
        share = (overlap.clamp(min=0) / span)[:, None]
        index = frame.minimum(last).clamp(min=0)  # (B, T')
        touched = values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
        terms.append(touched + share.log() if logits else touched * share)
    mean = torch.stack(terms).logsumexp(0) * temperature if logits else torch.stack(terms).sum(0)
    return Targets(mean, lengths)


def check_frames(ours: int, theirs: int, ratio: Fraction | None, sides: str) -> None:
    """Refuse student and teacher with different numbers of positions.

    Args:
        sides: begin of the message.

    Raises:
        UserError: they differ by more than rounding.
    """
    scale = ratio or Fraction(1)
    if abs(theirs - scale * ours) <= MAX_FRAME_DIFFERENCE * max(scale, 1):
        return
    way_out = (
        "use the same subsampling (input_layer) and hop length in both, or `frame_rate: resample`"
        if ratio is None
        else f"resampling expects {ratio} frames of the teacher for each of the student"
    )
    raise UserError(f"{sides}: {way_out}")


class Teacher(Protocol):
    """A source of targets: models that run beside the student, or a target store."""

    def targets(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        utt_id: Sequence[str] | None = None,
    ) -> dict[str, Targets]:
        """Return the targets of one batch, by tap."""

    def loaded(
        self, batch: MutableMapping[str, Any], text_lengths: HostCopy
    ) -> Callable[[], dict[str, Targets]] | None:
        """Take out of a batch the targets that came with it; return a function that gives them by tap.

        None: the batch has none, and ``targets`` computes them.
        """


@dataclass(frozen=True)
class Objective:
    """What a student is trained on; no module, so nothing of it enters the state dict.

    Attributes:
        soft_only: the task loss leaves out utterances whose text is a teacher's hypothesis.
    """

    teacher: Teacher
    taps: Taps
    terms: tuple[Term, ...]
    task_weight: Schedule
    soft_only: bool = False


class Distillation:
    """Mixed in before the class of a stock model by ``distil``; adds weighted criteria to its loss.

    Parameters of criteria are under ``kd_criteria``; ``kd_step`` counts training batches, for the schedules;
    neither is in the state dict, see ``espnet_kd.methods.own``.
    ``kd_teacher_follows``: the teacher runs when the first criterion needs its targets, for which it reads a
    prefix that the student has made.
    ``kd_decoder_steps``: gives the steps that are compared, (B,) on the host; None: those of the transcripts.
    """

    kd_teacher_follows = False
    kd_decoder_steps: Callable[[], Tensor | None] | None = None

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
        """Run the stock forward pass, then the criteria.

        Args:
            speech: (B, samples) waveform.
            speech_lengths: (B,) samples.
            text: (B, L) tokens, padded with -1; None where the task weighs nothing and no criterion needs it.
            text_lengths: (B,).
            kwargs: what else the stock model takes; ``utt_id`` names the utterances, ``teacher_speech`` and
                its lengths are what the teacher gets, where that is not the student's speech.

        Returns:
            (1,) loss, statistics and (1,) weight as the stock model gives them. ``loss_task`` is the stock
            loss, ``loss_kd_<name>`` each criterion before its weight, ``loss`` the total. Without text only
            the latter two are there.
        """
        objective: Objective = self.kd_objective
        if objective.soft_only:
            self._set_transcribed(kwargs.get("utt_id", ()))
        transcribed = text is not None
        if text is None or text_lengths is None:
            text, text_lengths = placeholder(speech)
        batch = (speech, speech_lengths, text, text_lengths)
        tokens = HostCopy(text_lengths)
        given = kwargs.pop(TEACHER_SPEECH, speech), kwargs.pop(f"{TEACHER_SPEECH}_lengths", speech_lengths)
        theirs = (*given, text, text_lengths, kwargs.get("utt_id"))
        loaded = objective.teacher.loaded(kwargs, tokens)
        self.kd_targets = loaded or cache(partial(self.teacher_targets, *theirs))
        if loaded is None and not self.kd_teacher_follows:
            self.kd_targets()
        with objective.taps.recording():
            loss, stats, weight = super().forward(*batch, **kwargs)
        targets, self.kd_targets = self.kd_targets(), None
        step = float(self.kd_step)
        total = self._with_task(loss, stats, step)
        if not transcribed:
            stats.clear()
        for term in objective.terms:
            if self.kd_criteria[term.name].needs != "lattice":  # that came with the task
                total = total + self._term(term, targets, (text, tokens.read()), stats, step)
        objective.taps.release()
        self._check_complete(stats)
        stats["loss"] = total.detach().clone()  # the trainer divides the loss by accum_grad, in place
        if self.training:
            self.kd_step += 1
        return total, stats, weight

    def teacher_targets(self, *batch: Any) -> dict[str, Targets]:
        """Return what the teacher computes for a batch; arguments as of ``Teacher.targets``."""
        found: dict[str, Targets] = self.kd_objective.teacher.targets(*batch)
        return found

    def _term(
        self,
        term: Term,
        targets: Mapping[str, Targets],
        labels: tuple[Tensor, Tensor],
        stats: dict[str, Any],
        step: float,
    ) -> Tensor | float:
        """Compute a criterion times its weight, and put its value into the statistics.

        Args:
            labels: (B, L) tokens, and their numbers, (B,), on the host.
        """
        criterion = self.kd_criteria[term.name]
        seen = self._seen(term, labels[1])
        use = torch.is_grad_enabled() and not term.weight.is_zero
        if use and self.training:
            refuse_frozen(seen.tensor, term, "criterion")
        with torch.set_grad_enabled(use), refusing(f"criterion {term.name}"):
            if criterion.needs == "sequence":
                given = targets[term.teacher_tap]
                scores = scores_of(given.values, given.lengths, *labels)
                value = criterion(seen.tensor, scores, Transcript(labels[0], seen.lengths, labels[1]))
            else:
                theirs, temperature = targets[term.teacher_tap], criterion.temperature or 1.0
                student, target, mask = aligned(seen, theirs, term, criterion.needs, temperature)
                value = criterion(student, target, mask, *guide_for(criterion, targets, seen, term))
        stats[f"loss_kd_{term.name}"] = value.detach()[None]
        # (1,): a scalar would be rounded to the half precision that the task's loss may have under autocast.
        return 0.0 if term.weight.is_zero else term.weight(step) * value[None]

    def _seen(self, term: Term, text_lengths: Tensor) -> Targets:
        """Return what the student has at the tap of a criterion, with its lengths."""
        seen = self.kd_objective.taps.get(term.student_tap, text_lengths)
        if self.kd_decoder_steps is None or term.student_tap != DECODER:
            return seen
        steps = self.kd_decoder_steps()
        return seen if steps is None else replace(seen, lengths=steps)

    def _check_complete(self, stats: Mapping[str, Any]) -> None:
        """Refuse a training whose first batch does not compute every configured criterion.

        Raises:
            UserError: one has no value among the statistics.
        """
        for term in self.kd_objective.terms:
            if f"loss_kd_{term.name}" not in stats:
                raise UserError(
                    f"criterion {term.name} is configured, but the student's training does not compute it: "
                    "leave it out, or choose another layer or type of criterion"
                )

    def _set_transcribed(self, utt_ids: Sequence[str]) -> None:
        """Refuse utterances without a transcript; subclasses can leave them out of the task loss instead.

        Raises:
            UserError: it has.
        """
        if any(are_hypotheses(utt_ids)):
            refuse_soft(lattice=False)

    def _with_task(self, loss: Tensor, stats: dict[str, Any], step: float) -> Tensor:
        """Return the task loss times its weight; subclasses add criteria that come with it."""
        stats["loss_task"] = loss.detach()
        weight: Schedule = self.kd_objective.task_weight
        return torch.zeros_like(loss) if weight.is_zero else weight(step) * loss  # it may be infinite


def placeholder(speech: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, 1) tokens and (B,) lengths in place of transcripts, for a task of weight 0."""
    tokens = torch.full((len(speech), 1), ANY_TOKEN, device=speech.device)
    return tokens, torch.ones_like(tokens[:, 0])


def distil(model: ESPnetASRModel, objective: Objective, criteria: dict[str, nn.Module]) -> ESPnetASRModel:
    """Turn a stock model into a distilled one, in place; names of its parameters stay as they are."""
    return distil_as(Distillation, model, objective, criteria)


def distil_as(
    mixin: type, model: nn.Module, objective: Objective, criteria: dict[str, nn.Module]
) -> nn.Module:
    """Do what ``distil`` does, with a subclass of Distillation."""
    model.kd_objective = objective
    model.kd_targets = None
    model.kd_criteria = nn.ModuleDict(criteria)
    for term in objective.terms:
        if term.weight.is_zero:
            model.kd_criteria[term.name].requires_grad_(False)
    count_batches(model)
    mix_in(model, "Distilled", mixin)
    return model


def refuse_frozen(seen: Tensor, term: Term, kind: str) -> None:
    """Refuse a criterion on what no trained parameter changes.

    Args:
        seen: what the student has at its tap, in a step of training.
        term: of the criterion.
        kind: of criterion, for the message.

    Raises:
        UserError: it has no gradient.
    """
    if not seen.requires_grad:
        raise UserError(
            f"{kind} {term.name} changes nothing: all up to {term.student_tap} is frozen (freeze_param): "
            "leave it out, or give it `weight: 0` to see its value"
        )


def guide_for(
    criterion: Criterion, targets: Mapping[str, Targets], student: Targets, term: Term
) -> tuple[Tensor, ...]:
    """Return the guide of a criterion, (B, P, G), in a tuple that is empty where it has none."""
    if criterion.guide_tap is None:
        return ()
    return (aligned(student, targets[criterion.guide_tap], term)[1],)


def aligned(
    student: Targets, target: Targets, term: Term, needs: str = "logits", temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Bring student and target to the same positions: the student's frame rate, cropped to the shorter.

    Args:
        needs: what the values are, see ``Criterion.needs``.
        temperature: of the criterion.

    Returns:
        (B, P, V) student values, (B, P, V) target values, (B, P) bool mask of real positions, on the host.

    Raises:
        UserError: the numbers of positions differ by more than rounding; of stored targets in any utterance.
    """
    if target.utterances is not None:
        check_lengths(student.lengths, target, term)
    ours, theirs = student.values.shape[1], target.values.shape[1]
    sides = (
        f"criterion {term.name}: the student has {ours} positions at {term.student_tap}, "
        f"the teacher {theirs} at {term.teacher_tap}"
    )
    check_frames(ours, theirs, term.ratio, sides)
    if term.ratio is not None:
        target = resampled(target, student.lengths, term.ratio, needs, temperature)
    length = min(student.values.shape[1], target.values.shape[1])
    lengths = torch.minimum(student.lengths.cpu(), target.lengths.cpu())
    mask = torch.arange(length) < lengths[:, None]
    return student.values[:, :length], target.values[:, :length], mask


def check_lengths(student: Tensor, target: Targets, term: Term) -> None:
    """Refuse stored targets of another frame rate, utterance by utterance, since padding could hide it.

    Args:
        student: (B,) positions.
        target: of the same utterances.
        term: for the message.

    Raises:
        UserError: they differ by more than rounding; names the utterance.
    """
    lengths = zip(student.tolist(), target.lengths.tolist(), target.utterances, strict=True)
    for ours, stored, utt in lengths:
        check_frames(
            ours,
            stored,
            term.ratio,
            f"criterion {term.name}: utterance {utt} has {ours} positions at {term.student_tap}, the stored "
            f"targets {stored} at {term.teacher_tap}",
        )
