"""Connected spoken digits, synthesised on the spot: the corpus that needs no download.

A voice is a variant of espeak-ng, and no voice is in two sets. Every voice speaks with several accents, at
many rates and pitches, in noise of random colour and level. The same options give the same bytes.
"""

import argparse
import hashlib
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import soxr

from espnet_kd.corpora import espeak
from espnet_kd.corpora.datadir import Utterance, claimed, write_data_dir
from espnet_kd.corpora.noise import add_noise
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LENGTHS = (3, 7)  # digits an utterance
RATES = (150, 260)  # words a minute
PITCHES = (20, 80)
WORD_GAPS = (0, 8)  # units of 10 ms
SAMPLE_RATE = 8000  # as on the telephone; noise at full band would only cost time and space
PAUSE = 0.15  # probability of a pause after a digit
SNR_DB = (5.0, 25.0)
LEVEL_DB = (-35.0, -15.0)
SLOPES = (0.0, 1.0)
PADDING = (0.1, 0.4)  # seconds of noise before and after
EFFECTS = frozenset(  # variants that whisper, buzz or echo rather than speak
    "whisper whisperf ricishaymax demonic unirobot robosoft anikarobot anxiousandy announcer storm".split()
)
VOICE_SHARE = {"dev": 0.15, "test": 0.25}  # train has the rest
PIECE = 500  # utterances a process synthesises; part of what the samples depend on
MADE = "made"


@dataclass(frozen=True)
class Script:
    """All there is to know for synthesising an utterance; levels in dB, padding in seconds."""

    id: str
    speaker: str
    voice: str
    words: tuple[str, ...]
    spoken: str
    rate: int
    pitch: int
    word_gap: int
    level: float
    snr: float
    slope: float
    padding: tuple[float, float]
    noise_seed: int


def main(argv: list[str] | None = None) -> None:
    """``prepare digits DST [--train N] [--dev N] [--test N] [--seed S]``: DST/{train,dev,test}."""
    parser = argparse.ArgumentParser(prog="espnet-kd prepare digits", description=__doc__.splitlines()[0])
    parser.add_argument("dst", type=Path, help="where the data directories go, and the audio below audio/")
    for part, count in (("train", 2500), ("dev", 250), ("test", 300)):
        parser.add_argument(f"--{part}", type=int, default=count, help="utterances (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="another seed, another corpus (default: %(default)s)"
    )
    parser.add_argument("--nj", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    args = parser.parse_args(argv)
    counts = {part: getattr(args, part) for part in ("train", "dev", "test")}
    for option, value in {**counts, "nj": args.nj}.items():
        if value < 1:
            raise UserError(f"--{option} {value}: at least 1 is needed")
    prepare(args.dst, counts, args.seed, args.nj)


def prepare(dst: Path, counts: dict[str, int], seed: int, nj: int) -> None:
    """Write DST/<set> for every set of ``counts``, which says how many utterances it has.

    Raises:
        UserError: espeakng_loader is not installed, ``dst`` cannot be written, or another run writes it.
    """
    voices = split_voices(espeak.variants(), seed)
    with claimed(dst):
        for part, count in counts.items():
            scripts = write_scripts(part, count, voices[part], seed)
            audio = dst / "audio" / part
            record(scripts, audio, nj)
            write_data_dir(
                dst / part,
                [Utterance(s.id, s.speaker, audio / f"{s.id}.flac", " ".join(s.words)) for s in scripts],
            )
            print(f"{dst / part}: {count} utterances, {min(count, len(voices[part]))} voices", flush=True)


def split_voices(variants: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Deal out the voices: train, dev and test share none.

    Names that differ in a final number (``iven``, ``iven2``) are near relatives and stay together.
    """
    families: dict[str, list[str]] = {}
    for name in sorted(variants):
        families.setdefault(name.rstrip("0123456789").lower(), []).append(name)
    order = sorted(families.keys() - EFFECTS)
    total = sum(len(families[family]) for family in order)
    random.Random(f"voices {seed}").shuffle(order)
    voices: dict[str, list[str]] = {}
    for part, share in VOICE_SHARE.items():
        taken: list[str] = []
        while len(taken) < share * total:
            taken += families[order.pop()]
        voices[part] = sorted(taken)
    voices["train"] = sorted(name for family in order for name in families[family])
    return voices


def write_scripts(part: str, count: int, voices: Sequence[str], seed: int) -> list[Script]:
    """Draw who says what and how; the voices take turns, so that all are heard."""
    rng = random.Random(f"{part} {seed}")
    return [_script(rng, i, voices[i % len(voices)]) for i in range(count)]


def _script(rng: random.Random, index: int, variant: str) -> Script:
    accent = rng.choice(espeak.ACCENTS)
    words = rng.choices(DIGITS, k=rng.randint(*LENGTHS))
    spoken = "".join(word + (", " if rng.random() < PAUSE else " ") for word in words)
    speaker = f"{variant.lower().replace(' ', '_')}-{accent}"
    return Script(
        id=f"{speaker}-{index:05d}",
        speaker=speaker,
        voice=f"{accent}+{variant}",
        words=tuple(words),
        spoken=spoken.rstrip(", "),
        rate=rng.randint(*RATES),
        pitch=rng.randint(*PITCHES),
        word_gap=rng.randint(*WORD_GAPS),
        level=rng.uniform(*LEVEL_DB),
        snr=rng.uniform(*SNR_DB),
        slope=rng.uniform(*SLOPES),
        padding=(rng.uniform(*PADDING), rng.uniform(*PADDING)),
        noise_seed=rng.getrandbits(32),
    )


def record(scripts: Sequence[Script], directory: Path, nj: int) -> None:
    """Write ``<id>.flac`` of every script; the directory appears when it is complete, and is made once."""
    made = hashlib.sha256(repr((PIECE, *scripts)).encode()).hexdigest() + "\n"
    marker = directory / MADE
    if marker.is_file() and marker.read_text() == made and _whole(scripts, directory):
        return
    for leftover in directory.parent.glob(f".{directory.name}.*"):  # of a killed run, whose workers may live
        shutil.rmtree(leftover, ignore_errors=True)
    pieces = [scripts[i : i + PIECE] for i in range(0, len(scripts), PIECE)]
    with atomic_dir(directory) as partial:
        for _ in _each_in_a_fresh_process(pieces, partial, nj):
            pass
        if not _whole(scripts, partial):
            raise UserError(f"{partial} lost files while it was written: the same command begins anew")
        (partial / MADE).write_text(made)


def _whole(scripts: Sequence[Script], directory: Path) -> bool:
    """True if no utterance lacks its audio."""
    files = {entry.name for entry in os.scandir(directory) if entry.stat().st_size}
    return all(f"{s.id}.flac" in files for s in scripts)


def synthesise(scripts: Sequence[Script], directory: Path) -> None:
    """Write the audio of some scripts; the samples depend on what the process has spoken before."""
    synthesiser = espeak.Synthesiser()
    for s in scripts:
        speech = synthesiser.say(s.spoken, s.voice, s.rate, s.pitch, s.word_gap)
        speech = soxr.resample(speech, synthesiser.sample_rate, SAMPLE_RATE)
        before, after = (round(seconds * SAMPLE_RATE) for seconds in s.padding)
        rng = np.random.default_rng(s.noise_seed)
        audio = add_noise(speech, s.level, s.snr, s.slope, (before, after), rng)
        soundfile.write(directory / f"{s.id}.flac", audio, SAMPLE_RATE)


def _each_in_a_fresh_process(pieces: Sequence[Sequence[Script]], directory: Path, nj: int) -> Iterator[None]:
    with ProcessPoolExecutor(nj, get_context("spawn"), max_tasks_per_child=1) as pool:
        try:
            yield from pool.map(synthesise, pieces, [directory] * len(pieces))
        except BrokenProcessPool:
            raise UserError(
                f"a process that wrote {directory} was killed: the same command begins anew"
            ) from None
