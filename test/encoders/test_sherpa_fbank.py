"""The front end of sherpa-onnx's features: values, reflections, batches, sizes."""

import math

import librosa
import numpy as np
import pytest
import torch

from espnet_kd.encoders.sherpa_fbank import FLOOR, SherpaFbank

SIZES = {"hop_length": 160, "win_sz": 480}


def slow(speech: np.ndarray, bins: int) -> np.ndarray:
    """(samples,) -> (T, bins), frame by frame as kaldi-native-fbank does it, in double precision."""
    mel = librosa.filters.mel(sr=16000, n_fft=512, n_mels=bins, dtype=np.float64)
    window = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(400) / 400)
    found = []
    for frame in range((len(speech) + 80) // 160):
        samples = []
        for place in range(160 * frame - 120, 160 * frame + 280):
            while not 0 <= place < len(speech):
                place = -place - 1 if place < 0 else 2 * len(speech) - 1 - place
            samples.append(float(speech[place]))
        emphasised = np.array(samples) - 0.97 * np.array([samples[0], *samples[:-1]])
        power = np.abs(np.fft.rfft(emphasised * window, 512)) ** 2
        found.append(np.log(np.maximum(mel @ power, FLOOR)))
    return np.array(found)


def test_a_batch_is_what_each_utterance_gives_frame_by_frame() -> None:
    lengths = torch.tensor([4000, 3919, 800, 95])  # the last is reflected more than once
    speech = 0.1 * torch.randn(4, 4000, generator=torch.Generator().manual_seed(0))
    features, frames = SherpaFbank(n_mels=40, **SIZES)(speech, lengths)
    assert features.shape == (4, 25, 40) and frames.tolist() == [25, 24, 5, 1]
    for i, (samples, number) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        alone = slow(speech[i, :samples].numpy(), 40)
        assert np.abs(features[i, :number].numpy() - alone).max() < 1e-3
        assert (features[i, number:] == 0).all()


def test_a_tone_has_its_energy_in_the_band_around_it() -> None:
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)[None]
    features, _ = SherpaFbank(**SIZES)(tone, torch.tensor([16000]))
    centres = librosa.mel_frequencies(82, fmin=0, fmax=8000)[1:-1]
    assert abs(centres[features[0, 50].argmax()] - 1000) < 40


def test_silence_is_the_floor() -> None:
    features, _ = SherpaFbank(**SIZES)(torch.zeros(1, 1600), torch.tensor([1600]))
    assert features.unique().tolist() == pytest.approx([-23 * math.log(2)])


def test_half_precision_is_computed_in_float32() -> None:
    speech, front_end = torch.randn(1, 3200), SherpaFbank(**SIZES)
    expected, _ = front_end(speech, torch.tensor([3200]))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = front_end(speech, torch.tensor([3200]))
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_what_it_cannot_have_is_refused() -> None:
    assert SherpaFbank(fs="16k", **SIZES).output_size() == 80
    with pytest.raises(ValueError, match=r"fs is 8000: sherpa-onnx .* of 16000 Hz only"):
        SherpaFbank(fs=8000, **SIZES)
    with pytest.raises(
        ValueError, match=r"hop_length is None and win_sz None: write hop_length: 160 and win_sz"
    ):
        SherpaFbank()
