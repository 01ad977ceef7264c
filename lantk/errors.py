"""The base of all errors that say what was found, what was wanted, and what to turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A row of an array that a message names."""

    name: str
    """Of the array."""
    number: Any
    """Or the name of its file."""


class LantkError(ValueError):
    """Input, data or a setting that cannot be used; the message is written for the user.

    Where it is about rows, its `text` has places such as ``{0.number}`` for them.
    """

    def __init__(self, text: str = "", rows: Sequence[Row] = ()) -> None:
        super().__init__(text.format(*rows) if rows else text)
        self.text, self.rows = text, tuple(rows)


@contextmanager
def numbering(parts: Mapping[str, tuple[str, Any]], note: str = "") -> Iterator[None]:
    """Say of rows that an error names where they are in the arrays that they were taken from.

    `parts` maps the name of a part to that of its array, and to the numbers of its rows there; what
    it lacks keeps its name and number. The note is added to a message that is changed.
    """
    try:
        yield
    except LantkError as error:
        if not any(row.name in parts for row in error.rows):
            raise
        rows = [
            Row(parts[row.name][0], parts[row.name][1][row.number]) if row.name in parts else row
            for row in error.rows
        ]
        raise type(error)(error.text + note, rows) from error


def shorten(text: str, longest: int = 200) -> str:
    """Return a text without its middle, where it is too long for a message of one line."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"
