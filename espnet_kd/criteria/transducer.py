"""Criteria on the lattice of a transducer; espnet_kd.rnnt computes them in bounded memory."""

from typing import Literal, NamedTuple

from torch import Tensor

from espnet_kd.criteria.criterion import Criterion, Reduction, check_choice, check_positive, check_size
from espnet_kd.rnnt import CollapsedTargets, Joint, LatticeLoss, OneBestTargets, rnnt_distillation
from espnet_kd.rnnt.kinds import RENAMED, Kind, check_kind

PerNodes = Literal["nodes"]


class Transcript(NamedTuple):
    """Labels and lengths, which decide which nodes of a lattice are real; takes the place of a mask.

    Attributes:
        labels: (B, L) integers without the blank; padding may hold anything.
        enc_lens: (B,) number of frames.
        label_lens: (B,) number of labels.
    """

    labels: Tensor
    enc_lens: Tensor
    label_lens: Tensor


class TransducerKL(Criterion):
    """Pull the student's lattice towards the teacher's, both computed along the same labels.

    Args:
        kind: what is compared. `full`: all classes at every node; `collapsed`: three classes at every node,
            next label, blank and all others; `one_best`: all classes at the nodes of the teacher's best
            alignment; `occupancy`: all classes, nodes weighted by the teacher's posterior; `alignments`: the
            distributions over the alignments of the labels (formerly named full_sum).
        temperature: T > 0; the value is multiplied by T^2.
        delay: frames by which the student may emit later than the teacher.
        blank: index of the blank.
        chunk: nodes whose logits are in memory at a time; the default suits the device.
        reduction: see Criterion; positions are the nodes that are compared. `utterance`, the sum over the
            thousands of nodes of an utterance, needs weights of 0.001 to 0.01, `mean` weights of about 1. A
            wrong pairing of the two is the usual reason why distillation of transducers does not work.
        normalize: `nodes` divides an utterance's sum by its number of nodes before the reduction, which is
            `utterance` or `sum`; it needs weights of about 1.

    Source:
        Hwang et al. 2022, arXiv:2210.05793; collapsed: Panchapagesan et al. 2021, arXiv:2011.06110;
        alignments: L_soft of Chang et al. 2023, arXiv:2312.10087.
    """

    needs = "lattice"

    def __init__(
        self,
        kind: Kind = "full",
        temperature: float = 1.0,
        delay: int = 0,
        blank: int = 0,
        chunk: int | None = None,
        reduction: Reduction = "utterance",
        normalize: PerNodes | None = None,
    ) -> None:
        super().__init__(reduction)
        if kind in RENAMED:
            check_kind(kind)
        self.kind: Kind = check_choice("kind", kind, Kind)
        self.temperature: float = check_positive("temperature", temperature)
        if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
            raise ValueError(f"delay is {delay!r}: give a number of frames, an integer of at least 0")
        self.delay, self.blank = delay, blank
        self.chunk = None if chunk is None else check_size("chunk", chunk)
        self.normalize = None if normalize is None else check_choice("normalize", normalize, PerNodes)
        if self.normalize is not None and reduction == "mean":
            raise ValueError(
                "reduction is 'mean', over all nodes of the batch, which normalize: nodes contradicts: leave "
                "normalize out, or write `reduction: utterance` for the mean of the utterances' means"
            )

    def forward(  # type: ignore[override]  # a lattice is not a tensor
        self, student: Joint, target: Joint | CollapsedTargets | OneBestTargets, mask: Transcript
    ) -> Tensor:
        """Compute the KL alone, a scalar; arguments as of `with_task`."""
        return self.with_task(student, target, mask, rnnt_weight=None, kd_weight=1.0).loss

    def with_task(
        self,
        student: Joint,
        target: Joint | CollapsedTargets | OneBestTargets,
        mask: Transcript,
        rnnt_weight: float | None,
        kd_weight: float | None,
        fastemit: float = 0.0,
    ) -> LatticeLoss:
        """Compute the RNN-T loss, mean over the batch, and this criterion in the same passes.

        Args:
            student: tensors of the student's joint network; receives gradient.
            target: those of the teacher's joint network, or stored targets.
            mask: labels and lengths.
            rnnt_weight, kd_weight: factors; a term of weight 0 has a value but no gradient; None leaves it
                out.
            fastemit: see rnnt_loss.

        Raises:
            ValueError: the two lattices, labels or lengths do not fit each other.
        """
        return rnnt_distillation(
            student,
            target,
            *mask,
            kind=self.kind,
            rnnt_weight=rnnt_weight,
            kd_weight=kd_weight,
            delay=self.delay,
            temperature=self.temperature,
            blank=self.blank,
            fastemit=fastemit,
            reduction="sum" if self.reduction == "sum" else "mean",
            normalize="all_nodes" if self.reduction == "mean" else self.normalize,
            chunk=self.chunk,
        )
