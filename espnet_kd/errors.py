"""The one exception that a user's mistake raises when no built-in one fits."""


class UserError(Exception):
    """Something the user can put right; its message is one line that says what and how."""
