"""Audio in blocks, so that a recording of any length takes little memory: of a file, or of a pipe."""

import wave
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from espnet_kd.data.headers import RATES, find_damage
from espnet_kd.errors import UserError

Samples = NDArray[np.float32]  # (N,), full scale 1
BLOCK_SECONDS = 0.1
QUIET_SECONDS = 0.1  # length of what is compared to find a quiet moment
# First bytes of audio that is neither WAV nor without a header -> what it is.
OTHER_HEADERS = {
    b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3\x03": "MP3", b"ID3\x04": "MP3", b"NIST": "SPHERE", b"FORM": "AIFF",
    b".snd": "AU", b"caff": "CAF", b"RF64": "RF64", b"RIFX": "RIFX", b"\x1aE\xdf\xa3": "WebM",
}  # fmt: skip
UNKNOWN_BYTES = 0x7F000000  # that a header of WAV has at least where its writer did not know the length
WIDTHS = {1: "u1", 2: "<i2", 4: "<i4"}  # bytes of a sample of WAV -> type


@dataclass(frozen=True)
class Recording:
    """Audio of one channel.

    Attributes:
        name: for messages.
        rate: in hertz.
        blocks: its samples; can be read once.
    """

    name: str
    rate: int
    blocks: Iterator[Samples]

    def at_rate(self, rate: int) -> Iterator[Samples]:
        """Yield the samples at another sampling rate, resampled by soxr as they come."""
        return self.blocks if rate == self.rate else _resampled(self.blocks, self.rate, rate)


@contextmanager
def open_file(path: Path, channel: int | None = None) -> Iterator[Recording]:
    """Open an audio file.

    Args:
        path: the file.
        channel: from 1; None for a file with one channel.

    Raises:
        UserError: there is no such file or channel, or it is damaged, empty or no audio; some damage is found
            when the blocks are read.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give an audio file, or - for a pipe")
    try:
        f = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError) as e:
        raise _not_audio(path, e) from None
    with f:  # an error of whoever uses the blocks, such as of writing into a pipe, is not the file's
        try:
            if damage := find_damage(path, f.samplerate):
                raise UserError(f"{path} {damage}")
            if not f.frames:
                raise UserError(f"{path} has no samples: record it again")
        except OSError as e:
            raise _not_audio(path, e) from None
        chosen = _choose(str(path), f.channels, channel)
        yield Recording(str(path), f.samplerate, _blocks_of(f, path, chosen))


def _not_audio(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as audio: {error}: is it an audio file?")


def _blocks_of(f: soundfile.SoundFile, path: Path, channel: int) -> Iterator[Samples]:
    count = 0
    while len(block := _read(f, path)):
        if not np.isfinite(block).all():
            raise UserError(f"{path} has samples that are NaN or infinite: convert it again")
        count += len(block)
        yield block[:, channel].copy()
    if count < f.frames < np.iinfo(np.int64).max >> 1:
        raise UserError(f"{path} ends after {count} of {f.frames} samples: copy it again")


def _read(f: soundfile.SoundFile, path: Path) -> Any:
    try:
        return f.read(round(BLOCK_SECONDS * f.samplerate), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as e:
        raise _not_audio(path, e) from None


def open_pipe(pipe: BinaryIO, rate: int, channel: int | None = None) -> Recording:
    """Open a pipe that carries WAV, or samples of 16 bits, little-endian, of one channel, without a header.

    Args:
        pipe: read in blocks, as they come.
        rate: sampling rate of samples without a header, in hertz.
        channel: from 1; None for one channel.

    Raises:
        UserError: it is audio of another format; the header of the WAV is damaged, or of another kind than
            PCM, or lacks the channel; or the WAV ends before its end, which is found when it is read.
    """
    start = pipe.read(4)
    if start in OTHER_HEADERS:
        raise UserError(
            f"the pipe carries {OTHER_HEADERS[start]}: give the file, or send WAV, as "
            "`ffmpeg -i FILE -f wav -` does"
        )
    if start != b"RIFF":
        chosen = _choose("-", 1, channel)
        return Recording("-", rate, _blocks_of_pipe(_Again(start, pipe), 1, 2, chosen, rate, 0))
    try:
        source: Any = _Again(start, pipe)  # has what `wave` needs, which is read and no more
        header = wave.open(source)
    except (wave.Error, EOFError) as e:
        reason = str(e) or "it ends in its header"
        raise UserError(f"the WAV in the pipe cannot be read: {reason}: send PCM") from None
    width, channels, rate = header.getsampwidth(), header.getnchannels(), header.getframerate()
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"the WAV in the pipe has {rate} samples per second in its header: send it again")
    if width not in WIDTHS:
        raise UserError(f"the WAV in the pipe has samples of {8 * width} bits: send 16 bits")
    chosen = _choose("-", channels, channel)
    frames = header.getnframes()
    promised = frames if frames * channels * width < UNKNOWN_BYTES else 0
    return Recording("-", rate, _blocks_of_pipe(header, channels, width, chosen, rate, promised))


class _Again:
    """A pipe of which the first bytes have been read already."""

    def __init__(self, start: bytes, pipe: BinaryIO) -> None:
        self._start, self._pipe = start, pipe

    def read(self, size: int) -> bytes:
        start, self._start = self._start[:size], self._start[size:]
        return start + self._pipe.read(size - len(start)) if size > len(start) else start

    def readframes(self, frames: int) -> bytes:
        """Read samples of 16 bits."""
        return self.read(2 * frames)


def _blocks_of_pipe(
    source: "wave.Wave_read | _Again", channels: int, width: int, channel: int, rate: int, promised: int
) -> Iterator[Samples]:
    frame, count = channels * width, 0
    while data := _next(source, max(1, round(BLOCK_SECONDS * rate))):
        data = data[: len(data) - len(data) % frame]  # of a writer that was ended within a sample
        count += len(data) // frame
        values = np.frombuffer(data, WIDTHS[width]).reshape(-1, channels)[:, channel].astype(np.float32)
        yield (values - np.float32(128 if width == 1 else 0)) / np.float32(2 ** (8 * width - 1))
    if data is not None and count < promised:
        raise UserError(f"the WAV in the pipe ends after {count} of {promised} samples: send it again")


def _next(source: "wave.Wave_read | _Again", frames: int) -> bytes | None:
    """Read samples; None at Ctrl-C, which ends the program that sends them, too, and so the audio."""
    try:
        return source.readframes(frames)
    except KeyboardInterrupt:
        return None


def _choose(name: str, channels: int, channel: int | None) -> int:
    """Return the index of the channel to read.

    Raises:
        UserError: there are several and none is chosen, or there is no such channel.
    """
    if channel is None and channels > 1:
        raise UserError(f"{name} has {channels} channels: choose one with --channel 1 to {channels}")
    if channel is not None and not 1 <= channel <= channels:
        raise UserError(f"{name} has {channels} channels, but --channel is {channel}: choose one that it has")
    return (channel or 1) - 1


def _resampled(blocks: Iterable[Samples], rate: int, wanted: int) -> Iterator[Samples]:
    stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def regrouped(blocks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """Yield the same samples in blocks of a size; the last has what is left over, perhaps nothing."""
    left = np.zeros(0, np.float32)
    for block in blocks:
        left = np.concatenate([left, block])
        while len(left) >= size:
            yield left[:size]
            left = left[size:]
    yield left


def pieces(blocks: Iterable[Samples], rate: int, longest: float) -> Iterator[Samples]:
    """Cut speech at quiet moments into pieces of ``longest / 2`` to ``longest`` seconds.

    Speech that is not longer stays whole; only the last piece can be shorter.
    """
    most, window = round(longest * rate), max(1, round(QUIET_SECONDS * rate))
    left = np.zeros(0, np.float32)
    for block in blocks:
        left = np.concatenate([left, block])
        while len(left) > most:
            power = np.cumsum(np.square(left[most // 2 : most], dtype=np.float64))
            cut = most // 2 + int((power[window:] - power[:-window]).argmin()) + window // 2
            yield left[:cut]
            left = left[cut:]
    if len(left):
        yield left
