"""What is added to a kernel K, times a factor lambda: nothing, a diagonal matrix, or any other.

An addition knows its values among the n train rows (symmetric) and between m other rows and these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.solvers.products import multiply


@dataclass(frozen=True, eq=False)
class Addition:
    """What all additions can do; by itself it adds nothing."""

    unit: float = field(default=0.0, kw_only=True)
    """lambda at weight 1."""
    diagnostics: Mapping[str, float] = field(default_factory=dict, kw_only=True)
    """What the label term that made it tells of itself."""

    def apply(self, vectors: NDArray) -> NDArray:
        """Return Z v for vectors (n, c), (n, c)."""
        return np.zeros(vectors.shape)

    def apply_rows(self, vectors: NDArray) -> NDArray:
        """Return Z v of other rows for vectors (n, c): (m, c), or (1, c) of zeros."""
        return np.zeros((1, vectors.shape[1]))

    def add_to(self, square: NDArray[np.float64], factor: float) -> None:
        """Add factor Z to a train Gram matrix (n, n), in place."""

    def diagonal(self, n: int) -> NDArray[np.float64]:
        """Return Z(x, x) of the train rows, (n,)."""
        return np.zeros(n)

    def inner_products(self, k: NDArray) -> tuple[float, float]:
        """Return <K, Z> and <Z, Z> over all train entries."""
        return 0.0, 0.0


@dataclass(frozen=True, eq=False)
class Nothing(Addition):
    """Z = 0: the kernel stays as it is."""


@dataclass(frozen=True, eq=False)
class Diagonal(Addition):
    """A diagonal matrix among train rows, which adds nothing between them and others."""

    values: Any
    """(n,), an array, or a tensor on a device."""

    def apply(self, vectors: NDArray) -> NDArray:
        product: NDArray = self.values[:, None] * vectors
        return product

    def add_to(self, square: NDArray[np.float64], factor: float) -> None:
        square[np.diag_indices(len(square))] += factor * self.values

    def diagonal(self, n: int) -> NDArray[np.float64]:
        return np.asarray(self.values, np.float64)

    def inner_products(self, k: NDArray) -> tuple[float, float]:
        k_z = z_z = 0.0
        for own, value in zip(np.diag(k).astype(np.float64), self.values, strict=True):
            k_z += own * value
            z_z += value**2
        return k_z, z_z


@dataclass(frozen=True, eq=False)
class Dense(Addition):
    """A matrix with every entry at hand; sums are taken in float64, row by row."""

    train: Any
    """(n, n), symmetric; an array, or a tensor on a device."""
    rows: NDArray | None = None
    """(m, n); None where no other rows are predicted."""

    def apply(self, vectors: NDArray) -> NDArray:
        return multiply(self.train, vectors)

    def apply_rows(self, vectors: NDArray) -> NDArray:
        return super().apply_rows(vectors) if self.rows is None else multiply(self.rows, vectors)

    def add_to(self, square: NDArray[np.float64], factor: float) -> None:
        # With no float64 copy of Z.
        for row, more in zip(square, self.train, strict=True):
            row += factor * np.asarray(more, np.float64)

    def diagonal(self, n: int) -> NDArray[np.float64]:
        return np.diag(self.train).astype(np.float64)

    def inner_products(self, k: NDArray) -> tuple[float, float]:
        k_z = z_z = 0.0
        for own, other in zip(k, self.train, strict=True):
            wide = np.asarray(other, np.float64)
            k_z += float(np.asarray(own, np.float64) @ wide)
            z_z += float(wide @ wide)
        return k_z, z_z


def add_label_term(k: NDArray, z: Addition, factor: float) -> NDArray[np.float64]:
    """Return K + factor Z, a new float64 matrix."""
    combined = np.array(k, dtype=np.float64)
    if factor != 0:
        z.add_to(combined, factor)
    return combined
