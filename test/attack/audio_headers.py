"""Read audio files with a false header or length: samples are right, or it is refused, in bounded memory.

A header may have another rate, another format or fewer samples without contradiction. But files that were cut
off must be refused, and there must be no more samples than the file can contain.
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
MEGABYTES = 300  # limit of memory for a file of some kilobytes
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
    """Return undamaged files by kind."""
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
    """Damage the kinds of files in turn."""
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
    """Read a damaged file; the result must agree with its header."""
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
    """Cut off the end, by more than the padding that some programs leave out."""
    return data[: rng.randrange(len(data) - 65)]


def lengthen(data: bytes, rng: random.Random) -> bytes:
    """Append bytes."""
    return data + rng.randbytes(rng.choice((1, 2, 100, 5000)))


def number_in_head(data: bytes, rng: random.Random) -> bytes:
    """Change a field of the header."""
    place, width = rng.randrange(80), rng.choice((1, 2, 4, 8))
    value = (rng.choice(NUMBERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))
    return data[:place] + value + data[place + width :]


def bits_in_head(data: bytes, rng: random.Random) -> bytes:
    """Flip some bits of the header."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(min(len(data), 120))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def digits(data: bytes, rng: random.Random) -> bytes:
    """Change a digit of a text header, or a bit of another one."""
    places = [i for i, byte in enumerate(data[:400]) if byte in b"0123456789"]
    if not data.startswith(b"NIST"):
        return bits_in_head(data, rng)
    place = rng.choice(places)
    return data[:place] + rng.choice((b"0", b"1", b"9", b"-", b"99999999", b"x")) + data[place + 1 :]


def zeros(data: bytes, rng: random.Random) -> bytes:
    """Set a part of the header, or the whole file, to zeros."""
    start, end = sorted(rng.randrange(200) for _ in range(2))
    return bytes(len(data)) if rng.random() < 0.05 else data[:start] + bytes(end - start) + data[end:]


def swapped(data: bytes, rng: random.Random) -> bytes:
    """Replace the header by one of another kind of file."""
    other = rng.choice(list(wholes().values()))
    place = rng.choice((4, 12, 16, 36, 44, 100))
    return other[:place] + data[place:]


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    cut, cut, lengthen, number_in_head, number_in_head, bits_in_head, digits, zeros, swapped,
]  # fmt: skip
