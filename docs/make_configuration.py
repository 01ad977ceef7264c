"""Write docs/configuration.md, the reference of every setting, from `lantk.experiment.settings`.

Run it from the top folder after an edit there: ``python docs/make_configuration.py``. A test fails
while the reference is out of step.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from lantk.experiment.checks import takes
from lantk.experiment.settings import FIELDS, default_of, meaning_of

TARGET = Path(__file__).parent / "configuration.md"
# What an example needs beside its own key, so that it can be copied as it stands.
_TOGETHER: dict[str, dict[str, Any]] = {
    "data.path": {"source": "npz"},
    "task.classes": {"pairs": None},
    "task.targets": {"pairs": None, "classes": "all"},
}
_HEAD = """\
# Configuration

<!-- Written by docs/make_configuration.py from lantk/experiment/settings.py. -->

An experiment is described by `config.yaml`, and changed by a file of yours or on the command line:

```sh
snakemake --cores 2 --configfile experiments/chen2020-small.yaml
snakemake --cores 2 --config 'task={n_train: 100}' 'cnn={seeds: []}' folds=3
```

The command line wins over your file, and your file over `config.yaml`. On the command line a key
inside of another, such as `task.n_train`, is written in braces, with a blank behind the colon and
quotes for the shell, and values read as in a file. Mappings (such as `task`)
are merged key by key, lists are replaced as a whole, and what nobody names keeps its value from
`config.yaml`. So a file of yours that tells classes apart says `pairs: null` too, and one that is
an experiment of its own names its own `results` folder.

Everything is checked before the first job starts: a misspelt key, a value of another kind, an
unknown class and a size that is not there end with one line that says what was found and what was
wanted. YAML reads `1e-4` as text: write `1.0e-4`.

In paths (`results`, `data.path`, the file of a database in `tracking.uri`) `~` is your home folder
and `$NAME` the variable of that name, which on a cluster has to have one value on all nodes; `./`
and `//` make no other folder. Verbs read paths in the same way.

*Default* is the value in `config.yaml`, the default experiment; it holds as well where that file
does not set the key.

| key | default |
|---|---|
"""


def main() -> None:
    """Write the reference."""
    TARGET.write_text(reference())


def reference() -> str:
    """Return the Markdown text: a table of all keys, then a section for each."""
    keys = [key for key in FIELDS if not dataclasses.is_dataclass(FIELDS[key].type)]
    # The anchor that GitHub gives the heading of a key has no points.
    rows = [f"| [`{k}`](#{k.replace('.', '')}) | {_short(_default(k))} |" for k in keys]
    return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(map(_section, FIELDS))


def _section(key: str) -> str:
    setting = FIELDS[key]
    lines = [
        f"{'###' if '.' in key else '##'} `{key}`",
        "",
        meaning_of(key).replace("*", "\\*"),
        "",
    ]
    if dataclasses.is_dataclass(setting.type):
        return "\n".join(lines)
    lines += [f"* Takes: {takes(setting.type)}.", f"* Default: {_default(key)}", ""]
    examples = [_example(key, example) for example in setting.metadata["examples"]]
    return "\n".join([*lines, "```yaml", "\n# or\n".join(examples), "```", ""])


def _default(key: str) -> str:
    return f"`{_yaml(default_of(key))}`"


def _short(text: str) -> str:
    """Return what fits a table: a long list stands in its section."""
    return text if len(text) <= 60 else "a list, see there"


def _example(key: str, value: Any) -> str:
    """Return an example as YAML that can stand in a file of its own."""
    *outer, name = key.split(".")
    whole: Any = {**_TOGETHER.get(key, {}), name: value}
    for group in reversed(outer):
        whole = {group: whole}
    # One line where it fits, and one key a line at the top.
    return "\n".join(f"{k}: {_yaml(v)}" for k, v in whole.items())


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").strip()


if __name__ == "__main__":
    main()
