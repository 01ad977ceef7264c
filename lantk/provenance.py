"""Where a result comes from: commit, code, lock, versions, hardware."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_PACKAGE = Path(__file__).parent
_DEPENDENCIES = (
    "numpy",
    "scipy",
    "numba",
    "torch",
    "scikit-learn",
    "pandas",
    "mlflow",
    "cupy-cuda12x",
)


def collect_provenance() -> dict[str, Any]:
    """Return commit, digests of the package's code and of the lock, versions, and hardware.

    What cannot be known is None: the commit outside a git checkout, the lock of an installed
    package.
    """
    lock = _PACKAGE.parent / "envs" / "lock.txt"
    return {
        "commit": _commit(),
        "code": _digest(*sorted([*_PACKAGE.rglob("*.py"), *_PACKAGE.rglob("*.cu")])),
        "lock": _digest(lock) if lock.is_file() else None,
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
        "threads": os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count()),
    }


def _commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` where tracked files were changed."""
    command = ["git", "-C", str(_PACKAGE), "describe", "--always", "--dirty", "--abbrev=40"]
    command += ["--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {}
    for name in _DEPENDENCIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the processor's name; the platform module knows only its family on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
