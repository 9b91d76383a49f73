"""The spectrogram front end: values, sizes, padding."""

import math

import pytest
import torch

from espnet_kd.encoders.spectrogram import FLOOR, Spectrogram


def test_a_cosine_on_paper() -> None:
    # cos(2 pi 10 n / 320) under a Hann window: amplitude 320 / 4 in bin 10, half of it in bins 9 and 11.
    samples = torch.cos(2 * math.pi * 10 * torch.arange(1600) / 320)[None]
    features, lengths = Spectrogram()(samples, torch.tensor([1600]))
    assert lengths.tolist() == [11] and features.shape == (1, 11, 160)
    for frame in features[0, 2:-2]:  # those without reflected samples
        assert frame[9:12].exp().tolist() == pytest.approx([40.0**2, 80.0**2, 40.0**2], rel=1e-3)
        assert max(frame[:9].max(), frame[12:].max()) < math.log(1e-2)
    assert features.min() >= math.log(FLOOR) - 1e-6


def test_silence_is_finite_and_padding_zero() -> None:
    samples = torch.zeros(2, 1600)
    features, lengths = Spectrogram()(samples, torch.tensor([1600, 800]))
    assert lengths.tolist() == [11, 6]
    assert torch.isfinite(features).all() and (features[1, 6:] == 0).all() and (features[1, :6] < -20).all()


def test_as_many_frames_as_log_mel() -> None:
    from espnet2.asr.frontend.default import DefaultFrontend

    lengths = torch.tensor([16000, 12345])
    ours = Spectrogram(fs="16k")(torch.randn(2, 16000), lengths)[1]
    theirs = DefaultFrontend(n_fft=512, win_length=320, hop_length=160)(torch.randn(2, 16000), lengths)[1]
    assert ours.tolist() == theirs.tolist()


def test_half_precision_is_computed_in_float32() -> None:
    samples = torch.randn(1, 3200)
    expected, _ = Spectrogram()(samples, torch.tensor([3200]))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = Spectrogram()(samples, torch.tensor([3200]))
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_too_many_bins() -> None:
    with pytest.raises(ValueError, match="bins is 200: give 1 to 161, or a larger n_fft than 320"):
        Spectrogram(bins=200)
