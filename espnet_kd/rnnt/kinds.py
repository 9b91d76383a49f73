"""What each kind of distillation computes, together with the RNN-T loss."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs, log_likelihood, posterior
from espnet_kd.rnnt.alignment_kl import ArcGradient, alignment_kl
from espnet_kd.rnnt.compact import CollapsedTargets, PathTargets
from espnet_kd.rnnt.gradient import Gradients, sweep
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice
from espnet_kd.rnnt.loss import transducer_gradient
from espnet_kd.rnnt.path import along_path, sweep_path
from espnet_kd.rnnt.scalar import Method
from espnet_kd.rnnt.soft import Full, Grouped, Soft
from espnet_kd.rnnt.sweep import arc_scores

Kind = Literal["full", "collapsed", "one_best", "occupancy", "alignments"]
Normalize = Literal["nodes", "all_nodes"]
RENAMED = {"full_sum": "alignments"}  # former names of kinds
Weight = float | None


@dataclass(frozen=True)
class Distillation(Method):
    """Options of rnnt_distillation; the teacher is constant."""

    teacher: Joint | CollapsedTargets | PathTargets
    kind: Kind
    weights: tuple[Weight, Weight]
    fastemit: float
    delay: int
    temperature: float
    normalize: Normalize | None
    chunk: int

    def __call__(
        self, student: Joint, lattice: Lattice, share: float, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """See scalar.Method."""
        rnnt_weight, kd_weight = self.weights
        arcs = self._student_arcs(student, lattice)
        hard: Arcs | None = None
        if rnnt_weight is None:
            rnnt = _left_out(student)
        elif gradients is None or not rnnt_weight:
            rnnt = -log_likelihood(arcs[1.0], lattice)
        else:
            rnnt, hard = transducer_gradient(arcs[1.0], lattice, share * rnnt_weight, self.fastemit)
        scale = share * (kd_weight or 0.0)
        kd, soft = self._of_teacher(student, lattice, arcs, scale, gradients if kd_weight else None)
        if gradients is not None and (hard, soft) != (None, None):
            kd = kd + sweep(student, lattice, self.chunk, hard, soft, scale, gradients)
        return rnnt, kd

    def _of_teacher(
        self,
        student: Joint,
        lattice: Lattice,
        arcs: dict[float, Arcs],
        scale: float,
        gradients: Gradients | None,
    ) -> tuple[Tensor, Soft | None]:
        """Value by utterance, (B,), and what a sweep has yet to add to it and to the gradients."""
        if self.weights[1] is None:
            return _left_out(student), None
        if self.kind == "alignments":
            kd, gradient = self._alignments(arcs[self.temperature], lattice, scale)
            return kd, None if gradients is None else gradient
        if self.kind == "one_best":
            assert not isinstance(self.teacher, CollapsedTargets)  # those serve another kind
            path, at_path = along_path(self.teacher, lattice, self.delay, self.temperature, self.chunk)
            at_path = replace(at_path, weights=self._normalized(at_path.weights))
            return sweep_path(student, lattice, path, at_path, self.chunk, scale, gradients), None
        soft = self._at_nodes(lattice)
        if gradients is None:
            return sweep(student, lattice, self.chunk, None, soft, scale, None), None
        return torch.zeros_like(_left_out(student)), soft

    def utterance(self, number: int) -> "Distillation":
        """See scalar.Method."""
        return replace(self, teacher=self.teacher.utterance(number))

    def _student_arcs(self, student: Joint, lattice: Lattice) -> dict[float, Arcs]:
        """Log-probabilities of the student's arcs by temperature, where they are needed."""
        rnnt_weight, kd_weight = self.weights
        needed = set() if rnnt_weight is None else {1.0}
        if kd_weight is not None and self.kind == "alignments":
            needed.add(self.temperature)
        temperatures = tuple(sorted(needed))
        scores = arc_scores(student, lattice, self.chunk, temperatures) if temperatures else []
        return dict(zip(temperatures, scores, strict=True))

    def _alignments(self, arcs: Arcs, lattice: Lattice, scale: float) -> tuple[Tensor, Soft]:
        """Value by utterance, (B,), and the gradient."""
        temperature, delay = self.temperature, self.delay
        kl, gradient = alignment_kl(arcs, self._joint, lattice, delay, temperature, self.chunk)
        factor = torch.full_like(kl, temperature**2)
        if self.normalize is not None:
            nodes = [
                t - delay + u - 1 if t > delay else 0
                for t, u in zip(lattice.frames, lattice.rows, strict=True)
            ]
            factor = factor / self._divisor(torch.tensor(nodes, device=kl.device).to(kl))
        each = (scale * factor).to(arcs.blank)[:, None, None]
        return factor * kl, ArcGradient(Arcs(*(each / temperature * g for g in gradient)), temperature)

    def _at_nodes(self, lattice: Lattice) -> Full | Grouped:
        """The teacher at every node."""
        weights = lattice.real(self.delay).to(self._like)
        if self.kind == "occupancy":
            (arcs,) = arc_scores(self._joint, lattice, self.chunk)
            nodes = posterior(arcs, lattice).nodes
            frames = nodes.shape[1]
            weights = weights * torch.nn.functional.pad(nodes, (0, 0, self.delay, 0))[:, :frames]
        weights = self._normalized(weights)
        if isinstance(self.teacher, CollapsedTargets):
            return Grouped(weights, self.temperature, log_probs=self.teacher.log_probs, delay=self.delay)
        if self.kind == "collapsed":
            return Grouped(weights, self.temperature, teacher=self._joint, delay=self.delay)
        return Full(self._joint, weights, self.delay, self.temperature)

    @property
    def _joint(self) -> Joint:
        """The teacher's joint network, in the kinds that stored targets do not serve."""
        assert isinstance(self.teacher, Joint)
        return self.teacher

    @property
    def _like(self) -> Tensor:
        """A tensor of the teacher, for type and device."""
        return self.teacher.enc if isinstance(self.teacher, Joint) else self.teacher.log_probs

    def _normalized(self, weights: Tensor) -> Tensor:
        """(B, T, U) weights; if nodes are averaged, of sum 1 for every utterance, or on average."""
        if self.normalize is None:
            return weights
        return weights / self._divisor(weights.sum((1, 2)))[:, None, None]

    def _divisor(self, nodes: Tensor) -> Tensor:
        """What the KL of each utterance is divided by, (B,), from its number of nodes, (B,)."""
        if self.normalize == "all_nodes":
            nodes = nodes.mean().expand_as(nodes)
        return nodes.masked_fill(nodes == 0, 1.0)


def _left_out(student: Joint) -> Tensor:
    """(B,) NaN: the value of a term that is not asked for."""
    return torch.full((len(student.enc),), torch.nan, dtype=torch.float64, device=student.enc.device)


def check_kind(kind: str) -> None:
    """Refuse what is no kind.

    Raises:
        ValueError: it is none, or has a new name.
    """
    if kind in RENAMED:
        raise ValueError(f"kind {kind!r} is now named {RENAMED[kind]!r}: write that")
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}: use one of {', '.join(get_args(Kind))}")
