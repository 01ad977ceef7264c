"""Memory of a fit, counted in Gram matrices: both blocks of a task in float64."""

from __future__ import annotations

FIT_MATRICES = 5
"""What bounds a fit of K + lambda Z, the blocks themselves included: K and Z in float32, the
Cholesky factor of K, and K + lambda Z beside its own factor."""


def gram_blocks_bytes(n_train: int, n_test: int) -> int:
    """Return the size of both Gram blocks in float64."""
    return n_train * (n_train + n_test) * 8
