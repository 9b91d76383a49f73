"""Criteria on the lattice of a transducer; espnet_kd.rnnt computes them in bounded memory."""

from typing import Literal

from torch import Tensor

from espnet_kd.criteria.criterion import Criterion, Reduction, check_choice, check_positive, check_size
from espnet_kd.criteria.sequence import Transcript
from espnet_kd.rnnt import (
    CollapsedTargets,
    Joint,
    LatticeLoss,
    OneBestTargets,
    SequenceScores,
    rnnt_distillation,
)
from espnet_kd.rnnt.kinds import RENAMED, Kind, check_kind
from espnet_kd.rnnt.sequence import Distance

Target = Joint | CollapsedTargets | OneBestTargets | SequenceScores
PerNodes = Literal["nodes"]


class TransducerKL(Criterion):
    """Pull the student's lattice towards the teacher's, both computed along the same labels.

    Args:
        kind: what is compared. `full`: all classes at every node; `collapsed`: three classes at every node,
            next label, blank and all others; `one_best`: all classes at the nodes of the teacher's best
            alignment; `occupancy`: all classes, nodes weighted by the teacher's posterior; `alignments`: the
            distributions over the alignments of the labels (formerly named full_sum); `sequence`: the
            probability of the labels, summed over all alignments, for which teacher and student may have
            other frame rates and subsampling, and the teacher may be a CTC model.
        temperature: T > 0; the value is multiplied by T^2. Not for `sequence`.
        delay: frames by which the student may emit later than the teacher. Not for `sequence`.
        blank: index of the blank.
        chunk: nodes whose logits are in memory at a time; the default suits the device.
        reduction: see Criterion; positions are the nodes that are compared. `utterance`, the sum over the
            thousands of nodes of an utterance, needs weights of 0.001 to 0.01, `mean` weights of 1 to 10. A
            weight that does not suit the reduction is the usual reason why distillation of transducers does
            not help.
        normalize: `nodes` divides an utterance's sum by its number of nodes before the reduction, which is
            `utterance` or `sum`; it needs weights of 1 to 10. Not for `sequence`, where an utterance is one
            position.
        distance: for `sequence`: `l1`, the absolute difference of the log-probabilities, in nats; `mse`, its
            square.

    Source:
        Hwang et al. 2022, arXiv:2210.05793; collapsed: Panchapagesan et al. 2021, arXiv:2011.06110;
        alignments: L_soft of Chang et al. 2023, arXiv:2312.10087; sequence: full-sum distillation of
        Zeineldeen et al. 2023, arXiv:2303.05958, by its abstract; the paper's distance is not verified.
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
        distance: Distance = "l1",
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
        self.distance: Distance = check_choice("distance", distance, Distance)
        if kind == "sequence":
            _check_sequence(temperature, delay, normalize)
        elif distance != "l1":
            raise ValueError(
                f"distance is {distance!r}, but kind: {kind} compares nodes by their KL: write "
                "`kind: sequence`, or leave distance out"
            )

    def forward(  # type: ignore[override]  # a lattice is not a tensor
        self, student: Joint, target: Target, mask: Transcript
    ) -> Tensor:
        """Compute the criterion alone, a scalar; arguments as of `with_task`.

        Of the kind `sequence`, the target may have scores (B, H) of H hypotheses: then the transcript has
        labels (B, H, L) and lengths (B, H), and the student is a batch of B * H, hypothesis by hypothesis.
        """
        if isinstance(target, SequenceScores) and target.log_probs.dim() == 2:
            return self._of_hypotheses(student, target, mask)
        return self.with_task(student, target, mask, rnnt_weight=None, kd_weight=1.0).loss

    def with_task(
        self,
        student: Joint,
        target: Target,
        mask: Transcript,
        rnnt_weight: float | None,
        kd_weight: float | None,
        fastemit: float = 0.0,
        known: CollapsedTargets | None = None,
    ) -> LatticeLoss:
        """Compute the RNN-T loss, mean over the batch, and this criterion in the same passes.

        Args:
            student: tensors of the student's joint network; receives gradient.
            target: those of the teacher's joint network, or stored targets.
            mask: labels and lengths.
            rnnt_weight, kd_weight: factors; a term of weight 0 has a value but no gradient; None leaves it
                out.
            fastemit: see rnnt_loss.
            known: see rnnt_distillation.

        Raises:
            ValueError: the two lattices, labels or lengths do not fit each other.
        """
        by_sequence = self.kind == "sequence"
        count = len(student.enc) if self.reduction == "sum" else 1  # the RNN-T loss stays a mean
        found = rnnt_distillation(
            student,
            target,
            *mask,
            kind=self.kind,
            rnnt_weight=rnnt_weight,
            kd_weight=None if kd_weight is None else kd_weight * count,
            delay=self.delay,
            temperature=self.temperature,
            blank=self.blank,
            fastemit=fastemit,
            normalize="all_nodes" if self.reduction == "mean" and not by_sequence else self.normalize,
            chunk=self.chunk,
            distance=self.distance,
            known=known,
        )
        return found._replace(kd=count * found.kd)

    def _of_hypotheses(self, student: Joint, target: SequenceScores, mask: Transcript) -> Tensor:
        """Compare the posteriors of student and teacher over the hypotheses of each utterance."""
        count = target.log_probs.shape[1]
        enc_lens = mask.enc_lens.repeat_interleave(count)
        lists = Transcript(mask.labels.flatten(0, 1), enc_lens, mask.label_lens.flatten())
        by_sum = self.reduction == "sum"
        return rnnt_distillation(
            student,
            target,
            *lists,
            kind="sequence",
            rnnt_weight=None,
            kd_weight=1.0 if by_sum else float(count),  # the mean is over all hypotheses
            blank=self.blank,
            reduction="sum" if by_sum else "mean",
            chunk=self.chunk,
            distance=self.distance,
        ).loss


def _check_sequence(temperature: float, delay: int, normalize: str | None) -> None:
    """Refuse options that the kind `sequence` does not have.

    Raises:
        ValueError: one is set.
    """
    for name, value, plain in (
        ("temperature", temperature, 1), ("delay", delay, 0), ("normalize", normalize, None)
    ):  # fmt: skip
        if value != plain:
            raise ValueError(
                f"{name} is {value!r}, but kind: sequence compares whole label sequences, without nodes and "
                f"temperatures: leave {name} out"
            )
