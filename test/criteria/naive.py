"""Compute every criterion plainly, one position at a time, in Python floats without torch. For tests only."""

import itertools
import math


def softmax(logits, temperature):
    powers = [math.exp(x / temperature) for x in logits]
    return [power / sum(powers) for power in powers]


def smoothed(logits, temperature, share):
    return [(1 - share) * p + share / len(logits) for p in softmax(logits, temperature)]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def kl(student, teacher, temperature=1.0, direction="forward", label_smoothing=0.0):
    q, p = softmax(student, temperature), smoothed(teacher, temperature, label_smoothing)
    both = {"forward": divergence(p, q), "reverse": divergence(q, p)}
    both["symmetric"] = (both["forward"] + both["reverse"]) / 2
    return temperature**2 * both[direction]


def matched(student, teacher, inner, delay=None, frames="all", neighbours=1, **options):
    """Return the KL of each position of the teacher that counts, `inner` positions a frame."""
    least, most = (delay or {}).get("min", 0), (delay or {"max": 0})["max"]
    tokens = [row.index(max(row)) != 0 for row in teacher]
    near = {"all": len(teacher), "nonblank": 0, "symmetric": neighbours}[frames]
    values = []
    for i, row in enumerate(teacher):
        around = range(-near, near + 1)
        told = any(tokens[i + k * inner] for k in around if 0 <= i + k * inner < len(teacher))
        later = [student[i + k * inner] for k in range(least, most + 1) if i + k * inner < len(teacher)]
        if (told or frames == "all") and later:
            values.append(min(kl(other, row, **options) for other in later))
    return values


def cross_entropy(student, teacher, temperature=1.0, label_smoothing=0.0):
    q, p = softmax(student, temperature), smoothed(teacher, temperature, label_smoothing)
    return -(temperature**2) * sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def mixed(p, q, share):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def skew_kl(student, teacher, temperature=1.0, alpha=0.1, direction="forward", label_smoothing=0.0):
    q, p = softmax(student, temperature), smoothed(teacher, temperature, label_smoothing)
    first, second = (p, q) if direction == "forward" else (q, p)
    return temperature**2 * divergence(first, mixed(first, second, alpha))


def jsd(student, teacher, temperature=1.0, beta=0.5, label_smoothing=0.0):
    q, p = softmax(student, temperature), smoothed(teacher, temperature, label_smoothing)
    middle = mixed(p, q, beta)
    return temperature**2 * (beta * divergence(p, middle) + (1 - beta) * divergence(q, middle))


def akl(student, teacher, temperature=1.0, head=0.5, label_smoothing=0.0):
    q, p = softmax(student, temperature), smoothed(teacher, temperature, label_smoothing)
    order = sorted(range(len(p)), key=lambda v: -p[v])
    kept = [v for i, v in enumerate(order) if i == 0 or sum(p[u] for u in order[: i + 1]) <= head]
    share = sum(abs(p[v] - q[v]) for v in kept) / sum(abs(a - b) for a, b in zip(p, q, strict=True))
    return temperature**2 * (share * divergence(p, q) + (1 - share) * divergence(q, p))


def decoupled_kl(
    student, teacher, temperature=1.0, target_class="blank", alpha=1.0, beta=1.0, label_smoothing=0.0
):
    q, p = softmax(student, temperature), smoothed(teacher, temperature, label_smoothing)
    t = 0 if target_class == "blank" else p.index(max(p))
    whether = divergence([p[t], 1 - p[t]], [q[t], 1 - q[t]])
    which = divergence(*([x / (1 - y[t]) for v, x in enumerate(y) if v != t] for y in (p, q)))
    return temperature**2 * (alpha * whether + beta * which)


def softmax_l2(student, teacher, temperature=1.0, label_smoothing=0.0):
    q, p = softmax(student, temperature), smoothed(teacher, temperature, label_smoothing)
    return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))


def uld(student, teacher, temperature=1.0, label_smoothing=0.0):
    sides = softmax(student, temperature), smoothed(teacher, temperature, label_smoothing)
    q, p = (sorted(x, reverse=True) for x in sides)
    return sum(abs(a - b) for a, b in itertools.zip_longest(p, q, fillvalue=0.0))


def topk(student, teacher, k, renorm=True, tail="drop", temperature=1.0):
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    order = sorted(range(len(p)), key=lambda v: -p[v])
    kept, rest = order[:k], order[k:]
    mass = sum(p[v] for v in kept) if renorm and tail == "drop" else 1.0
    value = -sum(p[v] / mass * math.log(q[v]) for v in kept)
    if tail == "other" and rest:
        value -= sum(p[v] for v in rest) * math.log(sum(q[v] for v in rest))
    return temperature**2 * value


def hidden(student, teacher, distance="mse", weight=None, bias=None, **_):
    """Compare hidden vectors; weight (D_T, D_S) and bias (D_T) of the projection, None without one."""
    if weight is not None:
        student = [
            offset + sum(w * x for w, x in zip(row, student, strict=True))
            for row, offset in zip(weight, bias, strict=True)
        ]
    if distance == "cosine":
        dot = sum(x * y for x, y in zip(student, teacher, strict=True))
        return 1 - dot / math.sqrt(sum(x * x for x in student) * sum(y * y for y in teacher))
    power = {"mse": 2, "l1": 1}[distance]
    return sum(abs(x - y) ** power for x, y in zip(student, teacher, strict=True)) / len(teacher)


def mvq(student, teacher, weight=None, bias=None, **_):
    """Compare hidden vectors with codes, by a linear layer of 256 outputs for each."""
    outputs = [
        offset + sum(w * x for w, x in zip(row, student, strict=True))
        for row, offset in zip(weight, bias, strict=True)
    ]
    parts = [softmax(outputs[256 * m : 256 * m + 256], 1.0) for m in range(len(teacher))]
    return sum(-math.log(part[int(code)]) for part, code in zip(parts, teacher, strict=True)) / len(teacher)


def frame_weights(teachers, frame_weights="none", weight_power=1.0, guides=(), **_):
    """Compute the frame weights of one utterance; guides are CTC logits with the blank first."""
    if frame_weights == "none":
        return [1.0] * len(teachers)
    if frame_weights == "deviation":
        means = [sum(column) / len(teachers) for column in zip(*teachers, strict=True)]
        teachers = [[y - m for y, m in zip(teacher, means, strict=True)] for teacher in teachers]
    if frame_weights in ("activation", "deviation"):
        raw = [math.sqrt(sum(y * y for y in teacher)) ** weight_power for teacher in teachers]
    else:
        raw = [1 - softmax(guide, 1.0)[0] for guide in guides]
    return [len(raw) * x / sum(raw) if sum(raw) else 1.0 for x in raw]


NAIVE = {
    "kl": kl,
    "cross_entropy": cross_entropy,
    "softmax_l2": softmax_l2,
    "uld": uld,
    "topk": topk,
    "skew_kl": skew_kl,
    "jsd": jsd,
    "akl": akl,
    "decoupled_kl": decoupled_kl,
    "hidden": hidden,
    "mvq": mvq,
}


def reduce(utterances, reduction):
    """Reduce one list of values of the real positions per utterance."""
    total, positions = sum(map(sum, utterances)), sum(map(len, utterances))
    return total / {"mean": positions, "utterance": len(utterances), "sum": 1}[reduction]
