"""A model that learns a teacher's posteriors over the hypotheses of each utterance."""

import logging
from dataclasses import dataclass
from typing import Any

from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor

from espnet_kd.criteria import Criterion, Transcript
from espnet_kd.errors import UserError, refusing
from espnet_kd.host.models import predicted
from espnet_kd.methods.fit import check_layers
from espnet_kd.methods.nbest import COUNTS, LISTS, SCORES, NBest
from espnet_kd.methods.own import count_training, mix_in
from espnet_kd.methods.transducer import KeepsLattice, provide_lattice
from espnet_kd.rnnt import Joint, SequenceScores
from espnet_kd.rnnt.device import HostCopy
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.options import TermOptions, term_options
from espnet_kd.teachers.taps import LATTICE, Taps

STATISTIC = "loss_nbest"


@dataclass(frozen=True)
class ListPlan:
    """What a model compares; no module, so nothing of it enters the state dict."""

    criterion: Criterion
    weight: Schedule
    tap: str
    taps: Taps


class LearnsLists:
    """Mixed in before the class of a model; a training step compares posteriors over n-best lists, too.

    The term is KL(p || q), mean over the utterances: p the softmax of the teacher's scores of the list, q
    the student's probabilities of the same label sequences, divided by their sum over the list. An
    utterance with less than two hypotheses counts as 0.
    """

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
        """Run the forward pass of the model, then compare the lists.

        Args:
            speech, speech_lengths, text, text_lengths: as the model takes them.
            kwargs: what else the model takes, and the lists: tokens (B, L, H), their numbers and scores,
                (B, H) each.

        Returns:
            (1,) loss, statistics and (1,) weight as the model gives them. ``loss_task`` is the stock loss,
            ``loss_nbest`` the term before its weight, ``loss`` the total.
        """
        plan: ListPlan = self.kd_lists
        step = float(self.kd_step)  # a distilled model counts in its forward pass
        given = [kwargs.pop(name, None) for name in (LISTS, COUNTS, SCORES)]
        for name in (LISTS, COUNTS, SCORES):
            kwargs.pop(f"{name}_lengths", None)
        counts = None if given[1] is None else HostCopy(given[1])
        with plan.taps.recording():
            loss, stats, weight = super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        lattice = self.take_lattice() if isinstance(self, KeepsLattice) else None
        if text is not None:
            stats.setdefault("loss_task", loss.detach())
        if not self.training or given[0] is None or counts is None:
            plan.taps.release()
            return loss, stats, weight
        transcript = Transcript(given[0].transpose(1, 2), self._frames(lattice), counts.read())
        with refusing("nbest"):
            student = self._of_lists(lattice, transcript)
            value = plan.criterion(student, SequenceScores(given[2]), transcript)
        plan.taps.release()
        total = loss + plan.weight(step) * value[None]
        stats[STATISTIC] = value.detach()[None]
        stats["loss"] = total.detach().clone()  # the trainer divides the loss by accum_grad, in place
        return total, stats, weight

    def _frames(self, lattice: tuple[Joint, Transcript] | None) -> Tensor:
        plan: ListPlan = self.kd_lists
        return plan.taps.frames() if lattice is None else lattice[1].enc_lens

    def _of_lists(self, lattice: tuple[Joint, Transcript] | None, lists: Transcript) -> Tensor | Joint:
        """Return the student's CTC logits, or the lattices of all hypotheses, as the criterion takes them."""
        plan: ListPlan = self.kd_lists
        if lattice is None:
            return plan.taps.get(plan.tap, lists.label_lens[:, 0]).tensor
        joint, text = lattice[0], lists.labels.flatten(0, 1)
        enc = joint.enc.repeat_interleave(lists.labels.shape[1], 0)
        dec = self.joint_network.lin_dec(predicted(self, enc, text))
        return joint.with_tensors(enc, dec, joint.weight, joint.bias)


def term_of(tap: str) -> TermOptions:
    """Return the criterion on the probabilities of label sequences at a layer."""
    kind = {"type": "transducer", "kind": "sequence"} if tap == LATTICE else {"type": "sequence", "tap": tap}
    (found,) = term_options({"nbest": kind})
    return found


def check_list_layer(model: Any, args: Any, tap: str) -> None:
    """Refuse a model that gives no probability of a hypothesis at a layer.

    Raises:
        UserError: names the layer.
    """
    if tap == LATTICE and isinstance(model, ESPnetASRModel):
        raise UserError(
            "nbest: the lattice is that of a transducer (--task asr_transducer): use the tap of a CTC layer"
        )
    check_layers(model, args, [term_of(tap)], method="nbest")


def with_nbest(model: Any, options: NBest) -> Any:
    """Let a stock or a distilled model learn from n-best lists, in place; names of its parameters stay.

    Raises:
        UserError: the model has no such layer.
    """
    keeps = provide_lattice(model, options.tap == LATTICE, "nbest")
    taps = Taps(model, [options.tap], "the model")
    criterion = term_of(options.tap).build()
    model.kd_lists = ListPlan(criterion, options.weight, options.tap, taps)
    count_training(model)
    mix_in(model, "Lists", LearnsLists, *keeps)
    logging.info(f"nbest: {options.hypotheses} hypotheses of {options.records}, tap {options.tap}")
    return model
