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

MP3 = rb"ID3|\xff[\xe0-\xff]"
ID3_HEADER = 10  # bytes
MP3_HEADER = 48  # bytes of a frame, where the first may have the mark Xing or Info, with the number of frames
MOST_FRAMES = 10_000  # several minutes
MP3_KILOBITS = (  # by the index in the header of a frame: of MPEG 2 and 2.5, and of MPEG 1; 0 is no rate
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
)
FLAC_HEADER = 42  # bytes of the magic number and the first metadata block, RFC 9639, section 8
UNKNOWN_LENGTH = 1 << 62  # libsndfile reports so many samples or more for FLAC written into a pipe
ByteOrder = Literal["big", "little"]


def find_damage(path: Path, rate: int) -> str | None:
    """Describe the damage of a file that is shorter than in its header or has an impossible sampling rate.

    Checks the lengths of WAV, AIFF, AU and SPHERE. In FLAC, MP3 and CAF decoding finds missing data; in Ogg
    and rare formats, such as W64 and VOC, they go unnoticed. Of MP3 that does not give its length libsndfile
    estimates it from the first frame, and reads no further.

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
        if re.match(MP3, start) and _is_mp3_of_unknown_length(f):
            return "is MP3 of variable bit rate without its length, and would be read in part: make it FLAC"
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


def _is_mp3_of_unknown_length(f: BinaryIO) -> bool:
    """Return True if the bit rate of MP3 varies, and its first frame does not give the number of frames."""
    f.seek(0)
    head = f.read(ID3_HEADER)
    if head.startswith(b"ID3"):  # a size of four times 7 bits
        f.seek(ID3_HEADER + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:]))))
    else:
        f.seek(0)
    found = set()
    for number in range(MOST_FRAMES):
        head = f.read(MP3_HEADER)
        if len(head) < MP3_HEADER or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # no frame of layer III
            break
        if not number and re.search(b"Xing|Info", head):
            return False
        old, rate = head[1] & 0x18 == 0x18, head[2] >> 2 & 3  # MPEG 1
        kilobits = MP3_KILOBITS[old][head[2] >> 4]
        if not kilobits or rate == 3:
            break
        found.add(kilobits)
        hertz = (44100, 48000, 32000)[rate] >> {0x18: 0, 0x10: 1}.get(head[1] & 0x18, 2)
        size = (144 if old else 72) * 1000 * kilobits // hertz + (head[2] >> 1 & 1)
        f.seek(size - MP3_HEADER, 1)
    return len(found) > 1


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
