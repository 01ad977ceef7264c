"""The files of code that a verb runs, so that an edit of one of them runs its jobs again."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_VERBS = _ROOT / "lantk" / "cli"
# What is read as a resource, beside the module that reads it.
_RESOURCES = {"lantk/kernel/cuda/layout.py": "lantk/kernel/cuda/planes.cu"}


@cache
def code_of(verb: str) -> list[str]:
    """Return the modules that a verb imports, directly or not, as paths from the project's root.

    Verbs import what they need inside their functions; what the functions of other verbs import,
    the command line itself and the rooms' own `__init__` files do not count. The verb is named as
    on the command line, without ``mlflow`` in front.
    """
    functions = {
        node.name: node
        for path in sorted(_VERBS.glob("*.py"))
        for node in _tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    # Name -> the file of our modules that it is imported from, above the functions.
    imported = {
        alias.asname or alias.name: paths
        for path in sorted(_VERBS.glob("*.py"))
        for node in _tree(path).body
        if isinstance(node, ast.ImportFrom) and (paths := _imported(node))
        for alias in node.names
    }
    reached: set[str] = set()
    used: set[str] = set()
    waiting = {verb.replace("-", "_")}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        nodes = list(ast.walk(functions[name]))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        local = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        local |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        # What is imported here may have the name of a verb.
        local |= {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
        used |= {node.id for node in names} - local
        waiting |= used & set(functions) - reached
    starts = [_imported(functions[name]) for name in reached]
    found = _closure(set().union(*starts, *(imported[name] for name in used & set(imported))))
    files = {str(path.relative_to(_ROOT)) for path in found}
    return sorted(files | {_RESOURCES[name] for name in files & set(_RESOURCES)})


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


@cache
def _imports_of(path: Path) -> frozenset[Path]:
    return frozenset(_imported(_tree(path)))


def _closure(paths: Iterable[Path]) -> set[Path]:
    found: set[Path] = set()
    waiting = set(paths)
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= _imports_of(path) - found
    return found


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, without what only type checkers read."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)


def _imported(tree: ast.AST) -> set[Path]:
    """Return the files of our modules that are imported anywhere in a tree."""
    names: set[str] = set()
    for node in _walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from lantk.data import splits` names a module; `from lantk.data.splits import x` is
            # in one.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = (name.split(".") for name in names if name.startswith("lantk."))
    paths = (_ROOT.joinpath(*parts).with_suffix(".py") for parts in own)
    return {path for path in paths if path.exists() and path.parent != _VERBS}
