"""Compute the RNN-T loss and the distillation term of each kind (`full`, `collapsed`, ...)."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs, log_likelihood, posterior
from espnet_kd.rnnt.alignment_kl import ArcGradient, alignment_kl
from espnet_kd.rnnt.compact import CollapsedTargets, OneBestTargets
from espnet_kd.rnnt.device import to_device
from espnet_kd.rnnt.gradient import Gradients, sweep
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice
from espnet_kd.rnnt.loss import rnnt_gradient
from espnet_kd.rnnt.path import sweep_alignment, term_on_alignment
from espnet_kd.rnnt.scalar import LatticeTerms
from espnet_kd.rnnt.sequence import Distance, SequenceScores, sequence_distance
from espnet_kd.rnnt.soft import FullKL, GroupedKL, NodeTerm
from espnet_kd.rnnt.sweep import arc_scores

Kind = Literal["full", "collapsed", "one_best", "occupancy", "alignments", "sequence"]
Normalize = Literal["nodes", "all_nodes"]
RENAMED = {"full_sum": "alignments"}  # former names of kinds
Weight = float | None  # None leaves the term out


@dataclass(frozen=True)
class DistillationTerms(LatticeTerms):
    """Compute the RNN-T loss and the distillation term in the same passes over the lattice.

    The attributes are the checked arguments of rnnt_distillation.

    Attributes:
        teacher: joint network or stored targets, without gradient.
        kind: what is compared.
        weights: factors of the RNN-T loss and of the distillation term.
        fastemit: lambda of FastEmit.
        delay: frames by which the student may emit later than the teacher.
        temperature: softmax divisor in the distillation term.
        normalize: how the number of nodes divides the distillation term.
        chunk: nodes whose logits are held at a time.
        distance: of the probabilities of the label sequence, for the kind `sequence`.
        arcs: those of the student at the temperature 1, where they have been computed.
    """

    teacher: Joint | CollapsedTargets | OneBestTargets | SequenceScores
    kind: Kind
    weights: tuple[Weight, Weight]
    fastemit: float
    delay: int
    temperature: float
    normalize: Normalize | None
    chunk: int
    distance: Distance = "l1"
    arcs: Arcs | None = None

    def __call__(
        self, student: Joint, lattice: Lattice, share: float, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """Compute both terms and add their gradients; see scalar.LatticeTerms."""
        if self.kind == "sequence":
            return self._sequence(student, lattice, share, gradients)
        rnnt_weight, kd_weight = self.weights
        arcs = self._student_arcs(student, lattice)
        arc_gradient: Arcs | None = None
        if rnnt_weight is None:
            rnnt = _omitted_term(student)
        elif gradients is None or not rnnt_weight:
            rnnt = -log_likelihood(arcs[1.0], lattice)
        else:
            rnnt, arc_gradient = rnnt_gradient(arcs[1.0], lattice, share * rnnt_weight, self.fastemit)
        scale = share * (kd_weight or 0.0)
        kd, node_term = self._distillation_term(
            student, lattice, arcs, scale, gradients if kd_weight else None
        )
        if gradients is not None and (arc_gradient, node_term) != (None, None):
            kd = kd.sum() + sweep(student, lattice, self.chunk, arc_gradient, node_term, scale, gradients)
        return rnnt, kd

    def _distillation_term(
        self,
        student: Joint,
        lattice: Lattice,
        arcs: dict[float, Arcs],
        scale: float,
        gradients: Gradients | None,
    ) -> tuple[Tensor, NodeTerm | None]:
        """Compute the distillation term.

        Returns:
            The sum of the values, or one per utterance, (B,); and the term that a sweep over the whole
            lattice still has to add to the values and gradients, None if nothing is left to add.
        """
        if self.weights[1] is None:
            return _omitted_term(student), None
        if self.kind == "alignments":
            kd, gradient = self._alignments(arcs[self.temperature], lattice, scale)
            return kd, None if gradients is None else gradient
        if self.kind == "one_best":
            assert isinstance(self.teacher, Joint | OneBestTargets)  # others serve other kinds
            alignment, term = term_on_alignment(
                self.teacher, lattice, self.delay, self.temperature, self.chunk
            )
            term = replace(term, weights=self._normalized(term.weights))
            return sweep_alignment(student, lattice, alignment, term, self.chunk, scale, gradients), None
        node_term = self._node_term(lattice)
        if gradients is None:
            return sweep(student, lattice, self.chunk, None, node_term, scale, None), None
        return torch.zeros_like(_omitted_term(student)), node_term

    def utterance(self, number: int) -> "DistillationTerms":
        """Return the same computation for one utterance, as a batch of one."""
        arcs = None if self.arcs is None else Arcs(*(x[number : number + 1] for x in self.arcs))
        return replace(self, teacher=self.teacher.utterance(number), arcs=arcs)

    def _student_arcs(self, student: Joint, lattice: Lattice) -> dict[float, Arcs]:
        """Compute the log-probabilities of the student's arcs at every temperature that a term needs."""
        rnnt_weight, kd_weight = self.weights
        needed = set() if rnnt_weight is None else {1.0}
        if kd_weight is not None and self.kind == "alignments":
            needed.add(self.temperature)
        temperatures = tuple(sorted(needed))
        if self.arcs is not None and temperatures == (1.0,):
            return {1.0: self.arcs}
        scores = arc_scores(student, lattice, self.chunk, temperatures) if temperatures else []
        return dict(zip(temperatures, scores, strict=True))

    def _sequence(
        self, student: Joint, lattice: Lattice, share: float, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """Compute both terms of the probability of the labels in one forward-backward pass, (B,) each.

        With a teacher's scores of H hypotheses of each utterance the first is (B * H,).
        """
        assert isinstance(self.teacher, SequenceScores)
        rnnt_weight, kd_weight = self.weights
        (arcs,) = arc_scores(student, lattice, self.chunk)
        found = None if gradients is None or not any(self.weights) else posterior(arcs, lattice)
        total = log_likelihood(arcs, lattice) if found is None else found.total
        with torch.enable_grad():
            score = total.detach().requires_grad_()
            theirs = self.teacher.log_probs.to(score)
            kd = sequence_distance(score.view(theirs.shape), theirs, self.distance)
            (slope,) = torch.autograd.grad(kd.sum(), score)
        if found is not None and gradients is not None:
            by_rnnt = -share * (rnnt_weight or 0.0)
            by_kd = (share * (kd_weight or 0.0) * slope).to(arcs.blank)[:, None, None]
            faster = by_kd + by_rnnt * (1.0 + self.fastemit)
            arc_gradient = Arcs((by_kd + by_rnnt) * found.arcs.blank, faster * found.arcs.label)
            sweep(student, lattice, self.chunk, arc_gradient, None, 0.0, gradients)
        left_out = _omitted_term(student)
        return left_out if rnnt_weight is None else -total, left_out if kd_weight is None else kd.detach()

    def _alignments(self, arcs: Arcs, lattice: Lattice, scale: float) -> tuple[Tensor, NodeTerm]:
        """Compute the KL between distributions over alignments: (B,) values, and their gradient."""
        temperature, delay = self.temperature, self.delay
        kl, gradient = alignment_kl(arcs, self._joint, lattice, delay, temperature, self.chunk)
        factor = torch.full_like(kl, temperature**2)
        if self.normalize is not None:
            nodes = [
                t - delay + u - 1 if t > delay else 0
                for t, u in zip(lattice.frames, lattice.rows, strict=True)
            ]
            factor = factor / self._divisor(to_device(nodes, kl.device).to(kl))
        each = (scale * factor).to(arcs.blank)[:, None, None]
        return factor * kl, ArcGradient(Arcs(*(each / temperature * g for g in gradient)), temperature)

    def _node_term(self, lattice: Lattice) -> FullKL | GroupedKL:
        """Make the KL term that is summed over the nodes of the whole lattice."""
        weights = lattice.real(self.delay).to(self._like)
        if self.kind == "occupancy":
            (arcs,) = arc_scores(self._joint, lattice, self.chunk)
            nodes = posterior(arcs, lattice).nodes
            frames = nodes.shape[1]
            weights = weights * torch.nn.functional.pad(nodes, (0, 0, self.delay, 0))[:, :frames]
        weights = self._normalized(weights)
        if isinstance(self.teacher, CollapsedTargets):
            return GroupedKL(weights, self.temperature, log_probs=self.teacher.log_probs, delay=self.delay)
        if self.kind == "collapsed":
            return GroupedKL(weights, self.temperature, teacher=self._joint, delay=self.delay)
        return FullKL(self._joint, weights, self.delay, self.temperature)

    @property
    def _joint(self) -> Joint:
        """The teacher's joint network, for the kinds that stored targets do not serve."""
        assert isinstance(self.teacher, Joint)
        return self.teacher

    @property
    def _like(self) -> Tensor:
        """Return a tensor that has the teacher's dtype and device."""
        return self.teacher.enc if isinstance(self.teacher, Joint) else self.teacher.log_probs

    def _normalized(self, weights: Tensor) -> Tensor:
        """Divide (B, T, U) weights of nodes as the option `normalize` asks.

        With `nodes` the weights of every utterance sum to 1, with `all_nodes` they do so on average.
        """
        if self.normalize is None:
            return weights
        return weights / self._divisor(weights.sum((1, 2)))[:, None, None]

    def _divisor(self, nodes: Tensor) -> Tensor:
        """Return the divisor of each utterance's KL, (B,), from its number of nodes, (B,)."""
        if self.normalize == "all_nodes":
            nodes = nodes.mean().expand_as(nodes)
        return nodes.masked_fill(nodes == 0, 1.0)


def _omitted_term(student: Joint) -> Tensor:
    """Return (B,) NaN, the value of a term that is left out."""
    return torch.full((len(student.enc),), torch.nan, dtype=torch.float64, device=student.enc.device)


def check_kind(kind: str) -> None:
    """Check the name of a kind.

    Raises:
        ValueError: the kind is unknown, or has been renamed.
    """
    if kind in RENAMED:
        raise ValueError(f"kind {kind!r} is now named {RENAMED[kind]!r}: write the new name")
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}: use one of {', '.join(get_args(Kind))}")
