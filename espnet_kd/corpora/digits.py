"""Connected spoken digits, synthesised on the spot: the corpus that needs no download.

A voice is a variant of espeak-ng, and no voice is in two sets. Every voice speaks with several accents, at
many rates and pitches, in noise of random colour and level. The same options give the same bytes.
"""

import ctypes
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

from espnet_kd.command_line import command_parser
from espnet_kd.data.datadir import Utterance, claimed, write_data_dir
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir

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


ACCENTS = (
    "en",
    "en-us",
    "en-us-nyc",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
)
# Numbers from espeak-ng's speak_lib.h.
SYNCHRONOUS = 2
DO_NOT_EXIT = 0x8000
POSITION_CHARACTER = 1
UTF8 = 1
RATE, PITCH, WORD_GAP = 1, 3, 7
BUFFER_MILLISECONDS = 1000
SINK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesiser:
    """The library, loaded once in a process.

    espeak-ng carries state from one utterance to the next, even over its own termination:
    the same list of utterances gives the same samples only in a fresh process.

    Attributes:
        sample_rate: in Hz, 22050.

    Raises:
        UserError: the package espeakng_loader is not installed or its library does not start.
    """

    def __init__(self) -> None:
        loader = _loader()
        self._library = ctypes.CDLL(loader.get_library_path())
        data = loader.get_data_path().encode()
        self.sample_rate = self._library.espeak_Initialize(
            SYNCHRONOUS, BUFFER_MILLISECONDS, data, DO_NOT_EXIT
        )
        if self.sample_rate <= 0:
            raise UserError(
                f"espeak-ng does not start with its data in {data.decode()}: reinstall espeakng-loader"
            )
        self._chunks: list[bytes] = []
        self._sink = SINK(self._receive)  # kept: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._sink)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)  # espeak's breath noise comes from the C library

    def say(self, text: str, voice: str, rate: int = 175, pitch: int = 50, word_gap: int = 0) -> np.ndarray:
        """Speak.

        Args:
            text: English words; a comma is a pause.
            voice: an accent, or accent and variant as in ``en-us+f2``.
            rate: words a minute.
            pitch: 0 to 100, 50 is the voice's own.
            word_gap: pause between words in units of 10 ms.

        Returns:
            (samples,) int16 at ``sample_rate``.

        Raises:
            ValueError: there is no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (WORD_GAP, word_gap)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        data = text.encode() + b"\0"
        size = ctypes.c_size_t(len(data))
        status = self._library.espeak_Synth(data, size, 0, POSITION_CHARACTER, 0, UTF8, None, None)
        if status != 0:
            raise RuntimeError(f"espeak-ng: status {status} for {text!r} by {voice}")
        return np.frombuffer(b"".join(self._chunks), np.int16)

    def _receive(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0


def variants() -> list[str]:
    """The names of espeak-ng's voice variants, about 100, sorted.

    Raises:
        UserError: the package espeakng_loader is not installed.
    """
    return sorted(path.name for path in Path(_loader().get_data_path(), "voices", "!v").iterdir())


def _loader():
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "spoken digits are synthesised by the package espeakng-loader: pip install espnet_kd[demo]"
        ) from None
    return espeakng_loader


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
    parser = command_parser("prepare digits", __doc__.splitlines()[0])
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
    voices = split_voices(variants(), seed)
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
    accent = rng.choice(ACCENTS)
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
    synthesiser = Synthesiser()
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
