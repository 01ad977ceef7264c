"""The form of a configuration: types, keys and limits, with one line on what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import jsonschema

from lantk.errors import shorten
from lantk.experiment.bounds import ConfigError, check_bounds
from lantk.experiment.config import _as_list
from lantk.experiment.passwords import find_passwords

_TYPE_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def check_schema(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise `ConfigError` with one line on the first thing that the schema does not accept.

    A password is refused first of all, so that no message repeats it.

    Parameters
    ----------
    config : mapping
        The configuration.
    schema : mapping
        A JSON schema (draft 2020-12). Its descriptions are part of the messages.
    """
    if isinstance(config, Mapping):
        _check_no_password(config.get("tracking"))
    check_bounds(config)
    # JSON has one kind of number, YAML two: 5.0 folds are a mistake, and true is no number.
    checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=checker)
    error = jsonschema.exceptions.best_match(validator(schema).iter_errors(config))
    if error is not None:
        raise ConfigError(_explain(error))


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


def _explain(error: jsonschema.ValidationError) -> str:
    """Return what was found, what was wanted, and the description of the key."""
    where = ".".join(map(str, error.absolute_path)) or "the configuration"
    found, wanted = error.instance, error.validator_value
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = next(str(key) for key in found if key not in known)
        close = difflib.get_close_matches(unknown, known, n=1)
        # A key that belongs one level deeper is the commoner mistake.
        deeper = [
            f"{key}.{unknown}"
            for key, schema in error.schema["properties"].items()
            if unknown in schema.get("properties", {})
        ]
        close = deeper or close
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{where} has no key {shorten(unknown)!r}: {hint}There are {', '.join(known)}"
    text = f"{where}: {shorten(error.message)}"
    if error.validator in ("type", "oneOf"):
        schemas = [{"type": wanted}] if error.validator == "type" else wanted
        kinds = [kind for schema in schemas for kind in _kinds(schema)]
        text = f"{where} is {shorten(repr(found))}: wanted {' or '.join(kinds)}"
        if isinstance(found, str) and {_TYPE_NAMES["number"], _TYPE_NAMES["integer"]} & set(kinds):
            text += " (YAML reads 1e-4 as text: write 1.0e-4; numbers inside the braces of --config"
            text += " arrive as text too: give them in a file, with --configfile)"
    elif error.validator == "enum":
        text = f"{where} is {shorten(repr(found))}: wanted {', '.join(map(str, wanted))}"
    description = error.schema.get("description")
    return text + (f". {description}" if description else "")


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """Return what a schema takes, in words: its one value, or its types."""
    if "const" in schema:
        return [str(schema["const"])]
    return [_TYPE_NAMES[kind] for kind in _as_list(schema["type"])]
