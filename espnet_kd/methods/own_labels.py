"""Transducers that write labels of their own in training, along which they are compared with a teacher."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.host.models import predict_step, predicts_in_steps
from espnet_kd.methods.sampling import OwnPrefix
from espnet_kd.methods.sampling_model import draw, readers_of, refuse_stored, without_gradient
from espnet_kd.methods.transducer import OwnLabels, TransducerDistillation
from espnet_kd.rnnt.device import HostCopy, to_device
from espnet_kd.rnnt.search import PADDING, find_labels
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import LATTICE


class LabelWriter:
    """Hooks of a transducer student: in training, some utterances are read as the student transcribes them.

    They are drawn one by one. For them the student decodes its encoder output without gradient, one label a
    frame at most, and at most as many as the transcript has, so that a lattice is never larger than that of
    the transcript. Its prediction network and its teacher read this hypothesis. An empty one is a lattice
    of one row.

    In eval mode, or at probability 0, nothing happens and no random number is drawn. Which utterances are
    chosen is drawn on the host. It waits for a GPU once, for the numbers of labels, when the search is over.

    Args:
        model: a distilled transducer; it gets ``kd_own``.
        own: how often, and how labels are chosen.

    Source:
        On-policy distillation of Agarwal et al. 2024, arXiv:2306.13649, for language models.
    """

    def __init__(self, model: Any, own: OwnPrefix) -> None:
        self.model, self.own = model, own
        self._now = 0.0
        self._encoded: Tensor | None = None

    def renew(self) -> None:
        """Begin a batch: compute its probability."""
        self._now = self.own.student(float(self.model.kd_step)) if self.model.training else 0.0
        self._encoded = self.model.kd_own = None

    def keep(self, encoder: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        """Forward hook of the encoder: keep its output, if it will be searched."""
        if self._now > 0:
            self._encoded = output[0].detach()

    def write(self, decoder: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Pre-hook of the prediction network, (B, L + 1) labels after a blank: those with hypotheses."""
        encoded, self._encoded = self._encoded, None
        if encoded is None:  # later calls in a step, such as those for n-best lists, have texts of their own
            return None
        own = torch.rand(len(encoded)) < self._now
        if not own.any():
            return None
        (text,), device = inputs, encoded.device
        lengths, chosen = self.model.kd_tokens.read().long(), own.nonzero()[:, 0]
        rows = to_device(chosen, device)
        frames = self.model.kd_frames[chosen]
        encoded = encoded[rows, : int(frames.max())]
        found, counts = self._search(encoded, frames, lengths[chosen], text.shape[1] - 1)
        lengths = lengths.index_copy(0, chosen, HostCopy(counts).read())
        real = torch.arange(text.shape[1] - 1, device=device) < to_device(lengths, device)[:, None]
        labels = text[:, 1:].index_copy(0, rows, found)
        self.model.kd_own = OwnLabels(
            labels.masked_fill(~real, PADDING)[:, : int(lengths.max())], lengths, own
        )
        return (nn.functional.pad(labels.masked_fill(~real, 0), (1, 0)),)  # as long as it was

    def _search(self, encoded: Tensor, frames: Tensor, most: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return (b, width) labels and (b,) their numbers; frames and largest numbers are on the host."""
        model, top_p, device = self.model, self.own.top_p, encoded.device

        def choose(logits: Tensor) -> Tensor:
            return logits.argmax(-1) if top_p is None else draw(logits.float().log_softmax(-1), top_p)

        with without_gradient(device):
            return find_labels(
                model.joint_network, partial(predict_step, model), encoded, to_device(frames, device),
                to_device(most, device), choose, width,
            )  # fmt: skip


def is_transducer(model: Any) -> bool:
    """Return whether a model is ESPnet's transducer; a hybrid is none."""
    return isinstance(model, ESPnetASRTransducerModel)


def check_labels(model: Any, terms: Sequence[Term], stored: bool = False) -> None:
    """Refuse a transducer that cannot learn from labels that it writes.

    Args:
        model: the student.
        terms: its criteria.
        stored: targets come from a store.

    Raises:
        UserError: no criterion compares the lattice, its teacher cannot read these labels, or the
            prediction network cannot be run label by label.
    """
    term = next((term for term in terms if term.student_tap == LATTICE), None)
    if term is None or term.weight.is_zero:
        raise UserError(
            "prefix: no criterion with a weight compares the lattice with a teacher's, and there are no "
            "labels for the student's own prefixes: add `{type: transducer}` to the criteria "
            "(`targets: hard` leaves out all of them), or leave out prefix"
        )
    for other in terms:
        if other is not term and other.teacher_tap == LATTICE:
            raise UserError(
                f"prefix: criterion {other.name} needs the teacher's lattice along the transcripts, "
                f"{term.name} that along the student's labels: leave out one of them, or prefix"
            )
    if not predicts_in_steps(model):
        raise UserError(
            f"prefix: the student has {type(model.decoder).__name__} as prediction network: it works with "
            "`decoder: rnn` and `decoder: stateless`"
        )
    if stored:
        refuse_stored("prefix", "lattice")


def write_labels(model: Any, own: OwnPrefix) -> None:
    """Compare a distilled transducer with its teacher along labels that the student writes, in place.

    Raises:
        UserError: as ``check_labels`` and ``readers_of``.
    """
    check_labels(model, model.kd_objective.terms if isinstance(model, TransducerDistillation) else ())
    readers_of(model.kd_objective.teacher, "prefix", "lattice")
    writer = LabelWriter(model, own)
    model.kd_teacher_follows = True
    model.register_forward_pre_hook(lambda module, inputs: writer.renew())
    model.encoder.register_forward_hook(writer.keep)
    model.decoder.register_forward_pre_hook(writer.write)
