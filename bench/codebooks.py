"""Reconstruction error and bytes of codes by the number of codebooks, and the time of a criterion on them.

``STORE=DIR python -m bench codebooks`` quantises the hidden vectors of a store; without it they are the
encoder output of a model with random weights, for noise, whose errors say little about a trained model's.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.report import table, verdict
from bench.speech_model import ModelSize, batch, build
from bench.timing import interleaved, ratio
from espnet_kd.criteria import Criterion, build_criterion
from espnet_kd.targets.quantiser import train_quantiser
from espnet_kd.targets.store import Store

STORE = os.environ.get("STORE")
CODEBOOKS = (1, 2, 4, 8)
FRAMES, HELD_OUT = 24_000, 10  # vectors at most; one of ten is not trained on
FRAMES_PER_SECOND = 50  # of Whisper, HuBERT and wav2vec 2.0
STEP = (16, 400, 256)  # utterances, frames and features of a student
ROUNDS = 10


def main() -> bool:
    """Print errors, sizes and times; return True if the errors are at most 1.05 times those of k-means."""
    vectors = stored_vectors(Path(STORE)) if STORE else vectors_of_noise()
    unseen, trained = vectors[::HELD_OUT], vectors[torch.arange(len(vectors)) % HELD_OUT > 0]
    rows, verdicts = [], []
    features = vectors.shape[1]
    for number in CODEBOOKS:
        ours = train_quantiser(trained, number).error(unseen)
        plain = residual_k_means(trained, unseen, number)
        megabytes = number * FRAMES_PER_SECOND * 3600 / 1e6
        rows.append([str(number), f"{100 * ours:.1f}", f"{100 * plain:.1f}", f"{megabytes:.2f}"])
        verdicts.append(verdict(f"{number} codebooks: error / residual k-means", ours / plain, at_most=1.05))
    raw = 2 * features * FRAMES_PER_SECOND * 3600 / 1e6
    counts = f"{len(trained)} vectors of {features} features to train, {len(unseen)} to test"
    print(f"{counts}, {STORE or 'of noise'}\n")
    head = ["codebooks", "variance lost, %", "residual k-means, %", f"MB an hour at {FRAMES_PER_SECOND} Hz"]
    print(table(head, [*rows, ["float16 vectors", "0.0", "", f"{raw:.0f}"]]) + "\n")
    print_times(features)
    print("\n".join(line for line, _ in verdicts))
    return all(met for _, met in verdicts)


def stored_vectors(directory: Path) -> Tensor:
    """Read hidden vectors, (N, D), of the first layer of a store."""
    store = Store(directory)
    tap = next(iter(store.manifest.taps))
    found: list[Tensor] = []
    for shard in store.manifest.shards:
        for utt in store.entries(shard):
            rows = store.read(utt, [tap]).rows[tap]
            found.append(torch.from_numpy(rows["values"].astype(np.float32)))
            if sum(map(len, found)) >= FRAMES:
                return torch.cat(found)[:FRAMES]
    return torch.cat(found)


def vectors_of_noise() -> Tensor:
    """Compute the encoder output, (N, D), of a model with random weights."""
    torch.manual_seed(0)
    model, found = build(ModelSize(3, 64)).eval(), []
    with torch.no_grad():
        for _ in range(10):
            data = batch(8, 4.0)
            found.append(model.encode(data["speech"], data["speech_lengths"])[0].flatten(0, 1))
    return torch.cat(found)


def residual_k_means(trained: Tensor, unseen: Tensor, number: int) -> float:
    """Return the variance that residual k-means of scikit-learn loses, on vectors it has not seen."""
    from sklearn.cluster import KMeans

    mean = trained.mean(0)
    left, rest = (trained - mean).numpy(), (unseen - mean).numpy()
    total = float((rest**2).sum())
    for seed in range(number):
        found = KMeans(256, n_init=1, max_iter=10, random_state=seed).fit(left)
        left = left - found.cluster_centers_[found.predict(left)]
        rest = rest - found.cluster_centers_[found.predict(rest)]
    return float((rest**2).sum()) / total


def print_times(features: int) -> None:
    """Print the time of criteria, forward and backward, on codes and on vectors."""
    utterances, frames, size = STEP
    mask = torch.ones(utterances, frames, dtype=torch.bool)
    student = torch.randn(*STEP)
    number = CODEBOOKS[-1]
    codes = torch.randint(256, (utterances, frames, number)).float()
    variants = {
        "codes": step(build_criterion("mvq", student_dim=size, teacher_dim=number), student, codes, mask),
        "vectors": step(
            build_criterion("hidden", student_dim=size, teacher_dim=features),
            student, torch.randn(utterances, frames, features), mask,
        ),
    }  # fmt: skip
    timings = interleaved(variants, ROUNDS)
    print(f"criterion of a step of {utterances} x {frames} frames, {size} features, {number} codebooks\n")
    head = ["criterion on", "ms", "least", "most"]
    print(table(head, [[name, *timing.cells()] for name, timing in timings.items()]))
    print(f"\ncodes / vectors: {ratio(timings['codes'], [timings['vectors']]):.2f}\n")


def step(criterion: Criterion, student: Tensor, target: Tensor, mask: Tensor) -> Callable[[], object]:
    """Return a function that computes a criterion and its gradients."""

    def run() -> None:
        values = student.clone().requires_grad_()
        criterion(values, target, mask).backward()

    return run
