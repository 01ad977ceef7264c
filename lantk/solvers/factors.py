"""What solves with a kernel: a factor on the CPU, or a GPU."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.solvers.direct import CholeskyFactor, IndefiniteError, SingularError

Factor = Any
"""What solves with K: a `CholeskyFactor`, a `gpu.DeviceSolver`, or None for a K that has none."""


def factorize_kernel(k: NDArray, device: str | None = None) -> Factor:
    """Return what solves with K: on a CPU its Cholesky factor, or None if it has none.

    K, then singular or indefinite, is no preconditioner: each weight is solved by an LU
    factorization of its own, which the record counts.
    """
    if device is not None:
        # Imported here: PyTorch takes a second to load, and only GPUs need it.
        from lantk.solvers.gpu import DeviceSolver

        return DeviceSolver(k, device)
    try:
        return CholeskyFactor(k)
    except (IndefiniteError, SingularError):
        return None


def find_solver(device: str) -> str | None:
    """Return the GPU that solves, as PyTorch names it, or None for the CPU.

    `device` is ``auto`` (a GPU where there are one and PyTorch), ``cpu`` or ``cuda``.
    """
    if device == "auto":
        if find_spec("torch") is None:
            return None
        try:
            # Loading PyTorch takes a second: not where there is no driver to use.
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return None
    if device == "cpu":
        return None
    from lantk.solvers.gpu import find_device

    return find_device(device)


def with_ridge(k: NDArray, ridge: float) -> NDArray:
    """Return K with `ridge` times its mean diagonal added to the diagonal; K itself for 0.

    It is in float64, since float32 would lose a small ridge.
    """
    if not ridge:
        return k
    ridged = np.array(k, np.float64)
    diagonal = np.einsum("ii->i", ridged)
    diagonal += ridge * float(np.mean(diagonal))
    return ridged
