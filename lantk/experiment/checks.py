"""The form of a configuration: keys, types and limits, with one line on what is wrong."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from lantk.data.tasks import QUOTING
from lantk.errors import LantkError, shorten
from lantk.experiment.passwords import find_passwords
from lantk.experiment.settings import FIELDS, Limits, Name, Settings, meaning_of

_IN_WORDS = {
    bool: "`true` or `false`",
    int: "a whole number",
    float: "a number",
    dict: "a mapping",
    type(None): "`null`",
}


class ConfigError(LantkError):
    """A configuration that cannot be run; the message names the key and what it should be."""


def check_settings(config: Any) -> None:
    """Raise `ConfigError` with one line on the first thing in a configuration that is no setting.

    A password is refused first of all, so that no message repeats it.
    """
    if isinstance(config, Mapping):
        _check_no_password(config.get("tracking"))
    try:
        _validator().validate_python(config)
    except ValidationError as failure:
        errors = failure.errors(include_url=False, include_context=False, include_input=False)
        raise ConfigError(_explain(config, [(e["loc"], e["type"]) for e in errors])) from None


def read_braces(entries: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mappings and lists among ``KEY=VALUE`` texts, read as a file of YAML is.

    Snakemake takes numbers and null inside of them for text. `given` is what it made of the
    entries; what holds more than text there did not come from a command line, and is left out.

    Examples
    --------
    >>> read_braces(["cnn={seeds: [0], channels: null}"], {"cnn": {"seeds": ["0"]}})
    {'cnn': {'seeds': [0], 'channels': None}}
    """
    found: dict[str, Any] = {}
    for key, _, text in (entry.partition("=") for entry in entries):
        value = given.get(key)
        # What Snakemake could not read either stays text, and is refused as one.
        if isinstance(value, Mapping | list) and _is_text(value):
            with suppress(yaml.YAMLError, ValueError):
                value = yaml.safe_load(text)
                both = isinstance(value, dict) and isinstance(found.get(key), dict)
                found[key] = found[key] | value if both else value
    return found


def fill_in(config: dict[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Give each setting that a checked configuration does not name its default, in place."""
    for key, value in (defaults or dataclasses.asdict(Settings())).items():
        if isinstance(value, dict):
            fill_in(config.setdefault(key, {}), value)
        else:
            config.setdefault(key, value)


def check_folder(key: str, folder: str) -> None:
    """Raise `ConfigError` on a path that commands or a page cannot take."""
    if folder.startswith("-"):
        raise ConfigError(
            f"{key} is {folder!r}: commands take this for an option. Write './{folder}'"
        )
    if not folder.isprintable():
        raise ConfigError(
            f"{key} is {folder!r}: wanted a path without line breaks and other signs that cannot be"
            " seen"
        )


def takes(kind: Any) -> str:
    """Return in words what values a type of `settings` takes.

    Examples
    --------
    >>> takes(Literal["auto"] | Annotated[int, Limits(1, 8)])
    '`auto` or a whole number from 1 to 8'
    """
    limits = Limits()
    if get_origin(kind) is Annotated:
        kind, limits = get_args(kind)
    origin, members = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        texts = [takes(member) for member in members]
        return ("; or " if any("a list" in text for text in texts) else " or ").join(texts)
    if origin is Literal:
        return ", ".join(f"`{member}`" for member in members)
    least, most = limits.least, limits.most
    extent = f"{least} or more" if most is None else f"{least} to {most}"
    if origin is list:
        many = "any number" if least is None else str(least) if least == most else extent
        unequal = ", no two equal" if limits.unequal else ""
        return f"a list of {many}{unequal}, each {takes(members[0])}"
    if origin is str:
        return f"text of {extent} characters" if most else "text (not empty)" if least else "text"
    if dataclasses.is_dataclass(origin):
        return _IN_WORDS[dict]
    above = f" above {limits.above} and up to {most}" if limits.above is not None else ""
    return _IN_WORDS[origin] + (f" from {extent}" if least is not None else above)


@cache
def _validator() -> TypeAdapter[Settings]:
    return TypeAdapter(Settings)


def _check_no_password(tracking: Any) -> None:
    """Refuse what would travel through command lines, logs and the files of runs."""
    uri = tracking.get("uri") if isinstance(tracking, Mapping) else tracking
    if isinstance(uri, str) and find_passwords(uri):
        raise ConfigError(
            "tracking.uri holds a password, which would stand in command lines, logs and runs."
            " Leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the"
            " environment for a server; for a database set tracking.uri to null and"
            " MLFLOW_TRACKING_URI to the whole address"
        )


def _explain(config: Any, errors: list[tuple[tuple[Any, ...], str]]) -> str:
    """Return what was found, what was wanted and what the setting means, by pydantic's errors.

    Of several types that a setting takes, the error that lies deepest counts: of ``[1, "2"]``, for
    a number or a list of numbers, it is the second member.
    """
    location, problem = errors[0]
    if problem in ("unexpected_keyword_argument", "invalid_key"):
        return _explain_key(*location)
    places = [_place(config, location) for location, _ in errors]
    keys = [part for part in places[0] if isinstance(part, str)]
    path = max((place for place in places if place[: len(keys)] == keys), key=len)
    found, kind = config, FIELDS[".".join(keys)].type if keys else Settings
    for part in path:
        found = found[part]
    for _ in path[len(keys) :]:
        kind = _member(kind)
    wanted = takes(kind).replace("`", "")
    text = f"{_dotted(path)} is {shorten(repr(found))}: wanted {wanted}"
    if isinstance(found, str) and "number" in wanted and _is_number(found):
        text += " (YAML reads 1e-4, and all that is in quotes, as text: write 1.0e-4)"
    elif kind == Name:
        text += f" ({QUOTING})"
    return f"{text}. {meaning_of('.'.join(keys))}" if keys else text


def _explain_key(*path: Any) -> str:
    """Return what keys there are beside one that is none of them."""
    outer, unknown = "".join(f"{part}." for part in path[:-1]), str(path[-1])
    inside = [key.removeprefix(outer) for key in FIELDS if key.startswith(outer)]
    known = [key for key in inside if "." not in key]
    # A key that belongs one level deeper is the commoner mistake.
    close = [key for key in inside if key.endswith(f".{unknown}")]
    close = close or difflib.get_close_matches(unknown, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if ":" in unknown:
        hint = "a blank is missing behind the colon. "
    elif close and "." in close[0]:
        section, key = close[0].split(".")
        hint += f"On the command line that is --config '{section}={{{key}: ...}}'. "
    return (
        f"{_dotted(path[:-1])} has no key {shorten(unknown)!r}: {hint}There are {', '.join(known)}"
    )


def _place(config: Any, location: Iterable[Any]) -> list[Any]:
    """Return the keys and numbers of an error's place, without the types that pydantic tried."""
    place: list[Any] = []
    for part in location:
        if isinstance(config, Mapping | list) and (isinstance(part, int) or part in config):
            place.append(part)
            config = config[part]
    return place


def _member(kind: Any) -> Any:
    """Return the type of the members of a list, where a setting takes one among others."""
    if get_origin(kind) is list:
        return get_args(kind)[0]
    return next(filter(None, map(_member, get_args(kind))), None)


def _is_text(value: Any) -> bool:
    if isinstance(value, Mapping | list):
        return all(map(_is_text, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, str)


def _dotted(path: Iterable[Any]) -> str:
    return ".".join(map(str, path)) or "the configuration"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
