"""The one exception that a user's mistake raises outside the criteria."""


class UserError(ValueError):
    """Something the user can put right; its message is one line that says what and how."""
