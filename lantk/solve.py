"""Kernel regression solves: factor once, solve many.

``K + lambda Z`` is not positive definite in general, and is not repaired here: the factorization
is LU with partial pivoting, which needs symmetry of neither sign nor value. What cannot be solved
to working accuracy raises `SolveError`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, lu_solve

from lantk.errors import LantkError

# Below this reciprocal condition number a float64 solution has no correct digit left.
_RCOND_MIN = 1e-15


class SolveError(LantkError):
    """A Gram matrix that cannot be solved; the message lists likely causes and what to turn."""


class GramFactor:
    """LU factors of a square Gram matrix, kept to solve for several right-hand sides.

    Parameters
    ----------
    gram : (n, n) array
        Train Gram matrix (not changed). Factored in float64.

    Attributes
    ----------
    rcond : float
        Estimated reciprocal condition number (1-norm).

    Raises
    ------
    SolveError
        If the matrix is not square, not finite, or singular to working accuracy.

    Notes
    -----
    Cost: 2/3 n^3 operations and one float64 copy of the matrix. Each solve costs 4 n^2 more: the
    residual is measured and one step of iterative refinement taken.

    References
    ----------
    LAPACK ``getrf``, ``gecon``, ``getrs``.

    Examples
    --------
    >>> factor = GramFactor(np.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> factor.solve(np.array([3.0, 3.0]))
    array([1., 1.])
    """

    def __init__(self, gram: NDArray) -> None:
        if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
            raise SolveError(f"a train Gram matrix is square, found shape {gram.shape}")
        # LAPACK wants columns first. A symmetric matrix is its own transpose, and for any other
        # the transposed system is solved below, so no second copy is made.
        lu = np.array(gram, dtype=np.float64, order="C").T
        norm = float(np.abs(gram).sum(axis=1, dtype=np.float64).max())
        if not np.isfinite(norm):
            row = int(np.flatnonzero(~np.isfinite(gram).all(axis=1))[0])
            raise SolveError(f"row {row} of the train Gram {gram.shape} has a NaN or an infinity")
        self._gram = gram
        self._lu, self._pivots, _ = lapack.dgetrf(lu, overwrite_a=True)
        self.rcond = float(lapack.dgecon(self._lu, norm)[0])
        if self.rcond < _RCOND_MIN:
            raise SolveError(_singular_message(gram, self.rcond))

    def solve(self, rhs: NDArray) -> NDArray:
        """Return x with ``gram @ x = rhs``, shape and float64 values like `rhs` (n,) or (n, k)."""
        solution = self._back_substitute(rhs)
        return solution + self._back_substitute(rhs - self._gram @ solution)

    def relative_residual(self, solution: NDArray, rhs: NDArray) -> float:
        """Return ``|rhs - gram @ solution| / |rhs|`` (Frobenius norms)."""
        return float(np.linalg.norm(rhs - self._gram @ solution) / np.linalg.norm(rhs))

    def _back_substitute(self, rhs: NDArray) -> NDArray:
        # trans=1: `_lu` holds the factors of the transpose.
        return lu_solve((self._lu, self._pivots), rhs, trans=1, check_finite=False)


def _singular_message(gram: NDArray, rcond: float) -> str:
    message = (
        f"train Gram {gram.shape} is singular: its reciprocal condition number is {rcond:.1e},"
        f" smallest diagonal {float(np.diag(gram).min()):.1e}."
    )
    pair = _equal_rows(gram)
    if pair is not None:
        return (
            f"{message} Train images {pair[0]} and {pair[1]} have equal rows: remove one of the"
            " duplicates."
        )
    return (
        f"{message} No two rows are equal; look for all-zero images, or images that are nearly"
        " the same, or change the label weight."
    )


def _equal_rows(gram: NDArray) -> tuple[int, int] | None:
    """Return the first two indices with byte-equal rows, or None."""
    seen: dict[bytes, int] = {}
    for i, row in enumerate(np.ascontiguousarray(gram)):
        j = seen.setdefault(row.tobytes(), i)
        if j != i:
            return j, i
    return None
