"""Kernel regression solves: factor once, solve many.

``K + lambda Z`` is not positive definite in general, and is not repaired here: it is solved
directly by LU with partial pivoting (`GramFactor`), or along a whole path of lambda at once by
Lanczos' method, preconditioned with the Cholesky factor of K (`solve_path`). What cannot be solved
to working accuracy raises `SolveError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack, lu_solve, solve_banded

from lantk.errors import LantkError

# Below this reciprocal condition number a float64 solution has no correct digit left.
RCOND_MIN = 1e-15
# One LU factorization takes as long as some n / 70 steps of Lanczos' method or a little fewer
# (n / 72 at n = 4,000, about n / 100 at 10,000, two cores): 2/3 n^3 operations against 2 n^2
# numbers read from memory.
_STEPS_PER_FACTORIZATION = 1 / 70
# Rows converted to float64 at once, where a float32 matrix meets float64 vectors.
_ROWS = 512


class SolveError(LantkError):
    """A Gram matrix that cannot be solved; the message lists likely causes and what to turn."""


class PathSolution(NamedTuple):
    """Solutions along a path of lambda."""

    dual: NDArray
    """(n, p): x with (K + lambda Z) x = y, one column a lambda."""
    relative_residuals: NDArray
    """(p,): |y - (K + lambda Z) x| / |y|."""
    n_steps: int
    """Steps of Lanczos' method, shared by the whole path."""
    n_factorizations: int
    """How many lambda were solved by a factorization of their own."""


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
        norm = check_gram(gram)
        # LAPACK wants columns first. A symmetric matrix is its own transpose, and for any other
        # the transposed system is solved below, so no second copy is made.
        lu = np.array(gram, dtype=np.float64, order="C").T
        self._gram = gram
        self._lu, self._pivots, _ = lapack.dgetrf(lu, overwrite_a=True)
        self.rcond = float(lapack.dgecon(self._lu, norm)[0])
        if self.rcond < RCOND_MIN:
            raise SolveError(singular_message(gram, self.rcond))

    def solve(self, rhs: NDArray) -> NDArray:
        """Return x with ``gram @ x = rhs``, shape and float64 values like `rhs` (n,) or (n, k)."""
        solution = self._back_substitute(rhs)
        return solution + self._back_substitute(rhs - _multiply(self._gram, solution))

    def _back_substitute(self, rhs: NDArray) -> NDArray:
        # trans=1: `_lu` holds the factors of the transpose.
        return lu_solve((self._lu, self._pivots), rhs, trans=1, check_finite=False)


class CholeskyFactor:
    """Cholesky factor K = L L^T of a positive definite train Gram matrix.

    Parameters
    ----------
    gram : (n, n) array
        Symmetric positive definite (not changed). Factored in float64.

    Attributes
    ----------
    rcond : float
        Estimated reciprocal condition number (1-norm).

    Raises
    ------
    SolveError
        If the matrix is not square, not finite, or singular to working accuracy; its subclass
        `IndefiniteError` if it is not positive definite.

    Notes
    -----
    Cost: 1/3 n^3 operations and one float64 copy.

    References
    ----------
    LAPACK ``potrf``, ``pocon``; BLAS ``trsv``.
    """

    def __init__(self, gram: NDArray) -> None:
        norm = check_gram(gram)
        self._gram = gram
        # The transpose of a C-ordered copy is what LAPACK wants, without another copy.
        copy = np.array(gram, dtype=np.float64, order="C").T
        self._lower, failed_at = lapack.dpotrf(copy, lower=True, clean=False, overwrite_a=True)
        if failed_at:
            raise IndefiniteError(
                f"train Gram {gram.shape} is not positive definite (pivot {failed_at - 1}):"
                " look for duplicate images, or raise the precision of the kernel"
            )
        self.rcond = float(lapack.dpocon(self._lower, norm, uplo="L")[0])
        if self.rcond < RCOND_MIN:
            raise SolveError(singular_message(gram, self.rcond))

    def solve(self, rhs: NDArray) -> NDArray:
        """Return x with ``gram @ x = rhs``, refined once; `rhs` is (n,) or (n, k)."""
        solution = lapack.dpotrs(self._lower, rhs, lower=True)[0].reshape(rhs.shape)
        residual = rhs - _multiply(self._gram, solution)
        return solution + lapack.dpotrs(self._lower, residual, lower=True)[0].reshape(rhs.shape)

    def whiten(self, v: NDArray) -> NDArray:
        """Return L^-1 v for a vector (n,)."""
        return blas.dtrsv(self._lower, v, lower=1)

    def whiten_transposed(self, v: NDArray) -> NDArray:
        """Return L^-T v for a vector (n,)."""
        return blas.dtrsv(self._lower, v, lower=1, trans=1)


class IndefiniteError(SolveError):
    """A Gram matrix that has no Cholesky factor."""


def solve_path(
    k: NDArray,
    z: NDArray | None,
    factors: NDArray,
    y: NDArray,
    *,
    cholesky: CholeskyFactor | None,
    tolerance: float = 1e-11,
    solved: Callable[[], None] = lambda: None,
) -> PathSolution:
    """Solve (K + lambda Z) x = y for every lambda of a path.

    With K = L L^T and S = L^-1 Z L^-T the systems are (I + lambda S) u = L^-1 y, u = L^T x. They
    differ by a multiple of S only, so one Krylov space of S serves all of them: one Lanczos basis,
    and a tridiagonal system for each lambda. Small lambda need few steps, large ones many; a
    lambda that would cost more steps than a factorization does is solved by its own LU.

    Parameters
    ----------
    k, z : (n, n) arrays
        Train Gram matrix and symmetric train block of the label term; z None stands for zero.
    factors : (p,) array
        The lambdas.
    y : (n,) array
        Right-hand side.
    cholesky : CholeskyFactor or None
        Of `k`; None solves every lambda by a factorization of its own.
    tolerance : float
        Relative residual, in the preconditioned norm, at which a lambda is solved.
    solved : callable
        Called once for every lambda.

    Raises
    ------
    SolveError
        If a matrix is singular to working accuracy.

    Notes
    -----
    Cost: a step reads L twice and Z once (2 n^2 numbers); the basis is kept, n numbers a step, and
    every new vector is orthogonalised against all of it, twice.

    References
    ----------
    Lanczos (1950); Frommer and Maass, "Fast CG-based methods for Tikhonov-Phillips regularization"
    (1999), for shifted systems in one Krylov space.
    """
    dual = np.empty((len(y), len(factors)))
    waiting = list(range(len(factors)))
    n_steps = 0
    if cholesky is not None:
        n_steps = _lanczos(cholesky, z, factors, y, tolerance, dual, waiting, solved)
    for i in waiting:
        direct = GramFactor(add_label_term(k, z, factors[i]))
        dual[:, i] = direct.solve(y)
        solved()
    residual = _multiply(k, dual)
    if z is not None:
        residual += _multiply(z, dual) * factors
    norms = np.linalg.norm(y[:, None] - residual, axis=0) / np.linalg.norm(y)
    return PathSolution(dual, norms, n_steps, len(waiting))


def _lanczos(
    cholesky: CholeskyFactor,
    z: NDArray | None,
    factors: NDArray,
    y: NDArray,
    tolerance: float,
    dual: NDArray,
    waiting: list[int],
    solved: Callable[[], None],
) -> int:
    """Fill in the columns of `dual` that converge, take them off `waiting`, return the steps."""
    start = cholesky.whiten(y)
    norm = float(np.linalg.norm(start))
    most = math.ceil(len(waiting) * len(y) * _STEPS_PER_FACTORIZATION)
    # Only the rows that are written take memory.
    basis = np.empty((most + 1, len(y)))
    basis[0] = start / norm
    diagonal: list[float] = []
    below: list[float] = []

    def take(i: int, coefficients: NDArray) -> None:
        dual[:, i] = cholesky.whiten_transposed(coefficients @ basis[: len(coefficients)])
        waiting.remove(i)
        solved()

    for i in [i for i in waiting if z is None or factors[i] == 0]:
        take(i, np.array([norm]))
    # Rent or buy: the steps never cost more than the factorizations that they may save.
    while waiting and len(diagonal) < len(waiting) * len(y) * _STEPS_PER_FACTORIZATION:
        n_done = len(diagonal) + 1
        last, known = basis[n_done - 1], basis[:n_done]
        vector = cholesky.whiten(z @ cholesky.whiten_transposed(last))
        diagonal.append(float(last @ vector))
        for _ in range(2):
            vector -= (known @ vector) @ known
        below.append(float(np.linalg.norm(vector)))
        for i in list(waiting):
            coefficients = _solve_tridiagonal(factors[i], diagonal, below[:-1], norm)
            residual = abs(factors[i] * below[-1] * coefficients[-1])
            if residual <= tolerance * norm:
                take(i, coefficients)
        if below[-1] <= 1e-14 * max(np.abs(diagonal)):
            break
        basis[n_done] = vector / below[-1]
    return len(diagonal)


def _solve_tridiagonal(factor: float, diagonal: list, below: list, first: float) -> NDArray:
    """Return c with (I + factor T) c = first e_1, T symmetric and tridiagonal."""
    bands = np.zeros((3, len(diagonal)))
    bands[1] = 1 + factor * np.array(diagonal)
    bands[0, 1:] = bands[2, :-1] = factor * np.array(below)
    rhs = np.zeros(len(diagonal))
    rhs[0] = first
    try:
        return solve_banded((1, 1), bands, rhs, check_finite=False)
    except np.linalg.LinAlgError:
        # Singular at this step for this lambda; a later step will do.
        return np.full(len(diagonal), np.inf)


def add_label_term(k: NDArray, z: NDArray | None, factor: float) -> NDArray:
    """Return K + factor Z in float64."""
    combined = np.array(k, dtype=np.float64)
    if z is not None and factor != 0:
        combined += factor * z
    return combined


def _multiply(matrix: NDArray, vectors: NDArray) -> NDArray:
    """Return matrix @ vectors in float64, without a float64 copy of a float32 matrix."""
    if matrix.dtype == np.float64:
        return matrix @ vectors
    product = np.empty(vectors.shape)
    for start in range(0, len(matrix), _ROWS):
        rows = slice(start, start + _ROWS)
        product[rows] = matrix[rows].astype(np.float64) @ vectors
    return product


def check_gram(gram: NDArray) -> float:
    """Return the 1-norm of a square matrix, row by row, or raise `SolveError` on what is wrong."""
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise SolveError(f"a train Gram matrix is square, found shape {gram.shape}")
    norm = 0.0
    for i, row in enumerate(gram):
        total = float(np.abs(row).sum(dtype=np.float64))
        if not np.isfinite(total):
            raise SolveError(f"row {i} of the train Gram {gram.shape} has a NaN or an infinity")
        norm = max(norm, total)
    return norm


def singular_message(gram: NDArray, rcond: float) -> str:
    """Return what is known of a Gram matrix that cannot be solved, and what to look for."""
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
