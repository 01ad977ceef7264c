"""The base of all errors that say what was found, what was wanted, and what to turn."""


class LantkError(ValueError):
    """Input, data or a setting that cannot be used; the message is written for the user."""


def shorten(text: str, longest: int = 200) -> str:
    """Return a text without its middle, where it is too long for a message of one line."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"
