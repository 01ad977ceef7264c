"""Where a result comes from: commit, code, lock, versions, hardware."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import threadpoolctl

_PACKAGE = Path(__file__).parents[1]
_DEPENDENCIES = (
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "torch",
    "scikit-learn",
    "pandas",
    "mlflow",
    "cupy-cuda12x",
)
_VECTOR_INSTRUCTIONS = ("fma", "avx", "avx2", "avx512f", "asimd", "sve")
_NVIDIA = Path("/proc/driver/nvidia")


def collect_provenance() -> dict[str, Any]:
    """Return commit, digests of the package's code and of the lock, versions, and hardware.

    What cannot be known is None: the commit outside a git checkout, the lock of an installed
    package, the GPU where there is none. Linear algebra is what this process has loaded so far.
    """
    locks = sorted((_PACKAGE.parent / "envs").glob("*.txt"))
    return {
        "commit": _commit(),
        "code": _digest(*sorted([*_PACKAGE.rglob("*.py"), *_PACKAGE.rglob("*.cu")])),
        "lock": _digest(*locks) if locks else None,
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "vector_instructions": _vector_instructions(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpu": _gpu(),
        },
        "linear_algebra": _linear_algebra(),
        "threads": os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count()),
    }


@cache
def _commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` where tracked files were changed."""
    command = ["git", "-C", str(_PACKAGE), "describe", "--always", "--dirty", "--abbrev=40"]
    command += ["--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
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
    return _cpuinfo("model name") or platform.processor()


def _vector_instructions() -> list[str] | None:
    """Return those that last digits hang on: how many numbers at once, products and sums in one."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [name for name in _VECTOR_INSTRUCTIONS if name in flags] if flags else None


def _cpuinfo(key: str) -> str:
    """Return what Linux says of the first processor; nothing on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _linear_algebra() -> list[str]:
    """Return the libraries of this process, the kernels that they chose, and their threads."""
    found = (
        f"{info['internal_api']} {info['version']}"
        f" {info.get('architecture') or ''}, threads: {info['num_threads']}"
        for info in threadpoolctl.threadpool_info()
        if info["user_api"] == "blas"
    )
    return sorted(set(found))


def _gpu() -> dict[str, str | None] | None:
    """Return name, driver and CUDA of the first GPU of NVIDIA, used or not."""
    # Of the driver's own files: loading PyTorch to ask takes a second.
    described = sorted(_NVIDIA.glob("gpus/*/information"))
    if not described:
        return None
    name = re.search(r"^Model:\s*(.+)$", described[0].read_text(), re.MULTILINE)
    version = _NVIDIA / "version"
    driver = re.search(r"\d+\.\d+(\.\d+)?", version.read_text()) if version.exists() else None
    torch = sys.modules.get("torch")
    return {
        "name": name[1].strip() if name else None,
        "driver": driver[0] if driver else None,
        "cuda": torch.version.cuda if torch else None,
    }
