"""Text files as LDC and NIST distribute them, line by line."""

from collections.abc import Iterator
from pathlib import Path

from espnet_kd.errors import UserError


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(``FILE:LINE``, the line) of every line that is not empty.

    The files are ASCII; read as Latin-1, a stray byte beyond it can be written again as it was.

    Raises:
        UserError: the file does not exist.
    """
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", line
