"""Put clean speech into noise of a given colour and level."""

import numpy as np

FULL_SCALE = 32768


def coloured_noise(samples: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """(samples,) noise of unit mean square whose power falls as 1 / frequency ** slope."""
    length = 1 << (samples - 1).bit_length()  # a power of two: lengths with large prime factors are slow
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[0] = 0
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (slope / 2)
    noise = np.fft.irfft(spectrum)[:samples]
    return noise / np.sqrt(np.mean(noise**2))


def add_noise(
    speech: np.ndarray,
    level: float,
    snr: float,
    slope: float,
    padding: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Set the level of speech and add noise, which begins before it and ends after it.

    Args:
        speech: (samples,) int16.
        level: of the speech, root mean square in dB of full scale.
        snr: signal-to-noise ratio in dB.
        slope: colour of the noise, 0 white, 1 pink.
        padding: samples before and after the speech.
        rng: draws the noise.

    Returns:
        (padding + samples + padding,) int16; peaks beyond full scale are cut.

    Raises:
        ValueError: the speech is empty or silent.
    """
    signal = speech / FULL_SCALE
    power = np.mean(signal**2) if len(signal) else 0.0
    if power == 0:
        raise ValueError("silence has no signal-to-noise ratio")
    mixture = np.pad(signal * (10 ** (level / 20) / np.sqrt(power)), padding)
    mixture += coloured_noise(len(mixture), slope, rng) * 10 ** ((level - snr) / 20)
    return (np.clip(mixture, -1, 1) * (FULL_SCALE - 1)).round().astype(np.int16)
