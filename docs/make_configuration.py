"""Write docs/configuration.md, the reference of every key, from the schema and config.yaml.

Run it from the top folder after an edit of either: ``python docs/make_configuration.py``. A test
fails while the reference is out of step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "configuration.md"
# What an example needs beside its own key, so that it can be copied as it stands.
_TOGETHER: dict[str, dict[str, Any]] = {
    "data.path": {"source": "npz"},
    "task.classes": {"pairs": None},
    "task.targets": {"pairs": None, "classes": "all"},
}
_HEAD = """\
# Configuration

<!-- Written by docs/make_configuration.py from rules/config.schema.yaml and config.yaml. -->

An experiment is described by `config.yaml`, and changed by a file of yours or on the command line:

```sh
snakemake --cores 2 --configfile experiments/chen2020-small.yaml
snakemake --cores 2 --config 'cnn={seeds: []}' folds=3
```

The command line wins over your file, and your file over `config.yaml`. Mappings (such as `task`)
are merged key by key, lists are replaced as a whole, and what nobody names keeps its value from
`config.yaml`. So a file of yours that tells classes apart says `pairs: null` too, and one that is
an experiment of its own names its own `results` folder.

Everything is checked before the first job starts: a misspelt key, a value of another kind, an
unknown class and a size that is not there end with one line that says what was found and what was
wanted. YAML reads `1e-4` as text: write `1.0e-4`.

*Default* is the value in `config.yaml`, which is the default experiment. A value in brackets beside
it is what holds where `config.yaml` does not set the key either.

| key | default |
|---|---|
"""


def main() -> None:
    """Write the reference."""
    TARGET.write_text(reference(*load()))


def load() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema and the default experiment."""
    schema, default = ROOT / "rules" / "config.schema.yaml", ROOT / "config.yaml"
    return yaml.safe_load(schema.read_text()), yaml.safe_load(default.read_text())


def reference(schema: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    """Return the Markdown text: a table of all keys, then a section for each."""
    entries = list(_walk(schema, default))
    leaves = [(key, found, value) for key, found, value in entries if "properties" not in found]
    rows = [f"| [`{k}`](#{_anchor(k)}) | {_short(_default(s, v))} |" for k, s, v in leaves]
    sections = [_section(*entry, schema["$defs"]) for entry in entries]
    return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


def _walk(
    schema: Mapping[str, Any], default: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield key, schema and default in the order of config.yaml, a mapping before its keys."""
    known = schema["properties"]
    for name in [*(key for key in default if key in known), *(set(known) - set(default))]:
        yield prefix + name, known[name], default.get(name)
        if "properties" in known[name]:
            yield from _walk(known[name], default.get(name) or {}, f"{prefix}{name}.")


def _section(key: str, schema: Mapping[str, Any], value: Any, shared: Mapping[str, Any]) -> str:
    lines = [
        f"{'##' if '.' not in key else '###'} `{key}`",
        "",
        schema["description"].replace("*", "\\*"),
        "",
    ]
    if "properties" in schema:
        return "\n".join(lines)
    if "$ref" in schema:
        schema = {**shared[schema["$ref"].rpartition("/")[2]], **schema}
    lines += [f"* Takes: {_takes(schema)}.", f"* Default: {_default(schema, value)}", ""]
    examples = [_example(key, example) for example in schema.get("examples", [])]
    if examples:
        lines += ["```yaml", ("\n# or\n").join(examples), "```", ""]
    return "\n".join(lines)


def _default(schema: Mapping[str, Any], value: Any) -> str:
    own = schema.get("default")
    return f"`{_yaml(value)}`" + (f" (`{_yaml(own)}`)" if own != value else "")


def _anchor(key: str) -> str:
    """Return the anchor that GitHub gives the heading of a key."""
    return key.replace(".", "").lower()


def _short(text: str) -> str:
    """Return what fits a table: a long list stands in its section."""
    return text if len(text) <= 60 else "a list, see there"


def _example(key: str, value: Any) -> str:
    """Return an example as YAML that can stand in a file of its own."""
    *outer, name = key.split(".")
    whole: Any = {**_TOGETHER.get(key, {}), name: value}
    for group in outer:
        whole = {group: whole}
    # One line where it fits, and one key a line at the top.
    return "\n".join(f"{k}: {_yaml(v)}" for k, v in whole.items())


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").strip()


def _takes(schema: Mapping[str, Any]) -> str:
    """Return in words what values a schema takes."""
    if "oneOf" in schema:
        return "; or ".join(_takes(one) for one in schema["oneOf"])
    if "const" in schema:
        return f"`{_yaml(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(_kind(kind, schema) for kind in kinds)


def _kind(kind: str, schema: Mapping[str, Any]) -> str:
    if kind == "array":
        return _list(schema)
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(schema)
    words = {"string": "text", "null": "`null`", "object": "a mapping"}[kind]
    if kind == "string" and "pattern" in schema:
        words += f" that matches `{schema['pattern']}`"
    return words


def _range(schema: Mapping[str, Any]) -> str:
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}"
    if "maximum" in schema:
        return f" from {schema['minimum']} to {schema['maximum']}"
    return f", {schema['minimum']} or more" if "minimum" in schema else ""


def _list(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    many = f"{least}" if least == most else f"{least} or more" if least else "any number"
    unequal = ", no two equal" if schema.get("uniqueItems") else ""
    return f"a list of {many}{unequal}, each {_takes(schema['items'])}"


if __name__ == "__main__":
    main()
