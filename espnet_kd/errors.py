"""The exception for mistakes of the user, and functions that make text safe to print."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

# Characters that move the cursor, break a line, change the direction of writing, or cannot be encoded.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST = 2000  # characters of a message, which may quote a file
# Set to 1 it does what `espnet-kd --debug` does, for commands that a recipe runs.
DEBUG = "ESPNET_KD_DEBUG"


class UserError(ValueError):
    """A mistake that the user can correct; the message is one line that names it and the correction."""

    def __str__(self) -> str:
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """Make a ``UserError`` of a ``ValueError`` in the block, which calls a criterion with what a user chose.

    Criteria and lattice losses import torch only, so they raise ``ValueError`` for shapes and options that do
    not fit; whoever calls them knows which part of the user's configuration that is.

    Args:
        where: that part, such as ``criterion ctc``; it begins the message.

    Raises:
        UserError: the block raises a ``ValueError``.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as e:
        raise UserError(f"{where}: {e}") from e


@contextmanager
def decoding_of(audio: str) -> Iterator[None]:
    """Make a ``UserError`` of what a model raises in the block, which decodes some speech.

    Args:
        audio: what is decoded, such as a file and an utterance; it begins the message.

    Raises:
        UserError: the block raises it, or an error of models.
    """
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError, IndexError) as e:
        raise UserError(f"{audio} cannot be decoded: {first_line(e)}") from e


def debugging() -> bool:
    """Return True if the traceback of a ``UserError`` is to be shown."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def error_line(error: Exception) -> str:
    """Return the one line in which a command ends because of an error."""
    return f"espnet-kd: error: {printable(str(error))}"


def printable(text: str) -> str:
    r"""Return a text on one line in which control characters are escaped as ``\x1b`` and so on."""
    if text.isascii() and text.isprintable():  # true of most texts, and ten times as fast
        return text
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def first_line(error: BaseException, longest: int = 200) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    text = str(error).strip()
    return text.splitlines()[0][:longest] if text else type(error).__name__
