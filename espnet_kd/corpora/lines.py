"""Text files as LDC and NIST distribute them, line by line."""

from collections.abc import Iterator
from pathlib import Path

from espnet_kd.files import read_text


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``FILE:LINE``, the line) of every line that is not empty.

    The files are ASCII; read as Latin-1, a stray byte beyond it can be written again as it was.

    Raises:
        UserError: the file cannot be read.
    """
    # Not splitlines: it divides at the bytes 0x1c to 0x1e and 0x85, too.
    for number, line in enumerate(read_text(path, "latin-1").split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line
