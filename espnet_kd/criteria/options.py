"""Checks of option values as they come out of a YAML file; each error is one line that names the way out."""

import difflib
import math
from collections.abc import Iterable
from typing import Any, get_args


def near_misses(name: object, known: Iterable[str]) -> str:
    """Say what a misspelt name may have meant and what there is: "did you mean x? known: x, y"."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name).lower(), names, cutoff=0.5)  # k1 is near kl
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}known: {', '.join(names) or 'none'}"


def check_choice(option: str, value: Any, choices: Any) -> Any:
    """Return value if it is one of the strings of the Literal type `choices`.

    Raises:
        ValueError: it is not.
    """
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"{option} is {value!r}; {near_misses(value, known)}")
    return value


def check_positive(option: str, value: Any) -> float:
    """Return value if it is a finite number above 0.

    Raises:
        ValueError: it is not; YAML reads 1e-1 as a string.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{option} is {value!r}: give a finite number above 0, written like 2.0")
    return value


def check_size(option: str, value: Any) -> int:
    """Return value if it is an integer of at least 1.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{option} is {value!r}: give an integer of at least 1")
    return value
