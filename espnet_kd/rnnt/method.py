"""What each kind of distillation computes, together with the RNN-T loss."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Arcs, posterior
from espnet_kd.rnnt.full_sum import ArcGradient, full_sum
from espnet_kd.rnnt.gradient import Gradients, sweep
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.lattice import Lattice
from espnet_kd.rnnt.loss import transducer_gradient
from espnet_kd.rnnt.path import along_path, sweep_path
from espnet_kd.rnnt.soft import Full, Grouped, Soft
from espnet_kd.rnnt.stored import CollapsedTargets, PathTargets
from espnet_kd.rnnt.sweep import arc_scores

Kind = Literal["full", "collapsed", "one_best", "occupancy", "full_sum"]


@dataclass(frozen=True)
class Distillation:
    """Options of rnnt_distillation; the teacher is constant."""

    teacher: Joint | CollapsedTargets | PathTargets
    kind: Kind
    weights: tuple[float, float]
    fastemit: float
    delay: int
    temperature: float
    by_nodes: bool
    chunk: int

    def __call__(
        self, student: Joint, lattice: Lattice, share: float, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """See scalar.Method."""
        rnnt_weight, kd_weight = self.weights
        arcs = self._student_arcs(student, lattice)
        rnnt = kd = torch.zeros(lattice.shape[0], dtype=torch.float64, device=student.enc.device)
        hard: Arcs | None = None
        soft: Soft | None = None
        if rnnt_weight:
            rnnt, hard = transducer_gradient(arcs[1.0], lattice, share * rnnt_weight, self.fastemit)
        scale = share * kd_weight
        if not kd_weight:
            pass
        elif self.kind == "full_sum":
            kd, soft = self._full_sum(arcs[self.temperature], lattice, scale)
        elif self.kind == "one_best":
            path, at_path = along_path(self.teacher, lattice, self.delay, self.temperature, self.chunk)
            at_path = replace(at_path, weights=self._normalized(at_path.weights))
            kd = sweep_path(student, lattice, path, at_path, self.chunk, scale, gradients)
        else:
            soft = self._at_nodes(lattice)
        if (gradients is not None and (hard, soft) != (None, None)) or isinstance(soft, Full | Grouped):
            kd = kd + sweep(student, lattice, self.chunk, hard, soft, scale, gradients)
        return rnnt, kd

    def utterance(self, number: int) -> "Distillation":
        """See scalar.Method."""
        return replace(self, teacher=self.teacher.utterance(number))

    def _student_arcs(self, student: Joint, lattice: Lattice) -> dict[float, Arcs]:
        """Log-probabilities of the student's arcs by temperature, where they are needed."""
        rnnt_weight, kd_weight = self.weights
        needed = {1.0} if rnnt_weight else set()
        if kd_weight and self.kind == "full_sum":
            needed.add(self.temperature)
        temperatures = tuple(sorted(needed))
        scores = arc_scores(student, lattice, self.chunk, temperatures) if temperatures else []
        return dict(zip(temperatures, scores, strict=True))

    def _full_sum(self, arcs: Arcs, lattice: Lattice, scale: float) -> tuple[Tensor, Soft]:
        """Value by utterance, (B,), and the gradient."""
        temperature, delay = self.temperature, self.delay
        kl, gradient = full_sum(arcs, self.teacher, lattice, delay, temperature, self.chunk)
        factor = torch.full_like(kl, temperature**2)
        if self.by_nodes:
            nodes = [t + u - 1 - delay for t, u in zip(lattice.frames, lattice.rows, strict=True)]
            factor = factor / torch.tensor(nodes, device=kl.device).clamp(min=1)
        each = (scale * factor).to(arcs.blank)[:, None, None]
        return factor * kl, ArcGradient(Arcs(*(each / temperature * g for g in gradient)), temperature)

    def _at_nodes(self, lattice: Lattice) -> Full | Grouped:
        """The teacher at every node."""
        weights = lattice.real(self.delay).to(self._like)
        if self.kind == "occupancy":
            (arcs,) = arc_scores(self.teacher, lattice, self.chunk)
            nodes = posterior(arcs, lattice).nodes
            frames = nodes.shape[1]
            weights = weights * torch.nn.functional.pad(nodes, (0, 0, self.delay, 0))[:, :frames]
        weights = self._normalized(weights)
        if isinstance(self.teacher, CollapsedTargets):
            return Grouped(weights, self.temperature, log_probs=self.teacher.log_probs, delay=self.delay)
        if self.kind == "collapsed":
            return Grouped(weights, self.temperature, teacher=self.teacher, delay=self.delay)
        return Full(self.teacher, weights, self.delay, self.temperature)

    @property
    def _like(self) -> Tensor:
        """A tensor of the teacher, for type and device."""
        return self.teacher.enc if isinstance(self.teacher, Joint) else self.teacher.log_probs

    def _normalized(self, weights: Tensor) -> Tensor:
        """(B, T, U) weights, of sum 1 for every utterance if nodes are averaged."""
        if not self.by_nodes:
            return weights
        return weights / weights.sum((1, 2), keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
