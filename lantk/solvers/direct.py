"""Systems with one matrix: factor once, solve many, and say why one cannot be solved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack, lu_solve

from lantk.errors import LantkError, Row
from lantk.solvers.products import multiply

# Below this reciprocal condition number a float64 solution has no correct digit left.
RCOND_MIN = 1e-15


class SolveError(LantkError):
    """A Gram matrix that cannot be solved; the message lists likely causes and what to turn."""


class SingularError(SolveError):
    """A Gram matrix that is singular to working accuracy."""


class GramFactor:
    """LU factors of a square Gram matrix (n, n), kept to solve for several right-hand sides.

    With `kernel`, the matrix is that kernel with something added to it, and duplicates are looked
    for there.

    Attributes
    ----------
    rcond : float
        Estimated reciprocal condition number (1-norm).

    Raises
    ------
    SolveError
        If the matrix is not square or not finite; its subclass `SingularError` if it is singular to
        working accuracy.

    Notes
    -----
    The matrix is not changed. Cost: 2/3 n^3 operations and one float64 copy of it. Each solve costs
    4 n^2 more: the residual is measured and one step of iterative refinement taken.

    References
    ----------
    LAPACK ``getrf``, ``gecon``, ``getrs``.

    Examples
    --------
    >>> factor = GramFactor(np.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> factor.solve(np.array([3.0, 3.0]))
    array([1., 1.])
    """

    def __init__(self, gram: NDArray, kernel: NDArray | None = None) -> None:
        norm = check_gram(gram)
        self._gram = gram
        # LAPACK wants columns first. A symmetric matrix is its own transpose, and for any other
        # the transposed system is solved below, so no second copy is made.
        self.rcond = self._factor(np.array(gram, dtype=np.float64, order="C").T, norm)
        if self.rcond < RCOND_MIN:
            raise singular_error(self.rcond, gram if kernel is None else kernel, kernel is not None)

    def solve(self, rhs: NDArray) -> NDArray:
        """Return x with ``gram @ x = rhs``, shape and float64 values like `rhs` (n,) or (n, k)."""
        solution = self._back_substitute(rhs)
        return solution + self._back_substitute(rhs - multiply(self._gram, solution))

    def _factor(self, matrix: NDArray, norm: float) -> float:
        """Factor a transpose, in place; return the reciprocal condition number."""
        self._lu, self._pivots, _ = lapack.dgetrf(matrix, overwrite_a=True)
        return float(lapack.dgecon(self._lu, norm)[0])

    def _back_substitute(self, rhs: NDArray) -> NDArray:
        # trans=1: `_lu` holds the factors of the transpose.
        return lu_solve((self._lu, self._pivots), rhs, trans=1, check_finite=False)


class CholeskyFactor(GramFactor):
    """Cholesky factor K = L L^T of a symmetric positive definite train Gram matrix.

    Raises
    ------
    SolveError
        As `GramFactor` does; its subclass `IndefiniteError` if it is not positive definite.

    Notes
    -----
    Cost: 1/3 n^3 operations and one float64 copy.

    References
    ----------
    LAPACK ``potrf``, ``pocon``; BLAS ``trsm``.
    """

    def _factor(self, matrix: NDArray, norm: float) -> float:
        self._lower, failed_at = lapack.dpotrf(matrix, lower=True, clean=False, overwrite_a=True)
        if failed_at:
            raise IndefiniteError(
                f"train Gram {matrix.shape} is not positive definite (pivot {failed_at - 1}):"
                " look for duplicate images, or raise the precision of the kernel"
            )
        return float(lapack.dpocon(self._lower, norm, uplo="L")[0])

    def _back_substitute(self, rhs: NDArray) -> NDArray:
        return lapack.dpotrs(self._lower, rhs, lower=True)[0].reshape(rhs.shape)

    @property
    def log_determinant(self) -> float:
        """Natural logarithm of det K."""
        return float(2 * np.log(np.diag(self._lower)).sum())

    def whiten(self, v: NDArray, *, transposed: bool = False) -> NDArray:
        """Return L^-1 v for vectors (n, k), or L^-T v."""
        return blas.dtrsm(1.0, self._lower, np.asfortranarray(v), lower=1, trans_a=transposed)


class IndefiniteError(SolveError):
    """A Gram matrix that has no Cholesky factor."""


def factorize(gram: NDArray) -> GramFactor:
    """Return the Cholesky factor of a Gram matrix, or LU factors where rounding forbids it."""
    try:
        return CholeskyFactor(gram)
    except IndefiniteError:
        return GramFactor(gram)


def count_negative_eigenvalues(matrix: NDArray[np.float64]) -> int:
    """Return how many eigenvalues of a symmetric matrix (n, n) are negative; it is overwritten.

    By Sylvester's law of inertia they are as many as those of D in its factors L D L^T, which cost
    1/3 n^3 operations.

    References
    ----------
    LAPACK ``sytrf``; Bunch and Kaufman (1977).
    """
    # A symmetric matrix is its own transpose, whose columns LAPACK finds in order.
    work = int(lapack.dsytrf_lwork(len(matrix), lower=True)[0])
    factors, pivots, _ = lapack.dsytrf(matrix.T, lower=True, lwork=work, overwrite_a=True)
    return count_negative_blocks(np.diag(factors), pivots)


def count_negative_blocks(diagonal: NDArray, pivots: NDArray) -> int:
    """Return how many eigenvalues of the D of L D L^T are negative, by LAPACK's pivots (n,).

    Both rows of a block of two have a negative pivot, and of its eigenvalues one is negative.
    """
    is_single = pivots > 0
    return int((diagonal[is_single] < 0).sum() + (~is_single).sum() // 2)


def check_gram(gram: NDArray) -> float:
    """Return the 1-norm of a square matrix, row by row, or raise `SolveError` on what is wrong."""
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise SolveError(f"a train Gram matrix is square, found shape {gram.shape}")
    norm = 0.0
    for i, row in enumerate(gram):
        total = float(np.abs(row).sum(dtype=np.float64))
        if not np.isfinite(total):
            text = f"row {{0.number}} of the train Gram {gram.shape} has a NaN or an infinity"
            raise SolveError(text, [Row("x_train", i)])
        norm = max(norm, total)
    return norm


def singular_error(rcond: float, kernel: NDArray, has_addition: bool) -> SingularError:
    """Return what is known of a Gram matrix that cannot be solved, and what to look for.

    The matrix is the kernel, or something is added to it.
    """
    smallest = int(np.diag(kernel).argmin())
    least = float(kernel[smallest, smallest])
    added = " with what is added to it" if has_addition else ""
    text = (
        f"train Gram {kernel.shape}{added} is singular: its reciprocal condition number is"
        f" {rcond:.1e}, smallest diagonal {least:.1e}."
    )
    larger = "take a larger ridge or label weight" if has_addition else "add a ridge"
    pair = _equal_rows(kernel)
    if least == 0:
        text += " Train image {0.number} is all zero: remove it, or " + larger
        return SingularError(f"{text}.", [Row("x_train", smallest)])
    if pair is not None:
        text += " Train images {0.number} and {1.number} have equal rows: remove one of the"
        text += f" duplicates, or {larger}."
        return SingularError(text, [Row("x_train", i) for i in pair])
    return SingularError(
        f"{text} No two rows are equal; look for images that are nearly the same, or {larger}."
    )


def _equal_rows(gram: NDArray) -> tuple[int, int] | None:
    """Return the first two indices with byte-equal rows, or None."""
    seen: dict[bytes, int] = {}
    for i, row in enumerate(np.ascontiguousarray(gram)):
        j = seen.setdefault(row.tobytes(), i)
        if j != i:
            return j, i
    return None
