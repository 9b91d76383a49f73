"""A model that trains on several views of each utterance, whose posteriors are targets of each other."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from espnet_kd.criteria import Criterion, TopClasses, Transcript
from espnet_kd.errors import UserError, refusing
from espnet_kd.host.augmentation import has_masks, has_time_masks, more_time_masks, take_time_warp
from espnet_kd.methods.attach import criterion_line
from espnet_kd.methods.consistency import Views
from espnet_kd.methods.distilled import aligned, refuse_frozen
from espnet_kd.methods.own import count_training, mix_in
from espnet_kd.methods.transducer import KeepsLattice, LatticeTransducer, provide_lattice
from espnet_kd.rnnt import (
    CollapsedTargets,
    Joint,
    LatticeLoss,
    OneBestTargets,
    SequenceScores,
    collapsed_targets,
)
from espnet_kd.rnnt.alignment import Alignment
from espnet_kd.rnnt.device import HostCopy
from espnet_kd.teachers.options import Term, TermOptions
from espnet_kd.teachers.short import check_frames_left
from espnet_kd.teachers.taps import LATTICE, Taps, Targets

STATISTIC = "loss_consistency_"  # begin of the names of the criteria's values


@dataclass(frozen=True)
class Agreement:
    """What the views of a batch are compared by; no module, so nothing of it enters the state dict.

    Attributes:
        views: number of copies of each utterance, one after the other in the batch that the model gets, so
            that a batch sorted by length stays sorted, which recurrent encoders need.
        terms: weighted criteria, each at a tap of the model.
        criteria: by the name of the term.
        taps: of the layers of all terms but that on the lattice.
    """

    views: int
    terms: tuple[Term, ...]
    criteria: Mapping[str, Criterion]
    taps: Taps

    def on_lattice(self) -> Term | None:
        """Return the term that compares the lattices of the views; None without one."""
        return next((term for term in self.terms if term.student_tap == LATTICE), None)


class Consistency:
    """Mixed in before the class of a model; a training step runs it on all views of the batch at once.

    The loss of the task is the mean over the views, as ESPnet's losses are means over utterances. Each
    criterion is the mean over all ordered pairs of views; the posteriors of the other view are constant. In
    eval mode there is one view and no criterion.

    Source:
        Yao et al. 2024, CR-CTC, arXiv:2410.05101.
    """

    kd_in_loss: LatticeLoss | None = None  # what the passes of the RNN-T loss have computed beside it

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
        """Run the forward pass of the model on all views, then the criteria.

        Args:
            speech: (B, samples) waveform.
            speech_lengths: (B,) samples.
            text: (B, L) tokens, padded with -1; None as for ``Distillation.forward``.
            text_lengths: (B,).
            kwargs: what else the model takes.

        Returns:
            (1,) loss, statistics and (1,) weight as the model gives them. ``loss_task`` is the stock loss,
            ``loss_consistency_<name>`` each criterion before its weight, ``loss`` the total.
        """
        batch = (speech, speech_lengths, text, text_lengths)
        if not self.training:
            loss, stats, weight = super().forward(*batch, **kwargs)
            if isinstance(self, KeepsLattice):
                self.take_lattice()
            if text is not None:
                stats.setdefault("loss_task", loss.detach())
            return loss, stats, weight
        plan: Agreement = self.kd_agreement
        step = float(self.kd_step)
        batch = tuple(repeated(x, plan.views) for x in batch)
        tokens = HostCopy(batch[1] if batch[3] is None else batch[3])  # without text no tap is in the decoder
        with plan.taps.recording():
            loss, stats, weight = super().forward(
                *batch, **{name: repeated(x, plan.views) for name, x in kwargs.items()}
            )
        if text is not None:
            stats.setdefault("loss_task", loss.detach())
        total = loss
        for term in plan.terms:
            value = self._disagreement(term, tokens)
            stats[STATISTIC + term.name] = value.detach()[None]
            if not term.weight.is_zero:
                total = total + term.weight(step) * value[None]
        plan.taps.release()
        if self.kd_in_loss is not None:  # both its terms are in the total as numbers; here is their gradient
            total = total + (self.kd_in_loss.loss - self.kd_in_loss.loss.detach())
            self.kd_in_loss = None
        stats["loss"] = total.detach().clone()  # the trainer divides the loss by accum_grad, in place
        return total, stats, weight

    def teacher_targets(self, *batch: Any) -> dict[str, Targets]:
        """Return the targets of a teacher, which computes one view: all are the same to it.

        Where its decoder reads the prefixes that the student has sampled, it computes all of them.
        """
        if not self.training or self.kd_teacher_follows:
            return super().teacher_targets(*batch)
        views = self.kd_agreement.views
        once = (x[::views] if isinstance(x, Tensor | list | tuple) else x for x in batch)
        found = super().teacher_targets(*once)
        return {tap: repeated_targets(targets, views) for tap, targets in found.items()}

    def _disagreement(self, term: Term, tokens: HostCopy) -> Tensor:
        """Compute a criterion: the mean over utterances, views and their other views."""
        plan: Agreement = self.kd_agreement
        criterion, values = plan.criteria[term.name], []
        use = torch.is_grad_enabled() and not term.weight.is_zero
        with torch.set_grad_enabled(use), refusing(f"consistency: criterion {term.name}"):
            if term.student_tap == LATTICE:
                joint, transcript = self.take_lattice()
                values += [] if self.kd_in_loss is None else [self.kd_in_loss.kd]
                for k in range(1 + len(values), plan.views):
                    values.append(criterion(joint, lattice_of_other_view(joint, plan.views, k), transcript))
            else:
                seen = plan.taps.get(term.student_tap, tokens.read())
                if use:
                    refuse_frozen(seen.tensor, term, "consistency: criterion")
                for k in range(1, plan.views):  # copies of an utterance have the same lengths
                    other = Targets(of_other_view(seen.tensor, plan.views, k), seen.lengths)
                    values.append(criterion(*aligned(seen, other, term)))
        return torch.stack(values).mean()


class ViewsInLoss(KeepsLattice):
    """Mixed in before a transducer whose lattices are compared: in the passes over them that its loss takes.

    Where these passes are a teacher's criterion's, or not of the whole batch, the views have their own.
    """

    def _rnnt(self, joint: Joint, transcript: Transcript) -> Tensor:
        """Return the RNN-T loss; a number, as its gradient comes with that of the first other view."""
        loss: Tensor
        seen = self.kd_lattice_seen
        if not self.training or not torch.is_grad_enabled() or seen is None or seen[0] is not joint:
            loss = super()._rnnt(joint, transcript)
            return loss
        plan: Agreement = self.kd_agreement
        term = plan.on_lattice()
        assert term is not None  # this class is for such
        check_frames_left(transcript.enc_lens, "the model")
        criterion, known = plan.criteria[term.name], None
        other: Joint | CollapsedTargets = lattice_of_other_view(joint, plan.views, 1)
        with refusing(f"consistency: criterion {term.name}"):
            if criterion.kind == "collapsed" and criterion.temperature == 1.0:
                known = collapsed_targets(joint, *transcript, blank=criterion.blank, chunk=criterion.chunk)
                other = replace(known, log_probs=of_other_view(known.log_probs, plan.views, 1))
            self.kd_in_loss = criterion.with_task(
                joint,
                other,
                transcript,
                rnnt_weight=self._rnnt_weight(),
                kd_weight=term.weight(float(self.kd_step)) / (plan.views - 1),
                fastemit=self.fastemit_lambda,
                known=known,
            )
        loss = self.kd_in_loss.rnnt
        return loss


class SharedWarp:
    """Forward pre-hook of a SpecAugment: warps the time of the first view, and copies that for the others.

    Args:
        warp: ESPnet's.
        views: number of views of each utterance, one after the other.
    """

    def __init__(self, warp: nn.Module, views: int) -> None:
        self.warp, self.views = warp, views

    def __call__(self, specaug: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(views * B, T, D) features and (views * B,) lengths -> the same, warped."""
        features, lengths = inputs
        warped, _ = self.warp(features[:: self.views], lengths[:: self.views])
        return repeated(warped, self.views), lengths


def repeated(values: Any, views: int) -> Any:
    """Return a part of a batch, a tensor or a list, in which each utterance is there ``views`` times."""
    if isinstance(values, Tensor):
        return values.repeat_interleave(views, 0)
    if isinstance(values, list | tuple):
        return type(values)(value for value in values for _ in range(views))
    return values


def of_other_view(values: Tensor, views: int, k: int) -> Tensor:
    """Return for each view what the one k places after it has, of tensors (views * B, ...); constant."""
    return values.detach().unflatten(0, (-1, views)).roll(-k, 1).flatten(0, 1)


def lattice_of_other_view(joint: Joint, views: int, k: int) -> Joint:
    """Return the lattice of each view's other one, as ``of_other_view``."""
    return replace(joint, enc=of_other_view(joint.enc, views, k), dec=of_other_view(joint.dec, views, k))


def repeated_targets(targets: Targets, views: int) -> Targets:
    """Return the targets of all views of a batch, which are those of one."""
    values = targets.values
    if isinstance(values, Joint):
        values = replace(values, enc=repeated(values.enc, views), dec=repeated(values.dec, views))
    elif isinstance(values, CollapsedTargets):
        values = replace(values, log_probs=repeated(values.log_probs, views))
    elif isinstance(values, OneBestTargets):
        alignment = Alignment(*(repeated(x, views) for x in values.alignment))
        tokens, log_probs = repeated(values.tokens, views), repeated(values.log_probs, views)
        values = replace(values, alignment=alignment, tokens=tokens, log_probs=log_probs)
    elif isinstance(values, SequenceScores):
        values = SequenceScores(repeated(values.log_probs, views))
    elif isinstance(values, TopClasses):
        values = TopClasses(repeated(values.tokens, views), repeated(values.log_probs, views))
    else:
        values = repeated(values, views)
    names = None if targets.utterances is None else repeated(list(targets.utterances), views)
    return Targets(values, repeated(targets.lengths, views), names)


def with_views(model: Any, views: Views, terms: Sequence[TermOptions]) -> Any:
    """Let a stock or a distilled model train on several views, in place; names of its parameters stay.

    Args:
        model: with masks, see ``check_masks``.
        views: how the views are made.
        terms: the criteria.

    Raises:
        UserError: the model has no such tap.
    """
    compared = tuple(t.term for t in terms)
    # Before the views: it reads the lengths of all of them.
    keeps = provide_lattice(model, any(term.student_tap == LATTICE for term in compared), "consistency")
    taps = Taps(model, [term.student_tap for term in compared], "the model")
    criteria = {t.term.name: t.build() for t in terms}
    model.kd_agreement = Agreement(views.views, compared, criteria, taps)
    count_training(model)
    warp = take_time_warp(model.specaug)
    if warp is not None:
        model.specaug.register_forward_pre_hook(SharedWarp(warp, views.views))
    masks = more_time_masks(model.specaug, views.time_mask_factor)
    on_lattice = model.kd_agreement.on_lattice()
    if on_lattice is not None and isinstance(model, LatticeTransducer) and not on_lattice.weight.is_zero:
        keeps = (ViewsInLoss,)
    mix_in(model, "Consistent", Consistency, *keeps)
    lines = [f"{views.views} views; {masks} time masks", *_lines(compared, criteria)]
    logging.info("consistency:\n" + "\n".join(f"    {line}" for line in lines))
    return model


def check_masks(specaug: nn.Module | None, views: Views) -> None:
    """Refuse a model whose views would all be the same, or without time masks that are to be multiplied.

    Raises:
        UserError: names the options.
    """
    if specaug is None:
        raise UserError(
            "consistency: without SpecAugment all views are the same: write `specaug: specaug` and its "
            "specaug_conf"
        )
    if not has_masks(specaug):
        raise UserError(
            "consistency: specaug_conf has no masks, and a time warp is the same in all views: set "
            "`apply_time_mask: true` or `apply_freq_mask: true`"
        )
    if not has_time_masks(specaug) and views.time_mask_factor != 1:
        raise UserError(
            "consistency: specaug_conf has no time masks that time_mask_factor could multiply: set "
            "`apply_time_mask: true`, or `time_mask_factor: 1`"
        )


def _lines(terms: Sequence[Term], criteria: Mapping[str, Criterion]) -> list[str]:
    return [criterion_line(term, criteria[term.name], term.student_tap) for term in terms]

