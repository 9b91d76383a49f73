"""Read the headers of audio files, and detect incomplete files without decoding them."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import soundfile

from espnet_kd.errors import UserError

TOLERANCE = 64  # bytes; some programs count the header as audio
STREAMED = 0x7FFF0000  # larger sizes mean that the writer did not know the size, as in a pipe
MOST_CHUNKS = 1000
RATES = (1000, 1_000_000)  # Hz; other rates are damage, for which resampling would fill the memory
SPHERE_FIELDS = (b"sample_count", b"channel_count", b"sample_n_bytes")  # sample_count is per channel
SPHERE_HEADER = 1024  # bytes

FLAC_HEADER = 42  # bytes of the magic number and the first metadata block, RFC 9639, section 8
UNKNOWN_LENGTH = 1 << 62  # libsndfile reports so many samples or more for FLAC written into a pipe
ByteOrder = Literal["big", "little"]


def find_damage(path: Path, rate: int) -> str | None:
    """Describe the damage of a file that is shorter than in its header or has an impossible sampling rate.

    Checks the lengths of WAV, AIFF, AU and SPHERE. In FLAC, MP3 and CAF decoding finds missing data; in Ogg
    and rare formats, such as W64 and VOC, they go unnoticed.

    Args:
        path: an audio file that libsndfile can open.
        rate: its sampling rate in Hz according to libsndfile.

    Returns:
        Predicate and advice for an error message; None if nothing is wrong.
    """
    if not RATES[0] <= rate <= RATES[1]:
        return f"has {rate} samples per second according to its header: copy it again"
    with path.open("rb") as f:
        start = f.read(12)
        end = next((find(f) for magic, find in FORMATS.items() if re.match(magic, start, re.DOTALL)), None)
        size = f.seek(0, 2)
    if end is not None and size + TOLERANCE < end:
        return f"was cut off, it has {size} of {end} bytes: copy it again"
    return None


def is_shortened(path: Path) -> bool:
    """Return True for a SPHERE file that is compressed by shorten."""
    with path.open("rb") as f:
        header = f.read(SPHERE_HEADER)
    return header.startswith(b"NIST_1A") and b"shorten" in header


def _riff(f: BinaryIO) -> int | None:
    """Return where the data of RIFF, RIFX, RF64 or AIFF end, in bytes; None if unknown."""
    f.seek(0)
    start = f.read(12)
    order: ByteOrder = "big" if start[:4] in (b"RIFX", b"FORM") else "little"
    large = None
    for _ in range(MOST_CHUNKS):
        head = f.read(8)
        if len(head) < 8:
            break
        size = int.from_bytes(head[4:], order)
        if head[:4] in (b"data", b"SSND"):
            if size == 0xFFFFFFFF and large is not None:
                return f.tell() + large
            return f.tell() + size if size < STREAMED else None
        if head[:4] == b"ds64":
            large = int.from_bytes(f.read(16)[8:], order)
            size -= 16
        f.seek(max(size, 0) + size % 2, 1)
    return None


def _au(f: BinaryIO) -> int | None:
    """Return where the data of AU end, in bytes; None if unknown."""
    f.seek(0)
    order: ByteOrder = "big" if f.read(4) == b".snd" else "little"
    offset, size = (int.from_bytes(f.read(4), order) for _ in range(2))
    return offset + size if size < STREAMED else None


def _sphere(f: BinaryIO) -> int | None:
    """Return where the data of SPHERE end, in bytes; None if unknown or compressed."""
    f.seek(0)
    head = f.read(1 << 14)
    if (size := re.match(rb"NIST_1A\n *(\d{1,6})\n", head)) is None or b"shorten" in head:
        return None
    fields = [
        re.search(rb"\n%s -(?:i|s\d) (\d{1,15})\s" % name, head[: int(size[1])]) for name in SPHERE_FIELDS
    ]
    if None in fields:
        return None
    samples, channels, width = (int(field[1]) for field in fields if field)
    return int(size[1]) + samples * channels * width


FORMATS: dict[bytes, Callable[[BinaryIO], int | None]] = {
    b"RI(FF|FX)....WAVE|RF64....WAVE|FORM....AIF[FC]": _riff,
    rb"\.snd|dns\.": _au,
    b"NIST_1A": _sphere,
}


def flac_info(path: str | Path) -> Any:
    """Return what ``soundfile.info`` finds in the header of a FLAC file: samplerate, channels, frames.

    Raises:
        UserError: the file cannot be opened, is not FLAC, or ends before the audio.
    """
    try:
        size = os.stat(path).st_size
        info = soundfile.info(path) if size > FLAC_HEADER else None  # it opens a mere header
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
    except soundfile.SoundFileError:
        raise UserError(f"{path} is not a FLAC file, or its header is damaged: copy it again") from None
    if info is None:
        raise UserError(f"{path} {'ends before the audio' if size else 'is empty'}: copy it again")
    if info.format != "FLAC":
        raise UserError(f"{path} is not a FLAC file but {info.format}: copy it again")
    return info
