"""The one exception that a user's mistake raises outside the criteria, and text that is safe to show."""

import re

# What moves a terminal's cursor, breaks a line, turns the direction of writing, or cannot be encoded.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST = 2000  # characters of a message, which may quote a foreign file


class UserError(ValueError):
    """Something the user can put right; its message is one line that says what and how."""

    def __str__(self) -> str:
        text = printable(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def printable(text: str) -> str:
    r"""Text in one line that a terminal shows and does not obey: control characters as ``\x1b`` and so on."""
    if text.isascii() and text.isprintable():  # most are, and this is ten times as fast
        return text
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
