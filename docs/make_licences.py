"""Write docs/licences.md: what is locked, and under which licences (`make lock` changes it).

    python docs/make_licences.py

Read from what the packages say of themselves, so all of envs/lock.txt has to be installed here.
"""

from __future__ import annotations

import re
from importlib.metadata import files, metadata
from pathlib import Path

DOCS = Path(__file__).parent
ENVS = DOCS.parent / "envs"

HEAD = """# Licences of the packages that are locked

<!-- Written by docs/make_licences.py: do not edit. -->

lantk itself is under the MIT licence. It ships none of these packages: `pip` fetches them from
their authors. Each is named with its version in the locks and the licence that it declares.
"""
COPYLEFT = """
## With conditions for who passes them on

Using these, and publishing what was computed with them, is free. Who passes them on, as in a
container image, has to pass on their licence texts and offer their source, with changes to it if
there are any. Their conditions do not reach lantk or what you write with it, which call them
unchanged.

{table}

`psycopg2-binary` is for MLflow stores in PostgreSQL and for tests; without it the rest works.

Not in the list: on Linux, PyTorch as the package index has it (`envs/torch.txt`) brings NVIDIA's
CUDA libraries, which are not open source; NVIDIA's licence agreement comes with them. The CPU build
(`envs/torch-cpu.txt`) has none of them.
"""
_COPYLEFT = re.compile(r"GPL|MPL|Mozilla|EPL|CDDL|EUPL|copyleft", re.IGNORECASE)
_CLASSIFIER = "License :: "


def read_lock() -> dict[str, str]:
    """Return package -> version of what is locked, PyTorch in one build."""
    text = "".join((ENVS / name).read_text() for name in ("lock.txt", "torch-cpu.txt"))
    found = re.findall(r"^([\w.-]+)==([^\s+;]+)", text, re.MULTILINE)
    return dict(sorted(found))


def find_licence(package: str) -> str:
    """Return the licence that an installed package declares, in one line."""
    declared = metadata(package)
    # Not by [...]: a package in the environment may replace the reader by one that raises.
    if expression := declared.get("License-Expression"):
        return str(expression)
    kinds = [c for c in declared.get_all("Classifier") or [] if c.startswith(_CLASSIFIER)]
    names = [kind.rpartition(" :: ")[2] for kind in kinds if kind.count("::") > 1]
    if names:
        return " and ".join(names)
    text = (declared.get("License") or "").strip().splitlines()
    return text[0] if text else _name_text(package)


def _name_text(package: str) -> str:
    """Return which licence the text is that a package brings."""
    texts = [f.read_text() for f in files(package) or [] if re.match("LICEN[CS]E", f.name)]
    if any("Permission is hereby granted, free of charge, to any person" in t for t in texts):
        return "MIT"
    return "a text of its own" if texts else "not declared"


def licences_page() -> str:
    """Return the page."""
    found = {name: (version, find_licence(name)) for name, version in read_lock().items()}
    special = {name: row for name, row in found.items() if _COPYLEFT.search(row[1])}
    head = ["| package | version | licence |", "|---|---|---|"]

    def table(rows: dict[str, tuple[str, str]]) -> str:
        return "\n".join([*head, *(f"| {n} | {v} | {t} |" for n, (v, t) in rows.items())])

    return f"{HEAD}{COPYLEFT.format(table=table(special))}\n## All\n\n{table(found)}\n"


if __name__ == "__main__":
    (DOCS / "licences.md").write_text(licences_page())
