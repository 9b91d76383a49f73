"""Stock ESPnet transducers, alone or with a teacher, that never hold a whole lattice in memory."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from torch import Tensor, nn

from espnet_kd.criteria import Transcript
from espnet_kd.criteria.sequence import scores_of
from espnet_kd.data.dump import are_hypotheses
from espnet_kd.errors import UserError, refusing
from espnet_kd.host.losses import LossHooks
from espnet_kd.host.models import JointNetwork, auxiliary_logits, lattice_inputs
from espnet_kd.methods.distilled import Distillation, Objective, check_lengths, distil_as
from espnet_kd.methods.own import mix_in
from espnet_kd.rnnt import (
    CollapsedTargets,
    Joint,
    LatticeLoss,
    OneBestTargets,
    SequenceScores,
    joint_of,
    rnnt_loss,
)
from espnet_kd.rnnt.alignment import Alignment
from espnet_kd.rnnt.device import HostCopy, to_device
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.short import check_frames_left
from espnet_kd.teachers.taps import Targets, check_lattice, has_lattice


class OwnLabels(NamedTuple):
    """What the lattice of a batch is along where a student has made labels of its own.

    Attributes:
        labels: (B, L) transcripts, or in their place the student's hypotheses, padded with -1.
        lengths: (B,) numbers of labels, on the host.
        own: (B,) bool, True for hypotheses, on the host.
    """

    labels: Tensor
    lengths: Tensor
    own: Tensor


class OfTranscribed(LossHooks):
    """Mixed in before a transducer: limits its losses to utterances with a transcript.

    They stay what they are otherwise, sums over utterances divided by the number of them in the batch. The
    text of an utterance may be a teacher's hypothesis (``_set_transcribed``), which no loss counts; or the
    prediction network has read the student's (``kd_own``), which CTC does not.
    """

    kd_transcribed: Tensor | None = None  # (n,) places in the batch; None stands for all
    kd_own: OwnLabels | None = None  # None: the prediction network has read the text

    def _set_transcribed(self, utt_ids: Sequence[str]) -> None:
        hypotheses = are_hypotheses(utt_ids)
        chosen = [place for place, hypothesis in enumerate(hypotheses) if not hypothesis]
        self.kd_transcribed = torch.tensor(chosen, dtype=torch.long) if any(hypotheses) else None

    def _along_transcripts(self) -> Tensor | None:
        """Return the places of utterances whose lattice is along a transcript, (n,); None stands for all."""
        if self.kd_own is None:
            return self.kd_transcribed
        along = ~self.kd_own.own
        if self.kd_transcribed is not None:
            along &= torch.zeros_like(along).index_fill(0, self.kd_transcribed, True)
        return along.nonzero()[:, 0]

    def ctc_part(self, encoder_out: Tensor, target: Tensor, t_len: Tensor, u_len: Tensor) -> Tensor:
        """Return the CTC loss of the utterances with a transcript."""
        if self.kd_transcribed is not None:  # a tap keeps the first call: criteria are on all utterances
            auxiliary_logits(self, encoder_out)
        return self._of(self.kd_transcribed, super().ctc_part, encoder_out, target, t_len, u_len)

    def label_part(self, decoder_out: Tensor, target: Tensor) -> Tensor:
        """Return the loss of the prediction network for the utterances of which it has read a transcript."""
        return self._of(self._along_transcripts(), super().label_part, decoder_out, target)

    def _of(self, rows: Tensor | None, loss: Callable[..., Tensor], *values: Tensor) -> Tensor:
        if rows is None:
            return loss(*values)
        if not len(rows):  # all parameters keep a gradient, which DDP needs
            return 0.0 * loss(*(x[:1] for x in values))
        return loss(*(x[to_device(rows, x.device)] for x in values)) * (len(rows) / len(values[0]))


def select(joint: Joint, transcript: Transcript, rows: Tensor) -> tuple[Joint, Transcript]:
    """Select n utterances of a batch by their places in it, (n,) integers on the host."""
    here = to_device(rows, joint.enc.device)
    part = joint.with_tensors(joint.enc[here], joint.dec[here], joint.weight, joint.bias)
    return part, Transcript(*(x[to_device(rows, x.device)] for x in transcript))


Lattice = Joint | CollapsedTargets | OneBestTargets | SequenceScores
Model = ESPnetASRTransducerModel | ESPnetASRModel  # the latter a hybrid, with `decoder: transducer`


class PiecewiseJoint(JointNetwork):
    """Returns the factors of a lattice where stock training asks for all of it; decoding stays stock."""

    def forward(self, enc_out: Tensor, dec_out: Tensor, no_projection: bool = False) -> Tensor | Joint:
        """(B, T, 1, D) and (B, 1, U, D') -> Joint; anything else as the stock module does."""
        pieces = lattice_inputs(enc_out, dec_out, no_projection)
        if pieces is not None:
            return joint_of(self, *pieces)
        return super().forward(enc_out, dec_out, no_projection)


class SeesLattice(LossHooks):
    """Base of what computes an RNN-T loss: it gives the lattice of every pass to ``lattice_seen``."""

    def lattice_seen(self, joint: Joint, transcript: Transcript) -> None:
        """Do nothing; a subclass keeps the lattice, or computes a criterion."""


class KeepsLattice(SeesLattice):
    """Mixed in before a model with a lattice: ``take_lattice`` returns that of its last pass."""

    kd_lattice_seen: tuple[Joint, Transcript] | None = None

    def lattice_seen(self, joint: Joint, transcript: Transcript) -> None:
        """Keep the lattice."""
        self.kd_lattice_seen = (joint, transcript)
        super().lattice_seen(joint, transcript)

    def take_lattice(self) -> tuple[Joint, Transcript]:
        """Return lattice and transcript of the last pass, and release them."""
        assert self.kd_lattice_seen is not None  # there was a pass
        found, self.kd_lattice_seen = self.kd_lattice_seen, None
        return found


class LatticeTransducer(SeesLattice):
    """Mixed in before a stock transducer: its loss is espnet_kd.rnnt's, which needs no other package.

    Attributes:
        kd_frames, kd_tokens: (B,) numbers of frames and tokens of the batch, on the host.
    """

    kd_frames: Tensor
    kd_tokens: HostCopy

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
        """Run the stock forward pass; see ``Distillation.forward``.

        An auxiliary loss of 0, as of CTC where all utterances are too short for it, is among the statistics,
        too: those of several processes must have the same keys.
        """
        self.kd_tokens = HostCopy(text_lengths)
        loss, stats, weight = super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        for name, used in (("ctc", self.use_auxiliary_ctc), ("lm", self.use_auxiliary_lm_loss)):
            if used and stats[f"loss_aux_{name}"] is None:
                stats[f"loss_aux_{name}"] = torch.zeros_like(stats["loss_transducer"])
        return loss, stats, weight

    def encode(self, speech: Tensor, speech_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T, D) encoder output and its numbers of frames, (B,), on the host.

        ESPnet has waited for them already, and goes on to read them one by one.
        """
        encoded, frames = super().encode(speech, speech_lengths)
        self.kd_frames = frames.cpu()
        return encoded, self.kd_frames

    def transducer_part(
        self, encoder_out: Tensor, joint_out: Joint, target: Tensor, t_len: Tensor, u_len: Tensor
    ) -> Tensor:
        """Return the RNN-T loss of the lattice whose factors the joint network gives."""
        transcript = self._transcript(target)
        self.lattice_seen(joint_out, transcript)
        return self._rnnt(joint_out, transcript)

    def _transcript(self, target: Tensor) -> Transcript:
        """Return labels and lengths of the batch, the lengths on the host."""
        return Transcript(target, self.kd_frames, self.kd_tokens.read())

    def _rnnt(self, joint: Joint, transcript: Transcript) -> Tensor:
        check_frames_left(transcript.enc_lens, "the model")
        return rnnt_loss(joint, *transcript, fastemit=self.fastemit_lambda)

    def _rnnt_weight(self) -> float:
        """Return the factor of the RNN-T loss in the total loss of a training step."""
        return float(self.transducer_weight)


class LatticeHybrid(SeesLattice):
    """Mixed in before ESPnet's ASR model with a transducer decoder, whose own loss stays."""

    def transducer_part(
        self, encoder_out: Tensor, encoder_out_lens: Tensor, labels: Tensor
    ) -> tuple[Tensor, float | None, float | None]:
        """Return the RNN-T loss as ESPnet computes it."""
        check_frames_left(encoder_out_lens, "the model")
        calls: list[tuple[Tensor, Tensor]] = []

        def first(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
            if not calls:  # later ones are of the search for error rates
                calls.append(inputs)

        keep = self.joint_network.register_forward_pre_hook(first)
        try:
            result = super().transducer_part(encoder_out, encoder_out_lens, labels)
        finally:
            keep.remove()
        enc, dec = (x.flatten(1, 2) for x in calls[0])
        lengths = encoder_out_lens.cpu(), (labels != self.ignore_id).sum(1).cpu()  # ESPnet's may be on a GPU
        transcript = Transcript(labels, *lengths)
        self.lattice_seen(joint_of(self.joint_network, enc, dec), transcript)
        return result


class KeepingTransducer(KeepsLattice, LatticeTransducer):
    """A transducer that keeps the lattice of each pass."""


class KeepingHybrid(KeepsLattice, LatticeHybrid):
    """A hybrid that keeps the lattice of each pass."""


class LatticeDistillation(Distillation):
    """Base of students with a lattice: at most one criterion is on it."""

    def lattice_term(self) -> Term | None:
        """Return the criterion on the lattice; None without one."""
        terms = (t for t in self.kd_objective.terms if self.kd_criteria[t.name].needs == "lattice")
        return next(terms, None)

    def _target(self, term: Term, student: Joint, transcript: Transcript) -> Lattice:
        """Return the teacher's lattice with the student's numbers of frames, or its scores of the labels."""
        given, frames = self.kd_targets()[term.teacher_tap], transcript.enc_lens
        check_frames_left(frames, "the student")
        check_frames_left(given.lengths, "the teacher")
        if self.kd_criteria[term.name].kind == "sequence":
            return scores_of(given.values, given.lengths, transcript.labels, transcript.label_lens)
        if given.utterances is not None:
            check_lengths(frames, given, term)
        return like_student(given.values, given.lengths, student, frames)


class HybridDistillation(LatticeHybrid, LatticeDistillation):
    """A criterion on the lattice beside the stock loss of ESPnet's ASR model with a transducer decoder."""

    kd_lattice: Tensor | None = None  # value of the criterion

    def lattice_seen(self, joint: Joint, transcript: Transcript) -> None:
        """Compute the criterion, and keep its value."""
        super().lattice_seen(joint, transcript)
        term = self.lattice_term()
        if term is not None:
            teacher = self._target(term, joint, transcript)
            use = torch.is_grad_enabled() and not term.weight.is_zero
            with torch.set_grad_enabled(use), refusing(f"criterion {term.name}"):
                self.kd_lattice = self.kd_criteria[term.name](joint, teacher, transcript)

    def _with_task(self, loss: Tensor, stats: dict[str, Any], step: float) -> Tensor:
        """Return the sum of task loss and lattice term, each times its weight."""
        total, term, value = super()._with_task(loss, stats, step), self.lattice_term(), self.kd_lattice
        self.kd_lattice = None
        if term is None:
            return total
        stats[f"loss_kd_{term.name}"] = value.detach()[None]
        return total if term.weight.is_zero else total + term.weight(step) * value[None]


class TransducerDistillation(OfTranscribed, LatticeDistillation, LatticeTransducer):
    """Criteria on hidden layers as for any model, and one on the lattice, in the same passes as the loss."""

    def transducer_part(
        self, encoder_out: Tensor, joint_out: Joint, target: Tensor, t_len: Tensor, u_len: Tensor
    ) -> Tensor:
        """Return the RNN-T loss, and compute the criterion on the lattice in the same pass."""
        term = self.lattice_term()
        joint_out, transcript = self._along(joint_out, target)
        self.lattice_seen(joint_out, transcript)
        self.kd_lattice = None
        if term is None:
            return self._of_transcripts(joint_out, transcript)
        criterion, teacher = self.kd_criteria[term.name], self._target(term, joint_out, transcript)
        if term.weight.is_zero:
            with torch.no_grad(), refusing(f"criterion {term.name}"):
                kd = criterion(joint_out, teacher, transcript)
            loss = self._of_transcripts(joint_out, transcript)
            self.kd_lattice = LatticeLoss(loss, loss.detach(), kd)
            return loss
        step, task = float(self.kd_step), self._rnnt_weight()
        if self._along_transcripts() is not None:
            with refusing(f"criterion {term.name}"):
                soft = criterion.with_task(joint_out, teacher, transcript, None, term.weight(step))
            loss = self._of_transcripts(joint_out, transcript)
            self.kd_lattice = LatticeLoss(task * loss + soft.loss, loss.detach(), soft.kd)
            return self.kd_lattice.rnnt
        weights = {"rnnt_weight": task, "kd_weight": term.weight(step), "fastemit": self.fastemit_lambda}
        with refusing(f"criterion {term.name}"):
            self.kd_lattice = criterion.with_task(joint_out, teacher, transcript, **weights)
        return self.kd_lattice.rnnt

    def teacher_targets(self, *batch: Any) -> dict[str, Targets]:
        """Return what the teacher computes, along the student's own labels where there are any."""
        if self.kd_own is not None:
            batch = (*batch[:2], *self.kd_own[:2], *batch[4:])
        return super().teacher_targets(*batch)

    def _along(self, joint_out: Joint, target: Tensor) -> tuple[Joint, Transcript]:
        """Return the lattice, and labels and lengths that it is along."""
        if self.kd_own is None:
            return joint_out, self._transcript(target)
        labels, lengths, _ = self.kd_own  # hypotheses may all be shorter than transcripts
        shorter = replace(joint_out, dec=joint_out.dec[:, : labels.shape[1] + 1])
        return shorter, Transcript(labels, self.kd_frames, lengths)

    def _of_transcripts(self, joint_out: Joint, transcript: Transcript) -> Tensor:
        """Return the RNN-T loss of the utterances along a transcript, divided by the number of all."""
        rows = self._along_transcripts()
        if rows is None:
            return self._rnnt(joint_out, transcript)
        if not len(rows):
            return 0.0 * sum(x.sum() for x in vars(joint_out).values() if isinstance(x, Tensor))
        return len(rows) / len(joint_out.enc) * self._rnnt(*select(joint_out, transcript, rows))

    def _with_task(self, loss: Tensor, stats: dict[str, Any], step: float) -> Tensor:
        """Return the task loss with its weight, plus the lattice term with its own."""
        total, term, lattice = super()._with_task(loss, stats, step), self.lattice_term(), self.kd_lattice
        if term is None:
            return total
        stats[f"loss_kd_{term.name}"] = lattice.kd[None]
        self.kd_lattice = None
        if term.weight.is_zero:
            return total
        # Stock forward took the RNN-T loss as a number; here it comes with the gradient of both.
        return total - self._rnnt_weight() * lattice.rnnt + lattice.loss

    def _rnnt_weight(self) -> float:
        return super()._rnnt_weight() * self.kd_objective.task_weight(float(self.kd_step))


def like_student(teacher: Lattice, teacher_lens: Tensor, student: Joint, student_lens: Tensor) -> Lattice:
    """Crop or extend the teacher's lattice to the student's frames, (B,), on the host.

    Where the two round the number of frames differently, surplus frames are cut off, and the
    last real one is repeated for missing ones.
    """
    if isinstance(teacher, OneBestTargets):
        return _cut(teacher, student_lens)
    if teacher.shape == student.shape and torch.equal(teacher_lens, student_lens):
        return teacher
    last = teacher_lens[:, None] - 1
    frames = to_device(torch.arange(student.shape[1]).minimum(last).clamp(min=0), student.enc.device)
    if isinstance(teacher, CollapsedTargets):
        utterance = torch.arange(len(frames), device=frames.device)[:, None]
        return replace(teacher, log_probs=teacher.log_probs[utterance, frames, : student.shape[2]])
    enc = teacher.enc.gather(1, frames[:, :, None].expand(-1, -1, teacher.enc.shape[2]))
    return teacher.with_tensors(enc, teacher.dec[:, : student.shape[2]], teacher.weight, teacher.bias)


def _cut(teacher: OneBestTargets, frames: Tensor) -> OneBestTargets:
    """Keep the nodes of the alignment that lie within the frames of the student, (B,)."""
    alignment = teacher.alignment
    if alignment.frames.device.type != "cpu":
        return teacher  # the criterion leaves out what lies beyond, too; counting it would wait for the GPU
    nodes = torch.arange(alignment.frames.shape[1])
    real = (nodes < torch.tensor(alignment.lengths)[:, None]) & (alignment.frames < frames[:, None])
    lengths = tuple(real.sum(1).tolist())
    return replace(teacher, alignment=Alignment(alignment.frames, alignment.rows, lengths))


def with_lattice_loss(model: ESPnetASRTransducerModel) -> ESPnetASRTransducerModel:
    """Let a stock transducer train with our RNN-T loss, in place; names of its parameters stay."""
    return _with_lattice(LatticeTransducer, model)


def keeping_lattice(model: Model) -> Model:
    """Let a stock transducer train as ``with_lattice_loss`` does and keep the lattice of each pass.

    A hybrid keeps its own loss.
    """
    if isinstance(model, ESPnetASRModel):
        mix_in(model, "Lattice", KeepingHybrid)
        return model
    return _with_lattice(KeepingTransducer, model)


def _with_lattice(mixin: type, model: ESPnetASRTransducerModel) -> ESPnetASRTransducerModel:
    model.joint_network.__class__ = PiecewiseJoint
    mix_in(model, "Lattice", mixin)
    return model


def distil_transducer(model: Model, objective: Objective, criteria: dict[str, nn.Module]) -> Model:
    """Turn a stock transducer, or a hybrid, into a distilled one, in place; names of its parameters stay.

    Raises:
        UserError: its loss is k2's, which has no whole lattice for a criterion.
    """
    if isinstance(model, ESPnetASRModel):
        return distil_as(HybridDistillation, model, objective, criteria)
    if any(criterion.needs == "lattice" for criterion in criteria.values()):
        refuse_pruned(model)
    model.joint_network.__class__ = PiecewiseJoint
    model.kd_lattice = None
    return distil_as(TransducerDistillation, model, objective, criteria)


def refuse_pruned(model: Model, where: str = "") -> None:
    """Refuse a transducer whose loss never sees the whole lattice, which a criterion compares.

    Args:
        where: begins the message.

    Raises:
        UserError: its loss is k2's.
    """
    if getattr(model, "use_k2_pruned_loss", False):
        raise UserError(
            f"{where}a criterion on the lattice does not go with `use_k2_pruned_loss`: leave that out"
        )


def provide_lattice(model: Model, needed: bool, method: str) -> tuple[type, ...]:
    """Let a method's terms see the lattice of a model, stock or distilled, in place.

    A stock transducer gets our RNN-T loss, whether they need the lattice or not.

    Args:
        model: of any kind.
        needed: a term compares the lattice.
        method: its name, for messages.

    Returns:
        What the method must mix in beside its own class, so that the model keeps the lattice of each pass.

    Raises:
        UserError: it is needed, and there is none, or the loss is k2's.
    """
    if needed:
        check_lattice(model, "the model")
        refuse_pruned(model, f"{method}: ")
    if has_lattice(model) and not isinstance(model, SeesLattice):
        if needed:
            keeping_lattice(model)
        elif not isinstance(model, ESPnetASRModel):
            with_lattice_loss(model)
    return () if not needed or isinstance(model, KeepsLattice) else (KeepsLattice,)
