"""Read, cut, resample and write the audio of utterances."""

import re
from io import BytesIO
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from espnet_kd.data.datadir import Utterance
from espnet_kd.data.headers import UNKNOWN_LENGTH, find_damage, is_shortened
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import atomic_path

DEFAULT_RATE = 16000  # Hz, of ESPnet's front ends
CONTAINERS = {"flac": "FLAC", "wav": "WAV"}
IN_ARK = re.compile(r"\.ark:\d+$")
SEGMENT_TOLERANCE_SECONDS = 0.1  # rounded times of a segment may exceed its recording
FLAC_START = 8192  # bytes, which have the header
BLOCK = 1 << 20  # values read at once, so that memory depends on the data and not on the header


def parse_rate(text: str) -> int:
    """Return a sampling rate such as ``16k``, ``22.05k`` or ``16000`` in Hz.

    Raises:
        UserError: the text is not a sampling rate.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k?)", text.strip().lower())
    hertz = float(match[1]) * (1000 if match[2] else 1) if match else 0
    if not 1 <= hertz <= 1e6 or hertz != round(hertz):
        raise UserError(f"fs {text!r} is not a sampling rate: write 16k or 16000")
    return round(hertz)


def read_audio(utterance: Utterance) -> tuple[np.ndarray, int]:
    """Return the samples of an utterance at its own sampling rate and speed.

    Returns:
        (N,) float64, full scale 1, and the sampling rate in Hz.

    Raises:
        UserError: the file is missing, unreadable, incomplete, of zero length, or has several channels of
            which none is chosen; a sample is NaN or infinite; or the segment is beyond the end.
    """
    where = f"{utterance.id}: {utterance.audio}"
    if IN_ARK.search(str(utterance.audio)):
        return _read_in_ark(where, utterance)
    if not isfile(utterance.audio):  # Path.is_file raises where a path is too long
        raise UserError(f"{where}: there is no such file")
    try:
        with _SequentialFile(utterance.audio) as f:
            channel = _channel(where, utterance, f.channels)
            rate, frames = f.samplerate, f.frames
            if damage := find_damage(utterance.audio, rate):
                raise UserError(f"{where}: {damage}")
            start, stop = _span(where, utterance, frames, rate)
            samples = _read(f, channel, start, stop)
    except (soundfile.SoundFileError, OSError) as e:
        shortened = " (SPHERE compressed by shorten: unpack it with sph2pipe)"
        hint = shortened if is_shortened(utterance.audio) else ""
        raise UserError(f"{where}: cannot be read as audio{hint}: {e}") from None
    if frames >= UNKNOWN_LENGTH:
        stop = _span(where, utterance, start + len(samples), rate)[1]
    if len(samples) < stop - start:
        raise UserError(f"{where}: ends after {len(samples)} of {stop - start} samples: the file is damaged")
    if not np.isfinite(samples).all():
        raise UserError(f"{where}: sample {int(np.argmin(np.isfinite(samples)))} is NaN or infinite")
    return samples, rate


def read_waveform(wav: str, utt: str) -> tuple[NDArray[np.float32], int]:
    """Return the samples (N,) and the sampling rate of an audio file; N may be 0.

    Raises:
        UserError: the file cannot be read, is incomplete, or has several channels.
    """
    try:
        info = soundfile.info(wav)
    except (soundfile.SoundFileError, OSError) as e:
        if not isfile(wav):
            raise UserError(
                f"{wav} of {utt} does not exist; where wav.scp has relative paths, run this in the "
                "directory of the recipe that wrote it"
            ) from None
        raise UserError(f"{wav} of {utt} cannot be read: {e}") from None
    if not info.frames:
        return np.zeros(0, np.float32), info.samplerate
    samples, rate = read_audio(Utterance(utt, utt, Path(wav), None))
    return samples.astype(np.float32), rate


def read_speech(wav: str, utt: str) -> tuple[NDArray[np.floating[Any]], int]:
    """Return samples (N,) and sampling rate as ESPnet's inference reads them.

    Args:
        wav: entry of wav.scp, an audio file or a position in a Kaldi ark.
        utt: utterance, for messages.

    Returns:
        Samples of an audio file have full scale 1; those of an ark are as stored.

    Raises:
        UserError: the audio cannot be read, or has several channels.
    """
    if not IN_ARK.search(wav):
        return read_waveform(wav, utt)
    speech, rate = _load_sound(wav, utt)
    if speech.ndim > 1:
        raise UserError(f"{wav} of {utt} has {speech.shape[1]} channels instead of one: split the file")
    return speech.astype(np.float32), rate


def rate_of(wav: str, utt: str) -> int | None:
    """Return the sampling rate of an entry of wav.scp in hertz; None if it is no audio that can be read."""
    try:
        rate = _load_sound(wav, utt)[1] if IN_ARK.search(wav) else soundfile.info(wav).samplerate
    except (UserError, soundfile.SoundFileError, OSError):
        return None
    return rate if isinstance(rate, int) else None  # features have none


def length_in_ark(wav: str) -> tuple[int, int] | None:
    """Return samples and sampling rate of FLAC at a position in an ark from its header, without decoding.

    None for other content, and for what cannot be read.
    """
    file, _, place = wav.rpartition(":")
    try:
        with open(file, "rb") as f:
            f.seek(int(place))
            if f.read(5) != b"AUDIO":
                return None
            f.seek(int.from_bytes(f.read(1)), 1)  # over the size
            start = f.read(FLAC_START)
        info = soundfile.info(BytesIO(start)) if start.startswith(b"fLaC") else None
    except (OSError, soundfile.SoundFileError):
        return None
    if info is None or info.channels != 1 or not 0 < info.frames < UNKNOWN_LENGTH:
        return None
    return info.frames, info.samplerate


def _load_sound(wav: str, utt: str) -> tuple[NDArray[Any], int]:
    """Return samples (N,) or (N, channels) and sampling rate at a position in an ark, as they are stored."""
    import kaldiio

    try:
        one, other = kaldiio.load_mat(wav)
    except Exception as e:  # of kaldiio and what it reads by: struct.error, errors of its own
        raise UserError(f"{wav} of {utt} cannot be read: {first_line(e)}") from None
    return (one, other) if isinstance(other, int) else (other, one)


def _read_in_ark(where: str, utterance: Utterance) -> tuple[np.ndarray, int]:
    """Do what ``read_audio`` does for a position in an ark."""
    samples, rate = _load_sound(str(utterance.audio), utterance.id)
    samples = samples if samples.ndim > 1 else samples[:, None]
    samples = samples[:, _channel(where, utterance, samples.shape[1])]
    if samples.dtype.kind == "u":  # WAV of 8 bits, around 128
        samples = samples / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    start, stop = _span(where, utterance, len(samples), rate)
    if not np.isfinite(samples).all():
        raise UserError(f"{where}: sample {int(np.argmin(np.isfinite(samples)))} is NaN or infinite")
    return samples[start:stop].astype(np.float64), rate


def convert(samples: np.ndarray, rate: int, speed: float, fs: int) -> np.ndarray:
    """Change speed and sampling rate in one resampling, (N,) to (N * fs / (rate * speed),)."""
    if rate * speed == fs:
        return samples
    resampled: np.ndarray = soxr.resample(samples, rate * speed, fs)
    return resampled


def to_int16(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """Round samples to 16 bits; samples that were read from 16 bits do not change.

    Returns:
        (N,) int16, and the number of clipped samples.
    """
    scaled = np.rint(samples * 32768)
    clipped = np.count_nonzero((scaled > 32767) | (scaled < -32768))
    return np.clip(scaled, -32768, 32767).astype(np.int16), int(clipped)


def convert_utterance(utterance: Utterance, fs: int) -> tuple[np.ndarray, int]:
    """Read an utterance, and return its samples (N,) int16 at ``fs`` Hz and the number of clipped samples.

    Raises:
        UserError: see ``read_audio``; or the audio is too short to resample.
    """
    samples, rate = read_audio(utterance)
    pcm, clipped = to_int16(convert(samples, rate, utterance.speed, fs))
    if not len(pcm):
        raise UserError(f"{utterance.id}: {utterance.audio}: {len(samples)} samples are too few to resample")
    return pcm, clipped


def write_utterance(utterance: Utterance, target: Path, fs: int, audio_format: str) -> tuple[int, int]:
    """Write the audio of an utterance to a file.

    Returns:
        The number of samples, and of clipped samples.

    Raises:
        UserError: see ``convert_utterance``.
    """
    pcm, clipped = convert_utterance(utterance, fs)
    with atomic_path(target) as tmp:
        tmp.write_bytes(encode(pcm, fs, audio_format))
    return len(pcm), clipped


def encode(pcm: NDArray[np.int16], fs: int, audio_format: str) -> bytes:
    """Return samples (N,) as the content of an audio file.

    libsndfile does not say when the disk is full at the end of a FLAC file; whoever writes these bytes does.
    """
    buffer = BytesIO()
    soundfile.write(buffer, pcm, fs, "PCM_16", format=CONTAINERS[audio_format])
    return buffer.getvalue()


def finished_samples(target: Path) -> int | None:
    """Return the number of samples of a file from an earlier run; None if there is none that is whole."""
    try:
        frames = int(soundfile.info(target).frames)
    except (OSError, soundfile.SoundFileError):
        return None
    return frames if frames < UNKNOWN_LENGTH else None


def samples_in_place(utterance: Utterance, fs: int) -> int | None:
    """Return the number of samples of an utterance's own file, if ESPnet can read it as it is; else None.

    Args:
        utterance: with the audio file.
        fs: sampling rate that is asked for, in hertz.
    """
    if utterance.recording is not None or utterance.speed != 1 or utterance.channel is not None:
        return None
    try:
        found = soundfile.info(utterance.audio)
    except (OSError, soundfile.SoundFileError):
        return None  # to be refused when it is converted, with the reason
    plain = (found.channels, found.samplerate) == (1, fs) and found.format in CONTAINERS.values()
    plain = plain and found.subtype.startswith("PCM")  # others may hold NaN, or lose samples
    plain = plain and find_damage(utterance.audio, fs) is None
    return int(found.frames) if plain and 0 < found.frames < UNKNOWN_LENGTH else None


class _SequentialFile(soundfile.SoundFile):
    """An audio file that is read from front to back.

    After every read soundfile seeks to the current position, which fails at the end of FLAC of unknown
    length.
    """

    def seekable(self) -> bool:
        return False


def _channel(where: str, utterance: Utterance, channels: int) -> int:
    """Return the channel to read, counted from 0."""
    if utterance.channel is None:
        if channels != 1:
            raise UserError(
                f"{where}: {channels} channels instead of one: choose one in utt2ref_channels, or split "
                "the file"
            )
        return 0
    if utterance.channel >= channels:
        raise UserError(f"{where}: utt2ref_channels names channel {utterance.channel} of 0 to {channels - 1}")
    return utterance.channel


def _span(where: str, utterance: Utterance, frames: int, rate: int) -> tuple[int, int]:
    """Return the first sample of the utterance in its file, and the end."""
    if not frames:
        raise UserError(f"{where}: the file has no samples")
    if utterance.start is None or utterance.end is None:
        return 0, frames
    start, stop = round(utterance.start * rate), round(utterance.end * rate)
    if stop > frames + SEGMENT_TOLERANCE_SECONDS * rate or start >= frames:
        raise UserError(
            f"{where}: the segment {utterance.start}-{utterance.end} s is beyond the end "
            f"of the audio at {frames / rate:.3f} s"
        )
    if start >= stop:
        raise UserError(f"{where}: the segment {utterance.start}-{utterance.end} s has zero length")
    return start, min(stop, frames)


def _read(f: _SequentialFile, channel: int, start: int, stop: int) -> np.ndarray:
    """Return samples ``start`` to ``stop`` of a channel, fewer if the file ends before: (N,) float64."""
    if start:
        f.seek(start)
    blocks, left = [np.empty(0)], stop - start
    while left > 0:
        block = f.read(min(left, BLOCK // f.channels), dtype="float64", always_2d=True)
        if not len(block):
            break
        blocks.append(block[:, channel].copy())
        left -= len(block)
    return np.concatenate(blocks)
