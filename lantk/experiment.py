"""The configuration of an experiment, checked before any job starts.

Beside the command line, this is the one place that reads the configuration dictionary.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from lantk.architecture import parse_architecture
from lantk.data import ClassPair, describe, fingerprint, resolve_pair, resolve_sizes
from lantk.errors import LantkError
from lantk.kernel.bands import count_bands, count_visits, name_bands

_TYPE_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


class ConfigError(LantkError):
    """A configuration that cannot be run; the message names the key and what it should be."""


@dataclass(frozen=True)
class Experiment:
    """What the workflow must know of the data before its jobs are planned."""

    pairs: dict[str, ClassPair]
    """Slug -> class pair, in the order of the configuration."""
    sizes: dict[str, tuple[int, int]]
    """Slug -> (n_train, n_test)."""
    bands: dict[str, list[str]]
    """Slug -> names of the row bands of its Gram matrices."""
    data_fingerprint: str
    """Changes when files of the data do."""


def check_schema(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise `ConfigError` with one line on the first thing that the schema does not accept.

    Parameters
    ----------
    config : mapping
        The configuration.
    schema : mapping
        A JSON schema (draft 2020-12). Its descriptions are part of the messages.
    """
    # JSON has one kind of number, YAML two: 5.0 folds are a mistake, and true is no number.
    checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=checker)
    error = jsonschema.exceptions.best_match(validator(schema).iter_errors(config))
    if error is not None:
        raise ConfigError(_explain(error))


def resolve_experiment(config: Mapping[str, Any]) -> Experiment:
    """Return pairs and sizes of a configuration that the schema accepts, or say why it cannot run.

    Raises
    ------
    ConfigError, DataError, ArchitectureError
        If keys do not fit together, or do not fit the data.
    """
    architecture = parse_architecture(config["architecture"])
    channels = config["cnn"]["channels"]
    if channels is not None and len(channels) != len(architecture.convs):
        raise ConfigError(
            f"cnn.channels has {len(channels)} numbers, and the architecture"
            f" {len(architecture.convs)} convolutions: give one a convolution, or null"
        )
    for protocol, weights in config["label_weights"].items():
        if not all(map(math.isfinite, weights)):
            raise ConfigError(f"label_weights.{protocol} is {weights}: wanted finite numbers")
    results = Path(config["results"])
    if any(path.is_file() for path in (results, *results.parents)):
        raise ConfigError(f"results is {config['results']!r}: a file is in the way of this folder")
    task, source = config["task"], config["data"]
    if task["pairs"] is None:
        raise ConfigError("task.pairs is null: name at least one class pair, such as [[3, 8]]")
    description = describe(source["source"], source["path"])
    resolved = [resolve_pair(description, pair) for pair in task["pairs"]]
    pairs = {pair.slug: pair for pair in resolved}
    if len(pairs) < len(resolved):
        raise ConfigError(f"task.pairs names a class pair twice: {task['pairs']}")
    sizes = {
        slug: resolve_sizes(description, pair, task["n_train"], task["n_test"])
        for slug, pair in pairs.items()
    }
    for slug, (n_train, _) in sizes.items():
        if "honest" in config["protocols"] and n_train // 2 < config["folds"]:
            raise ConfigError(
                f"folds is {config['folds']}, and {slug} has {n_train // 2} train images of each"
                " class: lower folds or raise task.n_train"
            )
    kernel, (_, height, width) = config["kernel"], description.image_shape
    visits = count_visits(architecture, height, width)
    bands = {}
    for slug, (n_train, n_test) in sizes.items():
        n_bands = kernel["bands"]
        if n_bands == "auto":
            n_bands = count_bands(n_train, n_test, visits, config["device"])
        elif n_bands > n_train:
            raise ConfigError(
                f"kernel.bands is {n_bands}, and {slug} has {n_train} train images: wanted at most"
                " that many, or auto"
            )
        bands[slug] = name_bands(n_bands)
    return Experiment(pairs, sizes, bands, fingerprint(source["source"], source["path"]))


def _explain(error: jsonschema.ValidationError) -> str:
    """Return what was found, what was wanted, and the description of the key."""
    where = ".".join(map(str, error.absolute_path)) or "the configuration"
    found, wanted = error.instance, error.validator_value
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = next(str(key) for key in found if key not in known)
        close = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{where} has no key {unknown!r}: {hint}There are {', '.join(known)}"
    text = f"{where}: {error.message}"
    if error.validator == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        text = f"{where} is {found!r}: wanted {' or '.join(_TYPE_NAMES[kind] for kind in kinds)}"
        if isinstance(found, str) and {"number", "integer"} & set(kinds):
            text += " (YAML reads 1e-4 as text: write 1.0e-4)"
    elif error.validator == "enum":
        text = f"{where} is {found!r}: wanted {', '.join(map(str, wanted))}"
    description = error.schema.get("description")
    return text + (f". {description}" if description else "")
