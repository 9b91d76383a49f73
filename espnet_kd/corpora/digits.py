"""Connected spoken digits, synthesised by espeak-ng: a corpus that needs no download.

A voice is a variant of espeak-ng; no voice is in two sets. Every voice speaks with several accents, rates and
pitches, in noise of random colour and level. The same options give the same bytes.
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
from typing import Any

import numpy as np
import soxr

from espnet_kd.command_line import command_parser
from espnet_kd.data.audio import encode
from espnet_kd.data.datadir import Utterance, lock_data_dirs, write_data_dir
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LENGTHS = (3, 7)  # digits per utterance
RATES = (150, 260)  # words per minute
PITCHES = (20, 80)
WORD_GAPS = (0, 8)  # units of 10 ms
PAUSE = 0.15  # probability of a pause after a digit
SAMPLE_RATE = 8000  # a higher rate would only cost time and space
FULL_SCALE = 32768
SNR_DB = (5.0, 25.0)
LEVEL_DB = (-35.0, -15.0)
SLOPES = (0.0, 1.0)
PADDING = (0.1, 0.4)  # seconds of noise before and after
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
EFFECTS = frozenset(  # variants that whisper, buzz or echo
    "whisper whisperf ricishaymax demonic unirobot robosoft anikarobot anxiousandy announcer storm".split()
)
VOICE_SHARE = {"dev": 0.15, "test": 0.25}  # train gets the rest
PIECE = 500  # utterances per process; the samples depend on it
MARKER = "made"  # file in a directory of audio with a hash of its scripts

# Numbers from espeak-ng's speak_lib.h.
SYNCHRONOUS = 2
DO_NOT_EXIT = 0x8000
POSITION_CHARACTER = 1
UTF8 = 1
RATE, PITCH, WORD_GAP = 1, 3, 7
BUFFER_MILLISECONDS = 1000
SINK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Script:
    """Everything that the audio of an utterance depends on; levels in dB, padding in seconds."""

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
    """Run ``prepare digits DST [--train N] [--dev N] [--test N] [--seed S]``; writes DST/{train,dev,test}."""
    parser = command_parser("prepare digits", __doc__.splitlines()[0])
    parser.add_argument("dst", type=Path, help="directory to write the data directories and audio/ into")
    for part, count in (("train", 2500), ("dev", 250), ("test", 300)):
        parser.add_argument(f"--{part}", type=int, default=count, help="utterances (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of all random choices (default: %(default)s)"
    )
    parser.add_argument("--nj", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    args = parser.parse_args(argv)
    counts = {part: getattr(args, part) for part in ("train", "dev", "test")}
    for option, value in {**counts, "nj": args.nj}.items():
        if value < 1:
            raise UserError(f"--{option} {value}: must be at least 1")
    prepare(args.dst, counts, args.seed, args.nj)


def prepare(dst: Path, counts: dict[str, int], seed: int, nj: int) -> None:
    """Write the data directories and their audio.

    Args:
        dst: directory to write into.
        counts: set -> number of utterances.
        seed: of all random choices.
        nj: number of processes.

    Raises:
        UserError: espeakng_loader is not installed, ``dst`` cannot be written, or another run is writing it.
    """
    voices = split_voices(variants(), seed)
    with lock_data_dirs(dst):
        for part, count in counts.items():
            scripts = write_scripts(part, count, voices[part], seed)
            audio = dst / "audio" / part
            write_audio(scripts, audio, nj)
            write_data_dir(
                dst / part,
                [Utterance(s.id, s.speaker, audio / f"{s.id}.flac", " ".join(s.words)) for s in scripts],
            )
            print(f"{dst / part}: {count} utterances, {min(count, len(voices[part]))} voices", flush=True)


def split_voices(variants: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Divide the voices among train, dev and test.

    Names that differ only in a final number (``iven``, ``iven2``) are similar voices and stay in one set.
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
    """Draw the scripts of a set; the voices take turns, so that all occur."""
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


def write_audio(scripts: Sequence[Script], directory: Path, nj: int) -> None:
    """Write ``<id>.flac`` for every script, unless that is done; the directory appears when complete."""
    content = hashlib.sha256(repr((PIECE, *scripts)).encode()).hexdigest() + "\n"
    marker = directory / MARKER
    if marker.is_file() and marker.read_text() == content and _is_complete(scripts, directory):
        return
    for leftover in directory.parent.glob(
        f".{directory.name}.*"
    ):  # of a killed run, whose workers may still write
        shutil.rmtree(leftover, ignore_errors=True)
    pieces = [scripts[i : i + PIECE] for i in range(0, len(scripts), PIECE)]
    with atomic_dir(directory) as partial:
        for _ in _synthesise_in_new_processes(pieces, partial, nj):
            pass
        if not _is_complete(scripts, partial):
            raise UserError(f"files in {partial} disappeared while it was written: repeat the command")
        (partial / MARKER).write_text(content)


def _is_complete(scripts: Sequence[Script], directory: Path) -> bool:
    """Return True if every utterance has its audio."""
    files = {entry.name for entry in os.scandir(directory) if entry.stat().st_size}
    return all(f"{s.id}.flac" in files for s in scripts)


def _synthesise_in_new_processes(
    pieces: Sequence[Sequence[Script]], directory: Path, nj: int
) -> Iterator[None]:
    with ProcessPoolExecutor(nj, get_context("spawn"), max_tasks_per_child=1) as pool:
        try:
            yield from pool.map(write_piece, pieces, [directory] * len(pieces))
        except BrokenProcessPool:
            raise UserError(
                f"a process that was writing {directory} was killed: repeat the command"
            ) from None


def write_piece(scripts: Sequence[Script], directory: Path) -> None:
    """Write the audio of some scripts; the samples depend on what the process has synthesised before."""
    synthesiser = Synthesiser()
    for s in scripts:
        speech = synthesiser.synthesise(s.spoken, s.voice, s.rate, s.pitch, s.word_gap)
        speech = soxr.resample(speech, synthesiser.sample_rate, SAMPLE_RATE)
        before, after = (round(seconds * SAMPLE_RATE) for seconds in s.padding)
        rng = np.random.default_rng(s.noise_seed)
        audio = add_noise(speech, s.level, s.snr, s.slope, (before, after), rng)
        (directory / f"{s.id}.flac").write_bytes(encode(audio, SAMPLE_RATE, "flac"))


def add_noise(
    speech: np.ndarray,
    level: float,
    snr: float,
    slope: float,
    padding: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Set the level of speech, pad it, and add noise to the whole.

    Args:
        speech: (samples,) int16.
        level: root mean square of the speech in dB of full scale.
        snr: signal-to-noise ratio in dB.
        slope: colour of the noise; 0 is white, 1 is pink.
        padding: samples before and after the speech.
        rng: generator of the noise.

    Returns:
        (before + samples + after,) int16; peaks beyond full scale are clipped.

    Raises:
        ValueError: the speech is empty or silent.
    """
    signal = speech / FULL_SCALE
    power = np.mean(signal**2) if len(signal) else 0.0
    if power == 0:
        raise ValueError("the speech is silent: it has no signal-to-noise ratio")
    mixture = np.pad(signal * (10 ** (level / 20) / np.sqrt(power)), padding)
    mixture += coloured_noise(len(mixture), slope, rng) * 10 ** ((level - snr) / 20)
    return (np.clip(mixture, -1, 1) * (FULL_SCALE - 1)).round().astype(np.int16)


def coloured_noise(samples: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Return (samples,) noise of unit mean square whose power falls as 1 / frequency ** slope."""
    length = 1 << (samples - 1).bit_length()  # a power of two: lengths with large prime factors are slow
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[0] = 0
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (slope / 2)
    noise: np.ndarray = np.fft.irfft(spectrum)[:samples]
    noise /= np.sqrt(np.mean(noise**2))
    return noise


class Synthesiser:
    """The library espeak-ng, loaded once in a process.

    espeak-ng keeps state between utterances, even if it is terminated and initialised again, so the same
    utterances give the same samples only in a new process.

    Attributes:
        sample_rate: 22050 Hz.

    Raises:
        UserError: the package espeakng_loader is not installed, or the library does not start.
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
        self._sink = SINK(self._receive)  # kept alive, because the library has only a pointer to it
        self._library.espeak_SetSynthCallback(self._sink)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)  # espeak's breath noise comes from the C library

    def synthesise(
        self, text: str, voice: str, rate: int = 175, pitch: int = 50, word_gap: int = 0
    ) -> np.ndarray:
        """Return the audio of a text.

        Args:
            text: English words; a comma is a pause.
            voice: an accent, or accent and variant as in ``en-us+f2``.
            rate: words per minute.
            pitch: 0 to 100; 50 is the default of the voice.
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
            raise RuntimeError(f"espeak-ng fails with status {status} on {text!r} in the voice {voice}")
        return np.frombuffer(b"".join(self._chunks), np.int16)

    def _receive(self, samples: Any, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0


def variants() -> list[str]:
    """Return the names of the voice variants of espeak-ng, about 100, sorted.

    Raises:
        UserError: the package espeakng_loader is not installed.
    """
    return sorted(path.name for path in Path(_loader().get_data_path(), "voices", "!v").iterdir())


def _loader() -> Any:
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "the package espeakng-loader, which synthesises digits, is missing: pip install 'espnet_kd[demo]'"
        ) from None
    return espeakng_loader
