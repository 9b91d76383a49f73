"""NIST SPHERE files: libsndfile reads them, but not those that are compressed by shorten."""

from pathlib import Path

HEADER_BYTES = 1024


def is_shortened(path: Path) -> bool:
    """True if the header of a SPHERE file says that its samples are compressed by shorten."""
    with path.open("rb") as f:
        header = f.read(HEADER_BYTES)
    return header.startswith(b"NIST_1A") and b"shorten" in header
