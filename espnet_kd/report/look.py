"""The look of every picture."""

from collections.abc import Sequence
from typing import Literal

Kind = Literal["alone", "method", "teacher"]


def method_colours(names: Sequence[str]) -> dict[str, str]:
    """Return name of a method -> colour: the first five differ, the others are black.

    For several pictures of one report: give the methods of the headline first, and hand the result to each.
    """
    raise NotImplementedError
