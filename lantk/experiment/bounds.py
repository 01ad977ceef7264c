"""What a configuration may hold at all, whatever its keys: what can be checked and passed on.

A schema says which values a key takes. Before it can be asked, no value may be so deep, so long or
so large that asking, or telling what was found, fails or never ends.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lantk.errors import LantkError, shorten

_DEEPEST = 16
# A few references in YAML stand for a billion values.
_MOST_VALUES = 20_000
# Whether members of a list differ takes the square of their number in the worst case.
_LONGEST_LIST = 2_000
_LONGEST_TEXT = 4_000
# Beyond it a float is infinite, and Python refuses to print a whole number in full.
_LARGEST = 10**300
# Linux takes 131,072 bytes as one argument, which a command is to its shell; Snakemake adds a few.
_LONGEST_COMMAND = 120_000
# A file system takes names of 255 bytes; temporary ones and Snakemake's own add to them.
_LONGEST_NAME = 150
_LONGEST_PATH = 1_000


class ConfigError(LantkError):
    """A configuration that cannot be run; the message names the key and what it should be."""


def check_bounds(config: Any) -> None:
    """Raise `ConfigError` on what is nested, long or large beyond use, or cannot be written down.

    Text without its characters (half of a surrogate pair) and with the character NUL, which no
    file name and no command can hold, counts as such.
    """
    for n, (path, value) in enumerate(_walk(config)):
        where = ".".join(path) or "the configuration"
        if len(path) > _DEEPEST or n > _MOST_VALUES:
            raise ConfigError(
                f"{shorten(where)} is nested too deep, or a part is repeated too often: wanted at"
                f" most {_DEEPEST} levels and {_MOST_VALUES:,} values"
            )
        if isinstance(value, str):
            _check_text(where, value)
        elif isinstance(value, int) and not -_LARGEST < value < _LARGEST:
            raise ConfigError(
                f"{shorten(where)} is a whole number of {value.bit_length():,} binary digits:"
                " wanted one that a computer can calculate with"
            )
        elif isinstance(value, list | tuple) and len(value) > _LONGEST_LIST:
            raise ConfigError(
                f"{shorten(where)} has {len(value):,} members: wanted at most {_LONGEST_LIST:,}"
            )


def check_folder(key: str, folder: str) -> None:
    """Raise `ConfigError` on a path that commands, file systems or a page cannot show or take."""
    if folder.startswith("-"):
        raise ConfigError(
            f"{key} is {shorten(repr(folder))}: commands take this for an option. Write"
            f" {shorten(repr(f'./{folder}'))}"
        )
    if not folder.isprintable():
        raise ConfigError(
            f"{key} is {shorten(repr(folder))}: wanted a path without line breaks and other signs"
            " that cannot be seen"
        )
    n_longest = max(len(part.encode()) for part in folder.split("/"))
    if n_longest > _LONGEST_NAME or len(folder.encode()) > _LONGEST_PATH:
        raise ConfigError(
            f"{key} is {shorten(repr(folder))}, {len(folder.encode()):,} bytes with a name of"
            f" {n_longest:,}: wanted at most {_LONGEST_PATH:,}, with names of at most"
            f" {_LONGEST_NAME}"
        )


def check_command(config: Mapping[str, Any], words: Iterable[str]) -> None:
    """Raise `ConfigError` if the longest command, with the configuration and `words`, is too long.

    Otherwise the last jobs would be the first to fail.
    """
    quoted = [shlex.quote(word) for word in (json.dumps(config, sort_keys=True), *words)]
    n_bytes = sum(len(word.encode()) + 1 for word in quoted)
    if n_bytes > _LONGEST_COMMAND:
        raise ConfigError(
            f"the configuration and the names of all cases make a command of {n_bytes:,} bytes:"
            f" wanted at most {_LONGEST_COMMAND:,}. Make several experiments of it, each with a"
            " results folder of its own"
        )


def is_finite(value: float) -> bool:
    """Return whether a number, of any size, is a finite float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _check_text(where: str, text: str) -> None:
    if len(text) > _LONGEST_TEXT:
        raise ConfigError(
            f"{shorten(where)} is a text of {len(text):,} characters: wanted at most"
            f" {_LONGEST_TEXT:,}"
        )
    if bad := re.search("[\0\ud800-\udfff]", text):
        raise ConfigError(
            f"{shorten(where)} is {shorten(ascii(text))}: the sign {bad[0]!a} can stand in no"
            " file name and no command"
        )


def _walk(config: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value with the keys that lead to it, keys of a mapping among the values.

    Without recursion, which a deep value would exhaust, and level by level, so that a value which
    holds itself is met again and again.
    """
    waiting: list[tuple[tuple[str, ...], Any]] = [((), config)]
    for path, value in waiting:
        yield path, value
        if len(waiting) > 2 * _MOST_VALUES:
            continue  # too many already: nothing more is taken up
        inner: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, Mapping):
            inner = value.items()
        elif isinstance(value, list | tuple):
            inner = enumerate(value)
        for key, member in inner:
            if isinstance(value, Mapping):
                waiting.append(((*path, "key"), key))
            waiting.append(((*path, _name(key)), member))


def _name(key: Any) -> str:
    """Return a key as a message shows it; it may be a number that cannot be printed."""
    is_huge = isinstance(key, int) and not -_LARGEST < key < _LARGEST
    return "a key" if is_huge else shorten(ascii(key) if not isinstance(key, str) else key)
