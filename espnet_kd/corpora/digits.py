"""Connected spoken digits, synthesised on the spot: the corpus that needs no download.

A voice is a variant of espeak-ng; the voices of two sets never overlap. Every voice speaks in several
accents, at many rates and pitches, under noise of random colour and level.
"""

import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

from espnet_kd.corpora import espeak

DIGITS = ("zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LENGTHS = (3, 7)  # digits an utterance
RATES = (150, 260)  # words a minute
PITCHES = (20, 80)
WORD_GAPS = (0, 8)  # units of 10 ms
PAUSE = 0.15  # probability of a comma after a digit
SNR_DB = (0.0, 20.0)
LEVEL_DB = (-35.0, -15.0)  # of full scale, root mean square of the speech
SLOPES = (0.0, 1.0)  # noise power falls as 1 / frequency ** slope
PADDING = (0.1, 0.4)  # seconds of noise before and after
VOICE_SHARE = {"dev": 0.15, "test": 0.25}  # the rest is for training


@dataclass(frozen=True)
class Utterance:
    """All there is to know for synthesising one utterance; levels in dB, padding in seconds."""

    key: str
    speaker: str
    voice: str
    words: tuple[str, ...]
    text: str
    rate: int
    pitch: int
    word_gap: int
    snr: float
    level: float
    slope: float
    padding: tuple[float, float]


def split_voices(variants: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Deal out the voices: train, dev and test share none.

    Names that differ in a final number (``iven``, ``iven2``) are near relatives and stay together.
    """
    families: dict[str, list[str]] = {}
    for name in sorted(variants):
        families.setdefault(name.rstrip("0123456789").lower(), []).append(name)
    order = sorted(families)
    random.Random(f"voices {seed}").shuffle(order)
    sets: dict[str, list[str]] = {}
    for part, share in VOICE_SHARE.items():
        taken: list[str] = []
        while len(taken) < share * len(variants) and order:
            taken += families[order.pop()]
        sets[part] = sorted(taken)
    sets["train"] = sorted(name for family in order for name in families[family])
    return sets


def plan(part: str, count: int, voices: Sequence[str], seed: int) -> list[Utterance]:
    """Draw what is said, by whom and how; the voices take turns, so that all are heard."""
    rng = random.Random(f"{part} {seed}")
    return [_draw(rng, index, voices[index % len(voices)]) for index in range(count)]


def _draw(rng: random.Random, index: int, variant: str) -> Utterance:
    accent = rng.choice(espeak.ACCENTS)
    words = tuple(rng.choices(DIGITS, k=rng.randint(*LENGTHS)))
    pauses = [", " if rng.random() < PAUSE else " " for _ in words[1:]] + [""]
    speaker = f"{variant}-{accent}".replace(" ", "_").lower()
    return Utterance(
        key=f"{speaker}-{index:05d}",
        speaker=speaker,
        voice=f"{accent}+{variant}",
        words=words,
        text="".join(word + pause for word, pause in zip(words, pauses, strict=True)),
        rate=rng.randint(*RATES),
        pitch=rng.randint(*PITCHES),
        word_gap=rng.randint(*WORD_GAPS),
        snr=rng.uniform(*SNR_DB),
        level=rng.uniform(*LEVEL_DB),
        slope=rng.uniform(*SLOPES),
        padding=(rng.uniform(*PADDING), rng.uniform(*PADDING)),
    )


def record(speech: np.ndarray, utterance: Utterance, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Put speech into its noise.

    Args:
        speech: (samples,) int16.
        utterance: gives padding, level, ratio and colour of the noise.
        rate: samples a second.
        rng: draws the noise.

    Returns:
        (samples + padding,) int16; peaks beyond full scale are cut.
    """
    before, after = (round(seconds * rate) for seconds in utterance.padding)
    clean = np.pad(speech / 32768, (before, after))
    clean *= 10 ** (utterance.level / 20) / (np.sqrt(np.mean((speech / 32768) ** 2)) + 1e-9)
    noise = coloured_noise(len(clean), utterance.slope, rng) * 10 ** ((utterance.level - utterance.snr) / 20)
    return (np.clip(clean + noise, -1, 1) * 32767).round().astype(np.int16)


def coloured_noise(samples: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """(samples,) noise of unit mean square whose power falls as 1 / frequency ** slope."""
    length = 1 << (samples - 1).bit_length()  # a power of two: lengths with large prime factors are slow
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[0] = 0
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (slope / 2)
    noise = np.fft.irfft(spectrum)[:samples]
    return noise / np.sqrt(np.mean(noise**2))


def synthesise(utterances: Sequence[Utterance], directory: Path, seed: int) -> None:
    """Write ``directory/<key>.flac`` for every utterance; to be called in a fresh process."""
    synthesiser = espeak.Synthesiser()
    for index, u in enumerate(utterances):
        speech = synthesiser.say(u.text, u.voice, u.rate, u.pitch, u.word_gap)
        rng = np.random.default_rng([seed, index])
        audio = record(speech, u, synthesiser.sample_rate, rng)
        soundfile.write(directory / f"{u.key}.flac", audio, synthesiser.sample_rate)
