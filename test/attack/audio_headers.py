"""Audio whose head or length is false: its samples are right, or it is refused, in bounded memory.

A head may name another rate, another format or fewer samples without contradiction. But no file that was cut
off is read, and what is read is as large as the file can hold.
"""

import functools
import io
import random
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from harness import Outcome
from miniature import sphere, tone

from espnet_kd.data.audio import read_audio
from espnet_kd.data.datadir import Utterance

TRIES = 30_000
SAMPLES = 3000
MEGABYTES = 300  # that a file of some kilobytes may need
NUMBERS = [
    0,
    1,
    2,
    3,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    36,
    44,
    100,
    6000,
    6001,
    5999,
    12000,
]


@functools.cache
def wholes() -> dict[str, bytes]:
    """Whole files by kind."""
    files = {"SPHERE": sphere(tone(SAMPLES))}
    for name, container, subtype in (
        ("WAV", "WAV", "PCM_16"), ("WAV, 24 bits", "WAV", "PCM_24"), ("WAV, float", "WAV", "FLOAT"),
        ("WAV, mu-law", "WAV", "ULAW"), ("WAVEX", "WAVEX", "PCM_16"), ("RF64", "RF64", "PCM_16"),
        ("FLAC", "FLAC", "PCM_16"), ("FLAC, 24 bits", "FLAC", "PCM_24"), ("AIFF", "AIFF", "PCM_16"),
        ("AU", "AU", "PCM_16"),
    ):  # fmt: skip
        file = io.BytesIO()
        soundfile.write(file, tone(SAMPLES), 16000, subtype, format=container)
        files[name] = file.getvalue()
    return files


def run(seed: int, tries: int = TRIES, only: str | None = None) -> list[Outcome]:
    """Damage every kind of file in turn."""
    kinds = [name for name in wholes() if only in (None, name)]
    outcomes = {name: Outcome(f"audio: {name}") for name in kinds}
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "audio"
        for number in range(tries):
            kind = kinds[number % len(kinds)]
            rng = random.Random(seed * 10**6 + number)
            change = rng.choice(CHANGES)
            path.write_bytes(change(wholes()[kind], rng))
            label = f"--seed {seed}, number {number}, {change.__name__}"
            outcomes[kind].attempt(label, functools.partial(check, path, kind, change), "audio")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started) // 1024
    if grown > MEGABYTES:
        outcomes[kinds[-1]].faults.append(f"--seed {seed}: the memory grew by {grown} MB")
    return list(outcomes.values())


def check(path: Path, kind: str, change: Callable[[bytes, random.Random], bytes]) -> None:
    """Read it; it must be what the head describes, or nothing."""
    whole = _whole(kind)
    samples, rate = read_audio(Utterance("u", "s", path, None))
    assert samples.ndim == 1 and np.isfinite(samples).all() and rate > 0
    assert len(samples) <= 8 * path.stat().st_size + 70000, (
        f"{len(samples)} samples in {path.stat().st_size} bytes"
    )
    if change is cut:
        assert len(samples) == len(whole), (
            f"{len(samples)} of {len(whole)} samples of a file that was cut off"
        )
    if change in (cut, lengthen):
        assert np.array_equal(samples[: len(whole)], whole), "other samples"


@functools.cache
def _whole(kind: str) -> np.ndarray:
    return soundfile.read(io.BytesIO(wholes()[kind]))[0]


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing, by more than the padding that some writers leave out."""
    return data[: rng.randrange(len(data) - 65)]


def lengthen(data: bytes, rng: random.Random) -> bytes:
    """Something follows."""
    return data + rng.randbytes(rng.choice((1, 2, 100, 5000)))


def number_in_head(data: bytes, rng: random.Random) -> bytes:
    """A field of the head has another value."""
    place, width = rng.randrange(80), rng.choice((1, 2, 4, 8))
    value = (rng.choice(NUMBERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))
    return data[:place] + value + data[place + width :]


def bits_in_head(data: bytes, rng: random.Random) -> bytes:
    """Some bits of the head are others."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(min(len(data), 120))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def digits(data: bytes, rng: random.Random) -> bytes:
    """A digit of a head in text is another; a bit elsewhere."""
    places = [i for i, byte in enumerate(data[:400]) if byte in b"0123456789"]
    if not data.startswith(b"NIST"):
        return bits_in_head(data, rng)
    place = rng.choice(places)
    return data[:place] + rng.choice((b"0", b"1", b"9", b"-", b"99999999", b"x")) + data[place + 1 :]


def zeros(data: bytes, rng: random.Random) -> bytes:
    """A part of the head is zeros, or all of a file."""
    start, end = sorted(rng.randrange(200) for _ in range(2))
    return bytes(len(data)) if rng.random() < 0.05 else data[:start] + bytes(end - start) + data[end:]


def swapped(data: bytes, rng: random.Random) -> bytes:
    """The head is that of another kind of file."""
    other = rng.choice(list(wholes().values()))
    place = rng.choice((4, 12, 16, 36, 44, 100))
    return other[:place] + data[place:]


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    cut, cut, lengthen, number_in_head, number_in_head, bits_in_head, digits, zeros, swapped,
]  # fmt: skip
