"""What a preparation leaves out or finds odd, counted: nothing goes silently."""

import sys
from collections import Counter

from espnet_kd.errors import printable


class Tally:
    """Counts by reason, and the place where each came first."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """Count one more."""
        self._counts[reason] += 1
        self._first.setdefault(reason, where)

    def __getitem__(self, reason: str) -> int:
        return self._counts[reason]

    def __str__(self) -> str:
        """``2 without words (first: FILE:1), 1 without audio (first: FILE:3)``, or ``none``."""
        parts = [f"{n} {reason} (first: {self._first[reason]})" for reason, n in sorted(self._counts.items())]
        return ", ".join(parts) or "none"

    def __bool__(self) -> bool:
        return bool(self._counts)


def warn(message: str) -> None:
    """Say on standard error what is odd but no error."""
    print(f"warning: {printable(message)}", file=sys.stderr)
