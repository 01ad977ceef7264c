"""Products of a large float32 matrix and a few float64 vectors, summed in float64.

What bounds them is reading the matrix: BLAS would want a float64 copy of it, twice the size, or
would sum in float32. Rows are shared out among threads, and each is summed by itself, so the result
is the same bytes for any number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lantk.compiled import entry_point
from lantk.solvers.tiles import in_threads

# Rows that one thread takes at a time.
_ROWS = 256


def mean_abs(matrix: NDArray) -> float:
    """Return the mean absolute value, row by row: no copy of the matrix is made."""
    return float(np.mean([np.abs(row).mean(dtype=np.float64) for row in matrix]))


def multiply(matrix: NDArray, vectors: NDArray) -> NDArray[np.float64]:
    """Return ``matrix @ vectors`` in float64: real (m, n) by (n,) or (n, c)."""
    if matrix.shape[1] != len(vectors):
        # Compiled code would read beyond their end.
        raise ValueError(f"shapes {matrix.shape} and {vectors.shape} have no product")
    if matrix.dtype != np.float32 or not matrix.flags.c_contiguous:
        return np.asarray(matrix, np.float64) @ vectors
    rows = np.ascontiguousarray(np.asarray(vectors, np.float64).reshape(len(vectors), -1).T)
    out = np.empty((len(matrix), len(rows)))

    def fill(start: int) -> None:
        stop = start + _ROWS
        _multiply(matrix[start:stop], rows, out[start:stop])

    for _ in in_threads(fill, range(0, len(matrix), _ROWS)):
        pass
    return out.reshape(len(matrix), *vectors.shape[1:])


@entry_point(nogil=True, fastmath={"contract", "reassoc"})
def _multiply(matrix, vectors, out):
    """Set out[i, c] = sum_j matrix[i, j] vectors[c, j], two rows at a time."""
    m, n = matrix.shape
    for i in range(0, m - 1, 2):
        first, second = matrix[i], matrix[i + 1]
        for c in range(len(vectors)):
            vector = vectors[c]
            a, b = 0.0, 0.0
            for j in range(n):
                a += first[j] * vector[j]
                b += second[j] * vector[j]
            out[i, c], out[i + 1, c] = a, b
    if m % 2:
        last = matrix[m - 1]
        for c in range(len(vectors)):
            vector = vectors[c]
            a = 0.0
            for j in range(n):
                a += last[j] * vector[j]
            out[m - 1, c] = a
