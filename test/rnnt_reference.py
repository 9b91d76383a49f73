"""Compute plainly what espnet_kd.rnnt computes: whole lattices, lists, loops, autograd. For tests only.

One utterance at a time, cut to its real nodes: T and U are its own frames and rows, y its list of labels.
"""

from collections.abc import Iterator
from itertools import combinations, product

import torch
from torch import Tensor

from espnet_kd.rnnt.alignment import Alignment
from espnet_kd.rnnt.compact import CollapsedTargets, OneBestTargets
from espnet_kd.rnnt.joint import Joint
from espnet_kd.rnnt.scalar import LatticeLoss

# By node (t, u): weight; membership of classes in groups, (G, V) bool; log-probabilities of groups, (G,).
Targets = dict[tuple[int, int], tuple[float, Tensor, Tensor]]
ACTIVATIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "identity": torch.clone}
REDUCE = {"mean": torch.mean, "sum": torch.sum, "none": torch.clone}


def rnnt_loss(joint, labels, enc_lens, label_lens, *, blank=0, fastemit=0.0, reduction="mean") -> Tensor:
    """Compute espnet_kd.rnnt.rnnt_loss, a scalar or (B,), from the same arguments."""
    each = []
    for b, t, y in utterances(labels, enc_lens, label_lens):
        log_probs = logits_of(joint, b, t, y).log_softmax(-1)
        by_blank, by_label = log_probs[:, :, blank], log_probs[:, range(len(y)), y]  # (T, U), (T, L)
        faster = by_label + fastemit * (by_label - by_label.detach())  # the same value, a steeper slope
        each.append(-log_likelihood(by_blank, faster))
    return REDUCE[reduction](torch.stack(each))


def rnnt_distillation(
    student, teacher, labels, enc_lens, label_lens, *, kind, rnnt_weight, kd_weight,
    delay=0, temperature=1.0, blank=0, fastemit=0.0, reduction="mean", normalize=None,
) -> LatticeLoss:  # fmt: skip
    """Compute espnet_kd.rnnt.rnnt_distillation, scalars or (B,), from the same arguments."""
    lattice, options = (labels, enc_lens, label_lens), {"temperature": temperature, "blank": blank}
    rnnt, kd = torch.full((2, len(labels)), torch.nan, dtype=student.enc.dtype)
    if rnnt_weight is not None:
        rnnt = rnnt_loss(student, *lattice, blank=blank, fastemit=fastemit, reduction="none")
    if kd_weight is not None:
        if isinstance(teacher, Joint) and kind == "collapsed":
            teacher = collapsed_targets(teacher, *lattice, **options)
        elif isinstance(teacher, Joint) and kind == "one_best":
            teacher = one_best_targets(teacher, *lattice, k=teacher.classes, renorm=False, **options)
        terms, counts = [], []
        for b, t, y in utterances(*lattice):
            log_q = (logits_of(student, b, t, y) / temperature).log_softmax(-1)
            if kind == "alignments":
                log_p = (logits_of(teacher, b, t, y).detach() / temperature).log_softmax(-1)
                kl, nodes = alignment_kl(log_q, log_p, y, blank, delay)
            else:
                targets = targets_of(teacher, b, t, y, log_q.shape[-1], kind, **options)
                kl, nodes = at_nodes(log_q, targets, delay)
            terms.append(temperature**2 * kl)
            counts.append(nodes)
        if normalize == "all_nodes":
            counts = [sum(counts) / len(counts)] * len(counts)
        kd = torch.stack([kl / (n if normalize and n else 1.0) for kl, n in zip(terms, counts, strict=True)])
    rnnt, kd = REDUCE[reduction](rnnt), REDUCE[reduction](kd)
    loss = torch.zeros_like(kd).requires_grad_()
    for weight, term in ((rnnt_weight, rnnt), (kd_weight, kd)):
        loss = loss if weight is None else loss + weight * term
    return LatticeLoss(loss, rnnt.detach(), kd.detach())


def collapsed_targets(teacher, *lattice, temperature=1.0, blank=0) -> CollapsedTargets:
    """Compute espnet_kd.rnnt.collapsed_targets, (B, T, U, 3), from the same arguments; padding is 0."""
    log_probs = teacher.enc.new_zeros(*teacher.shape, 3)
    for b, t, y in utterances(*lattice):
        log_p = (logits_of(teacher, b, t, y).detach() / temperature).log_softmax(-1)
        for frame, row in product(range(t), range(len(y) + 1)):
            groups = label_blank_rest(y, row, blank, teacher.classes)
            log_probs[b, frame, row] = grouped(log_p[frame, row], groups)
    return CollapsedTargets(log_probs)


def one_best_targets(
    teacher, *lattice, k, temperature=1.0, blank=0, tail="drop", renorm=True
) -> OneBestTargets:
    """Compute espnet_kd.rnnt.one_best_targets, (B, P, k), from the same arguments; padding is 0."""
    lengths = tuple(t + len(y) for _, t, y in utterances(*lattice))
    frames, rows = torch.zeros(2, len(lengths), max(lengths), dtype=torch.long)
    tokens = torch.zeros(*frames.shape, k, dtype=torch.long)
    log_probs = teacher.enc.new_zeros(tokens.shape)
    for b, t, y in utterances(*lattice):
        logits = logits_of(teacher, b, t, y).detach()
        best = alignments(t, y, blank)[alignment_scores(logits.log_softmax(-1), y, blank).argmax()]
        for i, (frame, row, _) in enumerate(best.tolist()):
            log_p = (logits[frame, row] / temperature).log_softmax(-1)
            frames[b, i], rows[b, i] = frame, row
            log_probs[b, i], tokens[b, i] = log_p.topk(k)
    return OneBestTargets(Alignment(frames, rows, lengths), tokens, log_probs, tail, renorm)


def utterances(labels, enc_lens, label_lens) -> Iterator[tuple[int, int, list[int]]]:
    """Yield index, number of frames and labels of each utterance."""
    for b, (t, n) in enumerate(zip(enc_lens.tolist(), label_lens.tolist(), strict=True)):
        yield b, t, labels[b, :n].tolist()


def logits_of(joint: Joint, b: int, t: int, y: list[int]) -> Tensor:
    """Compute the logits of an utterance, (T, U, V)."""
    activation = ACTIVATIONS.get(joint.activation, joint.activation)
    return activation(joint.enc[b, :t, None] + joint.dec[b, : len(y) + 1]) @ joint.weight.T + joint.bias


def log_likelihood(by_blank: Tensor, by_label: Tensor) -> Tensor:
    """Sum over all alignments by Graves's recursion over the arcs, (T, U) of blanks and (T, L) of labels."""
    before = {(0, 0): by_blank.new_zeros(())}
    for t, u in list(product(*map(range, by_blank.shape)))[1:]:
        ways = [before[t - 1, u] + by_blank[t - 1, u]] if t else []
        if u:
            ways.append(before[t, u - 1] + by_label[t, u - 1])
        before[t, u] = torch.stack(ways).logsumexp(0)
    return before[len(by_blank) - 1, by_label.shape[1]] + by_blank[-1, -1]


def alignments(t: int, y: list[int], blank: int) -> Tensor:
    """List all alignments, (A, T + L, 3): frame and row of each node, and the class emitted there."""
    ways = []
    for emitting in combinations(range(t + len(y) - 1), len(y)):  # the last step is the blank that ends
        frame, row, way = 0, 0, []
        for step in range(t + len(y)):
            way.append((frame, row, y[row] if step in emitting else blank))
            frame, row = (frame, row + 1) if step in emitting else (frame + 1, row)
        ways.append(way)
    return torch.tensor(ways)


def alignment_scores(log_probs: Tensor, y: list[int], blank: int) -> Tensor:
    """Compute the log-probability of each alignment, (A,), from those of the classes, (T, U, V)."""
    frames, rows, classes = alignments(len(log_probs), y, blank).unbind(-1)
    return log_probs[frames, rows, classes].sum(-1)


def occupancy(logits: Tensor, y: list[int], blank: int) -> Tensor:
    """Compute the probability of passing each node, (T, U), as gradient of the log-likelihood."""
    log_probs = logits.detach().log_softmax(-1)
    with torch.enable_grad():
        arcs = [log_probs[:, :, blank].requires_grad_(), log_probs[:, range(len(y)), y].requires_grad_()]
        by_blank, by_label = torch.autograd.grad(log_likelihood(*arcs), arcs, materialize_grads=True)
    return by_blank + torch.nn.functional.pad(by_label, (0, 1))


def alignment_kl(log_q: Tensor, log_p: Tensor, y: list[int], blank: int, delay: int) -> tuple[Tensor, int]:
    """Compute the KL between two distributions over alignments, and the number of nodes of an alignment."""
    t = len(log_q) - delay
    if t < 1:
        return 0 * log_q.sum(), 0
    p, q = (alignment_scores(x, y, blank).log_softmax(0) for x in (log_p[:t], log_q[delay:]))
    return (p.exp() * (p - q)).sum(), t + len(y)


def at_nodes(log_q: Tensor, targets: Targets, delay: int) -> tuple[Tensor, float]:
    """Compute the weighted sum over nodes of the KL between groups of classes, and the sum of the weights."""
    value, nodes = 0 * log_q.sum(), 0.0
    for (t, u), (weight, groups, log_p) in targets.items():
        if t + delay < len(log_q):
            kept = groups.any(-1)  # with two classes there is no rest, in the last row no label
            p, q = log_p[kept], grouped(log_q[t + delay, u], groups[kept])
            value = value + weight * (p.exp() * (p - q)).sum()
            nodes += weight
    return value, nodes


def targets_of(teacher, b, t, y, classes, kind, temperature, blank) -> Targets:
    """Make the targets of one utterance from a teacher or from stored targets."""
    if isinstance(teacher, OneBestTargets):
        return one_best_groups(teacher, b, classes)
    nodes = list(product(range(t), range(len(y) + 1)))
    if isinstance(teacher, CollapsedTargets):
        groups = {u: label_blank_rest(y, u, blank, classes) for u in range(len(y) + 1)}
        return {(t, u): (1.0, groups[u], teacher.log_probs[b, t, u]) for t, u in nodes}
    logits = logits_of(teacher, b, t, y).detach()
    weights = occupancy(logits, y, blank) if kind == "occupancy" else torch.ones(t, len(y) + 1)
    log_p = (logits / temperature).log_softmax(-1)
    return {n: (weights[n].item(), torch.eye(classes) > 0, log_p[n]) for n in nodes}


def one_best_groups(stored: OneBestTargets, b: int, classes: int) -> Targets:
    """Make groups of one top-k class each and, with the tail `other`, one group of all others."""
    found = {}
    for i in range(stored.alignment.lengths[b]):
        log_p, node = (
            stored.log_probs[b, i],
            (int(stored.alignment.frames[b, i]), int(stored.alignment.rows[b, i])),
        )
        groups = torch.nn.functional.one_hot(stored.tokens[b, i], classes) > 0
        if stored.tail == "other":
            groups = torch.cat([groups, ~groups.any(0, keepdim=True)])
            log_p = torch.cat([log_p, torch.log1p(-log_p.exp().sum()[None])])
        elif stored.renorm:
            log_p = log_p - log_p.logsumexp(0)
        found[node] = (1.0, groups, log_p)
    return found


def label_blank_rest(y: list[int], row: int, blank: int, classes: int) -> Tensor:
    """Return (3, V) bool: the next label of a row, if there is one, the blank, and all others."""
    groups = torch.zeros(3, classes, dtype=torch.bool)
    groups[0, y[row : row + 1]] = groups[1, blank] = True
    groups[2] = ~groups[:2].any(0)
    return groups


def grouped(log_probs: Tensor, groups: Tensor) -> Tensor:
    """Sum (V,) log-probabilities by groups -> (G,), -inf for an empty group."""
    return log_probs.masked_fill(~groups, -torch.inf).logsumexp(-1)
