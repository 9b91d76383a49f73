"""Criteria that compare the class distributions of teacher and student, position by position.

Notation: p_T = softmax(teacher / T), q_T = softmax(student / T), T the temperature, sums over the V classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from espnet_kd.criteria.criterion import (
    BLANK,
    Criterion,
    Matches,
    Reduction,
    check_choice,
    check_positive,
    check_share,
    check_size,
    chunk_rows,
    near_misses,
    select,
)
from espnet_kd.rnnt.device import to_device

Direction = Literal["forward", "reverse", "symmetric"]
Frames = Literal["all", "nonblank", "symmetric"]
Tail = Literal["drop", "other"]
LOG_ZERO = -1e4  # nats; replaces log 0; finite, so that 0 log 0 is 0 and not NaN


class TemperatureCriterion(Criterion):
    """Base class of criteria on distributions with a temperature > 0; 1 changes nothing.

    With ``label_smoothing`` e the target is (1 - e) p_T + e / V, as of labels in Szegedy et al. 2016,
    arXiv:1512.00567.
    """

    def __init__(
        self, temperature: float = 1.0, label_smoothing: float = 0.0, reduction: Reduction = "utterance"
    ) -> None:
        super().__init__(reduction)
        self.temperature: float = check_positive("temperature", temperature)
        self.label_smoothing = check_share("label_smoothing", label_smoothing, zero=True)
        if self.label_smoothing:
            reason = "the target is the teacher's distribution mixed with the uniform one"
            self.exempt = {**self.exempt, "zero_at_equality": reason}

    def constant(self, target: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Select the real positions of the target: (N, V) logits of the smoothed distribution, times T."""
        logits = super().constant(target, positions, dtype)
        if not self.label_smoothing:
            return logits
        log_p = (logits / self.temperature).log_softmax(-1)
        uniform = torch.full_like(log_p[..., :1], -math.log(log_p.shape[-1]))
        return self.temperature * log_mixture(uniform, log_p, self.label_smoothing)


class KLDivergence(TemperatureCriterion):
    """Pull the student's distribution towards the teacher's: T^2 KL(p_T || q_T) in nats.

    Args:
        temperature: T > 0. The factor T^2 keeps the size of the gradient independent of T.
        direction: `forward` KL(teacher || student); `reverse` KL(student || teacher), which lets the student
            drop classes; `symmetric`, the mean of the two. The log-probability of a class of logit -inf
            counts as -1e4 nats.
        label_smoothing: e, from 0 to below 1: the target is (1 - e) p_T + e / V, as labels are smoothed in
            training (Szegedy et al. 2016, arXiv:1512.00567).
        delay: for the frames of CTC, {min: A, max: Z}, A = 0 unless given: each frame of the teacher is
            compared with that of the student's A to Z frames later which is most like it. Frames of the
            teacher with no such frame, at the end of an utterance, do not count.
        frames: for CTC, the teacher's frames that count: `all`; `nonblank`, those whose most probable class
            is not the blank; `symmetric`, those and as many as `neighbours` on both sides of each.
        neighbours: for `frames: symmetric`, see there.
        reduction: see Criterion; positions are the frames that count.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2. delay: Li et al. 2025, Delayed-KD, arXiv:2505.22069;
        frames: Hilmes et al. 2025, arXiv:2506.01503. Of both the abstracts were read: that the teacher's
        frame chooses, and which neighbours count, is not verified.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        direction: Direction = "forward",
        label_smoothing: float = 0.0,
        delay: Mapping[str, int] | None = None,
        frames: Frames = "all",
        neighbours: int = 1,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(temperature, label_smoothing, reduction)
        self.direction: Direction = check_choice("direction", direction, Direction)
        self.delay = check_delay(delay)
        self.frames: Frames = check_choice("frames", frames, Frames)
        self.neighbours = check_size("neighbours", neighbours)
        if frames != "symmetric" and neighbours != 1:
            raise ValueError(
                f"neighbours is {neighbours}, but frames is {frames!r}: write `frames: symmetric`, or leave "
                "neighbours out"
            )
        self.by_blank = frames != "all"
        self.of_ctc = self.by_blank or self.delay != (0, 0)

    def matches(self, student: Tensor, target: Tensor, mask: Tensor, positions: Tensor) -> Matches | None:
        """See Criterion; of several equal frames of the student the earliest counts."""
        if not self.of_ctc:
            return None
        count = torch.ones_like(positions, dtype=torch.bool)
        if self.frames != "all":
            near = self.neighbours if self.frames == "symmetric" else 0
            count = near_tokens(target, to_device(mask, student.device), near).flatten()[positions]
        if self.delay == (0, 0):
            return Matches(positions, count)
        step, first = mask[0, 0].numel(), self.delay[0]  # positions of a frame, and the least delay
        least = torch.full_like(positions, torch.inf, dtype=torch.promote_types(student.dtype, torch.float32))
        chosen = positions
        for frames in range(first, min(self.delay[1], mask.shape[1] - 1) + 1):
            real = to_device(later_is_real(mask, frames).flatten(), student.device)[positions]
            ours = torch.where(real, positions + frames * step, positions)
            found = self._distances(student, target, ours, positions)
            found = found.masked_fill(found.isnan(), -torch.inf)  # it is chosen, and so is seen
            found = found.masked_fill(~real, torch.inf)
            chosen = torch.where(found < least, ours, chosen)
            least = torch.minimum(least, found)
        if first:
            reached = to_device(later_is_real(mask, first).flatten(), student.device)[positions]
            count = count & reached
        return Matches(chosen, count)

    @torch.no_grad()
    def _distances(self, student: Tensor, target: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
        """Compare (B, *P, V) at (N,) positions of the student with those of the target, in chunks: (N,)."""
        rows, dtype = chunk_rows(student), torch.promote_types(student.dtype, torch.float32)
        return torch.cat([
            self.per_position(select(student, some, dtype), self.constant(target, others, dtype))
            for some, others in zip(ours.split(rows), theirs.split(rows), strict=True)
        ])  # fmt: skip

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, V) and (N, V) logits -> (N,) nats."""
        log_p = log_probabilities(target, self.temperature)
        log_q = log_probabilities(student, self.temperature)
        if self.direction == "forward":
            weight = log_p.exp()
        elif self.direction == "reverse":
            weight = -log_q.exp()
        else:
            weight = (log_p.exp() - log_q.exp()) / 2
        return self.temperature**2 * (weight * (log_p - log_q)).sum(-1)


class CrossEntropy(TemperatureCriterion):
    """Cross entropy with the teacher's distribution as soft label: -T^2 sum_v p_T(v) log q_T(v), in nats.

    Its gradient is that of the forward KL; its value is larger by T^2 times the teacher's entropy.

    Args:
        temperature: T > 0.
        label_smoothing: e, from 0 to below 1, as of `kl`: the target is (1 - e) p_T + e / V.
        reduction: see Criterion.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2.
    """

    exempt = {"zero_at_equality": "equals the teacher's entropy there; only the gradient is zero"}

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, V) and (N, V) logits -> (N,) nats."""
        p = (target / self.temperature).softmax(-1)
        return -(self.temperature**2) * (p * log_probabilities(student, self.temperature)).sum(-1)


class SoftmaxL2(TemperatureCriterion):
    """Squared distance of the probabilities, sum_v (p_T(v) - q_T(v))^2, between 0 and 2.

    Bounded, unlike KL: CTC spikes that are a frame apart in teacher and student do not dominate the loss.

    Args:
        temperature: T > 0; the value is not multiplied by T^2.
        label_smoothing: e, from 0 to below 1, as of `kl`: the target is (1 - e) p_T + e / V.
        reduction: see Criterion.

    Source:
        Yoon et al. 2020, TutorNet, arXiv:2008.00671, softmax-level distillation.
    """

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, V) and (N, V) logits -> (N,)."""
        p = (target / self.temperature).softmax(-1)
        q = (student / self.temperature).softmax(-1)
        return (p - q).square().sum(-1)


class SortedDistance(TemperatureCriterion):
    """Distance of the sorted probabilities, sum_i |p_T(i) - q_T(i)|, p and q from the largest down.

    It compares how sure teacher and student are, not of what: the classes need not be the same, nor as many;
    those that one side lacks have the probability 0.

    Args:
        temperature: T > 0; the value is not multiplied by T^2.
        label_smoothing: e, from 0 to below 1, as of `kl`: the target is (1 - e) p_T + e / V.
        reduction: see Criterion.

    Source:
        Boizard et al. 2024, arXiv:2402.12030, universal logit distillation, for language models.
    """

    any_classes = True
    exempt = {"same_classes": "it is there for other classes: no number of them is wrong"}

    def check_sizes(self, student: Tensor, target: Tensor) -> None:
        """Accept any numbers of classes."""

    def per_position(self, student: Tensor, target: Tensor) -> Tensor:
        """Compare (N, V) and (N, V') logits -> (N,) between 0 and 2."""
        most = max(student.shape[-1], target.shape[-1])
        p, q = (
            torch.nn.functional.pad(
                (x / self.temperature).softmax(-1).sort(-1, descending=True).values, (0, most - x.shape[-1])
            )
            for x in (target, student)
        )
        return (p - q).abs().sum(-1)


@dataclass(frozen=True)
class TopClasses:
    """The most probable classes at every position, best first.

    Attributes:
        tokens: (B, *P, K) int64.
        log_probs: (B, *P, K) their log-probabilities among all V classes, softened by the temperature.
    """

    tokens: Tensor
    log_probs: Tensor

    @property
    def shape(self) -> torch.Size:
        """Return the shape of tokens and log_probs, (B, *P, K)."""
        return self.log_probs.shape

    def __getitem__(self, key: Any) -> "TopClasses":
        """Select positions or classes, as from a tensor."""
        return TopClasses(self.tokens[key], self.log_probs[key])


class TopK(Criterion):
    """Cross entropy with the teacher's K most probable classes S only: -T^2 sum_{v in S} p(v) log q_T(v).

    The student's q is over all V classes. With K = V it is `cross_entropy`.

    Args:
        k: K, from 1 to V.
        renorm: whether p is divided by its sum over S, so that it sums to 1; no effect with `tail: other`.
        tail: what becomes of the classes outside S: `drop` ignores them; `other` merges them to one more
            class.
        temperature: T > 0.
        reduction: see Criterion.

    Source:
        Yang et al. 2019, arXiv:1906.10834; there the positions are frames of a hybrid acoustic model, here
        CTC frames or decoder steps. Renormalisation, K, T and the tail are not verified against the paper.
    """

    exempt = {"zero_at_equality": "as CrossEntropy; if classes are dropped, equality is not the minimum"}

    def __init__(
        self,
        k: int = 8,
        renorm: bool = True,
        tail: Tail = "drop",
        temperature: float = 1.0,
        reduction: Reduction = "utterance",
    ) -> None:
        super().__init__(reduction)
        self.k: int = check_size("k", k)
        if not isinstance(renorm, bool):
            raise ValueError(f"renorm is {renorm!r}: give true or false")
        self.renorm = renorm
        self.tail: Tail = check_choice("tail", tail, Tail)
        self.temperature: float = check_positive("temperature", temperature)

    def check_sizes(self, student: Tensor, target: Tensor | TopClasses) -> None:
        """Check the last axes; a target of TopClasses must have at least k classes.

        Raises:
            ValueError: there are fewer than k classes, or the vocabularies differ.
        """
        if isinstance(target, Tensor):
            super().check_sizes(student, target)
        sizes = f"student {tuple(student.shape)} and target {tuple(target.shape)}"
        if self.k > min(student.shape[-1], target.shape[-1]):
            raise ValueError(f"k is {self.k}, but {sizes} have fewer classes (last axis): make k smaller")

    def constant(  # type: ignore[override]  # takes stored classes, or logits
        self, target: Tensor | TopClasses, positions: Tensor, dtype: torch.dtype
    ) -> TopClasses:
        """Select the real positions of the target, and its k most probable classes: (N, K)."""
        if isinstance(target, Tensor):
            return top_classes(super().constant(target, positions, dtype), self.k, self.temperature)
        kept = target[..., : self.k]
        log_probs = select(kept.log_probs.detach(), positions, dtype)
        return TopClasses(select(kept.tokens, positions, torch.int64), log_probs)

    def per_position(self, student: Tensor, target: TopClasses) -> Tensor:  # type: ignore[override]
        """Compare (N, V) logits with (N, K) classes -> (N,) nats."""
        log_q = log_probabilities(student, self.temperature)
        p = target.log_probs.softmax(-1) if self.renorm and self.tail == "drop" else target.log_probs.exp()
        entropy = -(p * log_q.gather(-1, target.tokens)).sum(-1)
        if self.tail == "other" and target.tokens.shape[-1] < log_q.shape[-1]:
            # If there are no other classes, 1 - sum(p) is a rounding error, which LOG_ZERO would multiply.
            # The student's other classes are summed up, since 1 - sum over S is 0 in float32 if q is peaked.
            rest = log_q.scatter(-1, target.tokens, LOG_ZERO).logsumexp(-1)
            entropy = entropy - (1 - p.sum(-1)).clamp(min=0) * rest
        return self.temperature**2 * entropy


def top_classes(logits: Tensor, k: int, temperature: float = 1.0) -> TopClasses:
    """Find the k most probable classes of softmax(logits / temperature), for (*, V) logits."""
    found = log_probabilities(logits, temperature).topk(k)
    return TopClasses(found.indices, found.values)


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Compute the log-softmax of (N, V) logits / temperature; LOG_ZERO for a class with logit -inf."""
    log = (logits / temperature).log_softmax(-1)
    return log.masked_fill(log == -math.inf, LOG_ZERO)


def log_mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Return log(share * exp(first) + (1 - share) * exp(second)), all of (N, V) or (N, 1)."""
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))


def near_tokens(logits: Tensor, mask: Tensor, neighbours: int) -> Tensor:
    """Find the frames of CTC whose most probable class is a token, and those next to them.

    Args:
        logits: (B, T, *P, V).
        mask: (B, T, *P) bool, True where the frame is real; on the logits' device.
        neighbours: frames on each side that are taken, too.

    Returns:
        (B, T, *P) bool.
    """
    tokens = (logits.detach().argmax(-1) != BLANK) & mask
    near = tokens.clone()
    for frames in range(1, min(neighbours, mask.shape[1] - 1) + 1):
        near[:, frames:] |= tokens[:, :-frames]
        near[:, :-frames] |= tokens[:, frames:]
    return near


def later_is_real(mask: Tensor, frames: int) -> Tensor:
    """Return where the position so many frames later is real, for a (B, T, *P) mask."""
    later = torch.zeros_like(mask)
    later[:, : max(0, mask.shape[1] - frames)] = mask[:, frames:]
    return later


def check_delay(delay: object) -> tuple[int, int]:
    """Return the least and the largest delay of the option `delay`, in frames; (0, 0) for None.

    Raises:
        ValueError: it is not a mapping of `max`, and perhaps `min`, to whole numbers in this order.
    """
    if delay is None:
        return 0, 0
    if not isinstance(delay, Mapping) or "max" not in delay:
        raise ValueError(f"delay is {delay!r}: give the frames that the student may be late, as {{max: 4}}")
    for name in delay:
        if name not in ("min", "max"):
            raise ValueError(f"delay has the key {name!r}; {near_misses(name, ('min', 'max'))}")
    least, most = delay.get("min", 0), delay["max"]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (least, most))
    if not whole or not 0 <= least <= most:
        raise ValueError(f"delay is {dict(delay)!r}: give whole numbers of frames, 0 <= min <= max")
    return least, most
