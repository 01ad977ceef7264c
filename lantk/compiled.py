"""Functions compiled by Numba that Python calls: their machine code is kept on disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numba


def entry_point(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles, and keeps the machine code where Numba finds a place.

    Parameters
    ----------
    options
        As for ``numba.njit``.
    """

    def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            warnings.warn(
                "no writable folder for compiled code, so each process compiles it again (some"
                " seconds): set NUMBA_CACHE_DIR to a folder",
                RuntimeWarning,
                stacklevel=2,
            )
            return numba.njit(**options)(function)

    return compile_function
