"""Quantisation of hidden vectors by several codebooks."""

from pathlib import Path

import pytest
import torch

from espnet_kd.errors import UserError
from espnet_kd.targets import quantiser
from espnet_kd.targets.quantiser import Quantiser, k_means, least_squares, read_quantiser, train_quantiser


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    """Correlated features, as those of a layer are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(6, 12, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, 6, generator=generator) @ mix + 3.0


@pytest.fixture(scope="module")
def trained() -> Quantiser:
    return train_quantiser(vectors(2000), 3)


def test_training_is_the_same_for_a_seed(trained: Quantiser) -> None:
    again, other = train_quantiser(vectors(2000), 3), train_quantiser(vectors(2000), 3, seed=1)
    assert torch.equal(trained.centroids, again.centroids) and torch.equal(trained.mean, again.mean)
    assert not torch.equal(trained.centroids, other.centroids)


def test_more_codebooks_lose_less_and_training_beats_k_means_of_what_is_left(trained: Quantiser) -> None:
    heard, unseen = vectors(2000), vectors(500, seed=1)
    one = train_quantiser(heard, 1)
    assert one.error(heard) > trained.error(heard) and one.error(unseen) > trained.error(unseen)
    left, plain, generator = heard - heard.mean(0), [], torch.Generator().manual_seed(0)
    for _ in range(3):
        plain.append(k_means(left, generator))
        left = left - plain[-1][quantiser.nearest(left, plain[-1])]
    residual = left.square().sum() / (heard - heard.mean(0)).square().sum()
    assert trained.error(heard) < residual


def test_codes_of_a_vector_do_not_depend_on_others(
    trained: Quantiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = vectors(50, seed=2)
    codes = trained.encode(some)
    assert codes.shape == (50, 3) and codes.dtype == torch.uint8
    monkeypatch.setattr(quantiser, "CHUNK", 7)
    assert torch.equal(trained.encode(some.flip(0)).flip(0), codes)
    assert trained.encode(some[:0]).shape == (0, 3)


def test_what_was_made_of_centroids_is_found_again() -> None:
    """By hand: the sum of one centroid of each codebook, far apart, is quantised without an error."""
    centroids = torch.zeros(2, 256, 2)
    centroids[0, :, 0], centroids[1, :, 1] = torch.arange(256.0), torch.arange(256.0)
    exact = Quantiser(torch.tensor([10.0, 20.0]), centroids)
    codes = torch.tensor([[3, 250], [0, 0]])
    assert exact.decode(codes).tolist() == [[13.0, 270.0], [10.0, 20.0]]
    assert torch.equal(exact.encode(exact.decode(codes)).long(), codes)
    assert exact.error(exact.decode(codes)) == 0


def test_least_squares_finds_centroids_from_codes() -> None:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(256, (4000, 2), generator=generator)
    true = torch.randn(2, 256, 4, generator=generator)
    found = least_squares(true[0][codes[:, 0]] + true[1][codes[:, 1]], codes)
    sums = found[0][codes[:, 0]] + found[1][codes[:, 1]]
    torch.testing.assert_close(sums, true[0][codes[:, 0]] + true[1][codes[:, 1]], atol=1e-2, rtol=0)


def test_a_file_is_read_as_it_was_written(trained: Quantiser, tmp_path: Path) -> None:
    path = tmp_path / "quantiser.npz"
    checksum = trained.write(path)
    again = read_quantiser(path, checksum)
    assert torch.equal(again.centroids, trained.centroids) and torch.equal(again.mean, trained.mean)
    with pytest.raises(UserError, match="is damaged: its checksum is wrong; remove .*, and make it again"):
        read_quantiser(path, "other")
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="is no quantiser of espnet_kd"):
        read_quantiser(path)
    with pytest.raises(UserError, match="is missing or is no quantiser"):
        read_quantiser(tmp_path / "none.npz")


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(UserError, match="as many frames at least, and there are 255: give more --data"):
        train_quantiser(torch.zeros(255, 4), 1)
