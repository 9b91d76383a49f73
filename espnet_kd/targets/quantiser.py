"""Quantise hidden vectors by several codebooks: a vector is the mean plus one centroid of each codebook."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from espnet_kd.criteria.codebooks import CENTROIDS
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, fingerprint

ROUNDS = 6  # of training, after k-means
LLOYD_STEPS = 10  # of k-means
HELD_OUT = 10  # one vector of so many judges the rounds, if there are many
SWEEPS = 2  # over the codebooks, in which a vector's codes are chosen anew
RIDGE = 1e-3  # keeps least squares solvable: a constant may move from one codebook to another
CHUNK = 4096  # vectors at a time
TRAINED_ON = {"frames": 50_000, "seed": 0}  # at most; of utterances at random
ARRAYS = ("mean", "centroids")


@dataclass(frozen=True)
class Quantiser:
    """Additive quantiser of vectors of D features by M codebooks of K centroids.

    Attributes:
        mean: (D,) float32.
        centroids: (M, K, D) float32.

    Source:
        Guo et al. 2022, MVQ-KD, arXiv:2211.00508, stores codes of several codebooks; its quantiser is trained
        by gradient descent, this one by alternating minimisation (Babenko and Lempitsky 2014, additive
        quantisation; codes by iterated conditional modes, Martinez et al. 2016).
    """

    mean: Tensor
    centroids: Tensor

    @property
    def codebooks(self) -> int:
        """Return M."""
        return len(self.centroids)

    def to(self, device: torch.device | str) -> "Quantiser":
        """Return the same quantiser on a device."""
        return Quantiser(self.mean.to(device), self.centroids.to(device))

    def encode(self, vectors: Tensor) -> Tensor:
        """Choose a centroid of each codebook for every vector, (N, D) -> (N, M) uint8.

        Codebooks choose one after the other, each for what those before it have left, then again ``SWEEPS``
        times for what all others leave. The codes of a vector do not depend on other vectors.
        """
        chunks = [self._encode(part) for part in vectors.float().split(CHUNK)]
        return torch.cat(chunks) if chunks else torch.zeros(0, self.codebooks, dtype=torch.uint8)

    def _encode(self, vectors: Tensor) -> Tensor:
        left = vectors - self.mean
        norms = self.centroids.square().sum(-1)  # (M, K)
        codes = torch.zeros(len(vectors), self.codebooks, dtype=torch.long, device=vectors.device)
        for sweep in range(1 + SWEEPS):
            for m, centroids in enumerate(self.centroids):
                left = left + centroids[codes[:, m]] if sweep else left
                codes[:, m] = (norms[m] - 2 * left @ centroids.T).argmin(-1)
                left = left - centroids[codes[:, m]]
        return codes.to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Add the centroids of codes, (N, M) -> (N, D)."""
        chosen = [centroids[codes[:, m].long()] for m, centroids in enumerate(self.centroids)]
        return self.mean + torch.stack(chosen).sum(0)

    def error(self, vectors: Tensor) -> float:
        """Return the squared error of quantised vectors, (N, D), relative to their variance."""
        lost = (vectors - self.decode(self.encode(vectors))).square().sum()
        return float(lost / (vectors - self.mean).square().sum().clamp(min=torch.finfo(torch.float32).tiny))

    def write(self, path: Path) -> str:
        """Write the quantiser; return the SHA-256 of the file."""
        arrays = {name: getattr(self, name).cpu().numpy() for name in ARRAYS}
        with atomic_path(path) as temporary, temporary.open("wb") as f:
            np.savez(f, **arrays)
        return fingerprint(path)


def read_quantiser(path: Path, checksum: str | None = None) -> Quantiser:
    """Read a quantiser, and compare the file with its SHA-256 if that is given.

    Raises:
        UserError: the file is missing or damaged.
    """
    again = f"remove {path.parent}, and make it again"
    if checksum is not None and path.is_file() and fingerprint(path) != checksum:
        raise UserError(f"{path} is damaged: its checksum is wrong; {again}")
    try:
        with np.load(path, allow_pickle=False) as found:
            return Quantiser(*(torch.from_numpy(found[name]) for name in ARRAYS))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{path} is missing or is no quantiser of espnet_kd: {again}") from None


def train_quantiser(vectors: Tensor, codebooks: int, seed: int = 0) -> Quantiser:
    """Train a quantiser: k-means of what the codebooks before have left, then codes and centroids in turn.

    It ends when the error of vectors that are held out no longer falls.

    Args:
        vectors: (N, D) of a teacher, on the CPU.
        codebooks: M.
        seed: for the vectors that k-means starts from.

    Raises:
        UserError: there are fewer vectors than centroids.
    """
    if len(vectors) < CENTROIDS:
        raise UserError(
            f"a quantiser of {CENTROIDS} centroids a codebook needs as many frames at least, and there are "
            f"{len(vectors)}: give more --data"
        )
    vectors, generator = vectors.float(), torch.Generator().manual_seed(seed)
    held_out = torch.arange(len(vectors)) % HELD_OUT == 0
    if len(vectors) < HELD_OUT * CENTROIDS:
        held_out[:] = False
    judged, vectors = vectors[held_out] if held_out.any() else vectors, vectors[~held_out]
    mean = vectors.mean(0)
    left, centroids = vectors - mean, []
    for _ in range(codebooks):
        centroids.append(k_means(left, generator))
        left = left - centroids[-1][nearest(left, centroids[-1])]
    best = Quantiser(mean, torch.stack(centroids))
    error = best.error(judged)
    for _ in range(ROUNDS):
        found = Quantiser(mean, least_squares(vectors - mean, best.encode(vectors).long()))
        if (found_error := found.error(judged)) >= error:
            break
        best, error = found, found_error
    return best


def k_means(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Find centroids, (CENTROIDS, D), by Lloyd's algorithm; an empty one moves to the worst vector."""
    centroids = vectors[torch.randperm(len(vectors), generator=generator)[:CENTROIDS]]
    for _ in range(LLOYD_STEPS):
        codes = nearest(vectors, centroids)
        counts = torch.bincount(codes, minlength=CENTROIDS)
        sums = torch.zeros_like(centroids).index_add(0, codes, vectors)
        distances = (vectors - centroids[codes]).square().sum(-1)
        empty = (counts == 0).nonzero().squeeze(-1)
        centroids = sums / counts.clamp(min=1)[:, None]
        centroids[empty] = vectors[distances.topk(len(empty)).indices]
    return centroids


def nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Find the nearest centroid of each vector, (N, D) and (K, D) -> (N,)."""
    norms = centroids.square().sum(-1)
    return torch.cat([(norms - 2 * part @ centroids.T).argmin(-1) for part in vectors.split(CHUNK)])


def least_squares(vectors: Tensor, codes: Tensor) -> Tensor:
    """Find the centroids of all codebooks that are best for these codes, (N, D) and (N, M) -> (M, K, D).

    The normal equations count how often two centroids occur together.
    """
    number, size = codes.shape[1], codes.shape[1] * CENTROIDS
    columns = codes + torch.arange(number) * CENTROIDS
    together = torch.zeros(number, CENTROIDS, number, CENTROIDS, dtype=torch.float64)
    sums = torch.zeros(size, vectors.shape[1], dtype=torch.float64)
    for m in range(number):
        sums.index_add_(0, columns[:, m], vectors.double())
        for n in range(number):
            pairs = codes[:, m] * CENTROIDS + codes[:, n]
            together[m, :, n] = torch.bincount(pairs, minlength=CENTROIDS**2).view(CENTROIDS, CENTROIDS)
    normal = together.view(size, size) + RIDGE * torch.eye(size, dtype=torch.float64)
    solved = torch.cholesky_solve(sums, torch.linalg.cholesky(normal))
    return solved.float().view(number, CENTROIDS, -1)
