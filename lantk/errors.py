"""The base of all errors that say what was found, what was wanted, and what to turn."""


class LantkError(ValueError):
    """Input, data or a setting that cannot be used; the message is written for the user."""
