import numpy as np
import pytest

from espnet_kd.corpora.digits import add_noise, coloured_noise


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_level_without_noise() -> None:
    speech = np.full(4, 8192, np.int16)
    # a level of -20 dB is a root mean square of 1/10 of full scale: 32767 / 10 = 3276.7
    mixture = add_noise(speech, level=-20, snr=200, slope=0, padding=(2, 3), rng=rng())
    assert mixture.tolist() == [0, 0, 3277, 3277, 3277, 3277, 0, 0, 0]
    assert mixture.dtype == np.int16


@pytest.mark.parametrize("snr, ratio", [(0, 1.0), (20, 0.1)])
def test_signal_to_noise_ratio(snr: float, ratio: float) -> None:
    speech = np.tile(np.array([5000, -5000], np.int16), 5000)
    noisy, clean = (add_noise(speech, -20, r, 0.5, (0, 0), rng()).astype(float) for r in (snr, 200))
    assert np.sqrt(np.mean((noisy - clean) ** 2) / np.mean(clean**2)) == pytest.approx(ratio, rel=0.01)


def test_power_falls_with_the_slope() -> None:
    power = np.abs(np.fft.rfft(coloured_noise(1 << 16, 1.0, rng()))) ** 2
    # pink: each octave has the same power
    octaves = [power[low : 2 * low].sum() for low in (512, 1024, 2048, 4096, 8192)]
    assert max(octaves) / min(octaves) < 1.2
    assert np.mean(coloured_noise(1000, 1.0, rng()) ** 2) == pytest.approx(1)


def test_peaks_are_cut() -> None:
    assert add_noise(np.array([0, 0, 0, 9000], np.int16), 0, 200, 0, (0, 0), rng()).tolist() == [
        0,
        0,
        0,
        32767,
    ]


@pytest.mark.parametrize("speech", [np.zeros(0, np.int16), np.zeros(5, np.int16)])
def test_silence_is_refused(speech: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the speech is silent"):
        add_noise(speech, -20, 10, 0, (1, 1), rng())
