"""The head of a FLAC file: what is in it, without decoding it."""

from dataclasses import dataclass
from pathlib import Path

from espnet_kd.errors import UserError

MAGIC = b"fLaC"
STREAM_INFO = 0  # number of the metadata block that comes first
HEAD = 42  # bytes of the magic number and of that block, RFC 9639, section 8
FORMAT = slice(18, 26)  # 20 bits rate, 3 channels - 1, 5 bits a sample - 1, 36 samples per channel


@dataclass(frozen=True)
class FlacHead:
    """Attributes: rate in Hz; channels; samples per channel, 0 where the encoder did not know."""

    rate: int
    channels: int
    samples: int


def read_flac_head(path: str | Path) -> FlacHead:
    """Read the first 43 bytes of a file.

    Raises:
        UserError: it cannot be opened, is not FLAC, or ends where the audio would begin.
    """
    try:
        with open(path, "rb", buffering=0) as f:
            head = f.read(HEAD + 1)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
    if not head:
        raise UserError(f"{path} is empty: copy it again")
    if not head.startswith(MAGIC) or (len(head) > 4 and head[4] & 0x7F != STREAM_INFO):
        raise UserError(f"{path} is not a FLAC file: copy it again")
    if len(head) <= HEAD:
        raise UserError(f"{path} ends before the audio: copy it again")
    bits = int.from_bytes(head[FORMAT])
    return FlacHead(bits >> 44, (bits >> 41 & 0b111) + 1, bits & (1 << 36) - 1)
