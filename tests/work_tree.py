"""A copy of the project in which a workflow can run."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PARTS = ("Snakefile", "config.yaml", "rules", "lantk", "envs", "profiles")


def copy_project(folder: Path, *more: str, source: Path = ROOT) -> Path:
    """Copy what a workflow needs, and folders named beside that; results are left behind.

    Parameters
    ----------
    folder : Path
        The copy, made if it is not there.
    *more : str
        Folders of the project, such as ``experiments``.
    source : Path
        The project, or a copy of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in (*_PARTS, *more):
        if (source / part).is_dir():
            # Compiled kernels come along, or each copy would spend a minute compiling: Numba knows
            # its source by the bytes, and Python by the time, so its own do not.
            leave = shutil.ignore_patterns("*.pyc", "*.tmp*")
            shutil.copytree(source / part, folder / part, ignore=leave)
        else:
            shutil.copy(source / part, folder / part)
    return folder
