"""Kernel regression solves: factor once, solve many.

``K + lambda Z`` is not positive definite in general, and is not repaired here: it is solved
directly by LU with partial pivoting (`GramFactor`), or along a whole path of lambda at once by
Lanczos' method, preconditioned with the Cholesky factor of K (`solve_path`). What cannot be solved
to working accuracy raises `SolveError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack, lu_solve, solve_banded

from lantk.errors import LantkError
from lantk.solvers.products import multiply

# Below this reciprocal condition number a float64 solution has no correct digit left.
RCOND_MIN = 1e-15
# One LU factorization takes as long as some n / 40 steps of Lanczos' method with two threads, and
# n / 23 with one (n = 8,000): 2/3 n^3 operations against 3/2 n^2 numbers read from memory.
_STEPS_PER_FACTORIZATION = 1 / 30


class SolveError(LantkError):
    """A Gram matrix that cannot be solved; the message lists likely causes and what to turn."""


class PathSolution(NamedTuple):
    """Solutions along the paths of lambda of d label terms, for c right-hand sides."""

    dual: NDArray
    """(d, p, n, c): x with (K + lambda Z) x = y."""
    relative_residuals: NDArray
    """(d, p): |y - (K + lambda Z) x| / |y|."""
    n_steps: NDArray
    """(d,): steps of Lanczos' method, shared by a whole path, of its slowest right-hand side."""
    n_factorizations: NDArray
    """(d,): how many lambda were solved by a factorization of their own."""


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
        return solution + self._back_substitute(rhs - multiply(self._gram, solution))

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
    LAPACK ``potrf``, ``pocon``; BLAS ``trsm``.
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
        residual = rhs - multiply(self._gram, solution)
        return solution + lapack.dpotrs(self._lower, residual, lower=True)[0].reshape(rhs.shape)

    def whiten(self, v: NDArray) -> NDArray:
        """Return L^-1 v for vectors (n, k)."""
        return blas.dtrsm(1.0, self._lower, np.asfortranarray(v), lower=1)

    def whiten_transposed(self, v: NDArray) -> NDArray:
        """Return L^-T v for vectors (n, k)."""
        return blas.dtrsm(1.0, self._lower, np.asfortranarray(v), lower=1, trans_a=1)


class IndefiniteError(SolveError):
    """A Gram matrix that has no Cholesky factor."""


def solve_path(
    k: NDArray,
    terms: Sequence[NDArray | None],
    factors: Sequence[NDArray],
    y: NDArray,
    *,
    cholesky: CholeskyFactor | None,
    tolerance: float = 1e-11,
    solved: Callable[[], None] = lambda: None,
) -> PathSolution:
    """Solve (K + lambda Z) x = y for several Z, and for every lambda of a path for each.

    With K = L L^T and S = L^-1 Z L^-T the systems of one Z are (I + lambda S) u = L^-1 y,
    u = L^T x. They differ by a multiple of S only, so one Krylov space of S serves all of them: one
    Lanczos basis, and a tridiagonal system for each lambda. Small lambda need few steps, large ones
    many; a lambda that would cost more steps than a factorization does is solved by its own LU.
    The Krylov spaces of all Z and right-hand sides grow side by side, so that L is read once a step
    for all of them.

    Parameters
    ----------
    k : (n, n) array
        Train Gram matrix.
    terms : sequence of d arrays
        Symmetric train blocks Z: (n, n), (n,) for a diagonal matrix, or None for zero.
    factors : sequence of d arrays (p,)
        The lambdas of each Z; all paths have the same length.
    y : (n,) or (n, c) array
        Right-hand sides.
    cholesky : CholeskyFactor or None
        Of `k`; None solves every lambda by a factorization of its own.
    tolerance : float
        Relative residual, in the preconditioned norm, at which a lambda is solved.
    solved : callable
        Called once for every lambda of every Z.

    Raises
    ------
    SolveError
        If a matrix is singular to working accuracy.

    Notes
    -----
    Cost: a step reads L twice (2 n^2 numbers in all) and every Z once; the basis of each Z and
    right-hand side is kept, n numbers a step, and every new vector is orthogonalised against all
    of it, twice.

    References
    ----------
    Lanczos (1950); Frommer and Maass, "Fast CG-based methods for Tikhonov-Phillips regularization"
    (1999), for shifted systems in one Krylov space.
    """
    columns = np.asarray(y, np.float64).reshape(len(y), -1)
    n, c = columns.shape
    dual = np.empty((len(terms), len(factors[0]), n, c))
    n_steps = np.zeros(len(terms), int)
    waiting = [list(range(len(path))) for path in factors]
    if cholesky is not None:
        n_steps = _grow_krylov_spaces(
            cholesky, terms, factors, columns, tolerance, dual, waiting, solved
        )
    residuals = np.empty(dual.shape[:2])
    for d, (z, path) in enumerate(zip(terms, factors, strict=True)):
        for i in waiting[d]:
            dual[d, i] = GramFactor(add_label_term(k, z, path[i])).solve(columns)
            solved()
        flat = dual[d].transpose(1, 0, 2).reshape(n, -1)
        product = multiply(k, flat)
        if z is not None:
            product += apply_term(z, flat) * np.repeat(path, c)
        missing = (np.tile(columns, len(path)) - product).reshape(n, len(path), c)
        residuals[d] = np.linalg.norm(missing, axis=(0, 2)) / np.linalg.norm(columns)
    return PathSolution(dual, residuals, n_steps, np.array([len(rest) for rest in waiting]))


def apply_term(z: NDArray, vectors: NDArray) -> NDArray:
    """Return Z @ vectors (n, c), Z being symmetric (n, n) or the (n,) diagonal of a matrix."""
    return z[:, None] * vectors if z.ndim == 1 else multiply(z, vectors)


class _KrylovSpace:
    """The Krylov space of one S and one right-hand side, and the lambdas it still serves."""

    def __init__(self, start: NDArray, factors: NDArray, waiting: list[int]) -> None:
        self.norm = float(np.linalg.norm(start))
        self.factors, self.waiting = factors, list(waiting)
        self.most = math.ceil(len(waiting) * len(start) * _STEPS_PER_FACTORIZATION)
        # Only the rows that are written take memory.
        self.basis = np.empty((self.most + 1, len(start)))
        self.basis[0] = start / (self.norm or 1.0)
        self.diagonal: list[float] = []
        self.below: list[float] = []
        self.is_complete = False

    @property
    def is_growing(self) -> bool:
        """Rent or buy: the steps never cost more than the factorizations that they may save."""
        spent = len(self.diagonal) >= (
            len(self.waiting) * self.basis.shape[1] * _STEPS_PER_FACTORIZATION
        )
        return bool(self.waiting) and not spent and not self.is_complete

    def last(self) -> NDArray:
        """Return the newest vector of the basis."""
        return self.basis[len(self.diagonal)]

    def extend(self, vector: NDArray, tolerance: float) -> list[tuple[int, NDArray]]:
        """Take S times the last vector; return the lambdas solved by it, in the basis."""
        n_done = len(self.diagonal) + 1
        known = self.basis[:n_done]
        self.diagonal.append(float(known[-1] @ vector))
        for _ in range(2):
            vector = vector - (known @ vector) @ known
        self.below.append(float(np.linalg.norm(vector)))
        solved = []
        for i in list(self.waiting):
            coefficients = _solve_tridiagonal(
                self.factors[i], self.diagonal, self.below[:-1], self.norm
            )
            residual = abs(self.factors[i] * self.below[-1] * coefficients[-1])
            if residual <= tolerance * self.norm:
                self.waiting.remove(i)
                solved.append((i, coefficients @ known))
        if self.below[-1] <= 1e-14 * max(np.abs(self.diagonal)):
            self.is_complete = True
        else:
            self.basis[n_done] = vector / self.below[-1]
        return solved


def _grow_krylov_spaces(
    cholesky: CholeskyFactor,
    terms: Sequence[NDArray | None],
    factors: Sequence[NDArray],
    columns: NDArray,
    tolerance: float,
    dual: NDArray,
    waiting: list[list[int]],
    solved: Callable[[], None],
) -> NDArray:
    """Fill in what of `dual` converges, leave the rest in `waiting`, return the steps of each Z."""
    start = cholesky.whiten(columns)
    plain = cholesky.whiten_transposed(start)
    for d, (z, path) in enumerate(zip(terms, factors, strict=True)):
        for i in [i for i in waiting[d] if z is None or path[i] == 0]:
            dual[d, i] = plain
            waiting[d].remove(i)
            solved()
    spaces = [
        (d, j, _KrylovSpace(start[:, j], factors[d], waiting[d]))
        for d in range(len(terms))
        if waiting[d]
        for j in range(columns.shape[1])
    ]
    # A lambda is solved when it is for every right-hand side.
    unsolved = {(d, i): columns.shape[1] for d in range(len(terms)) for i in waiting[d]}
    while growing := [entry for entry in spaces if entry[2].is_growing]:
        vectors = cholesky.whiten_transposed(np.column_stack([s.last() for *_, s in growing]))
        owners = np.array([d for d, *_ in growing])
        for d in np.unique(owners):
            # One product a term: it is read once for all right-hand sides.
            vectors[:, owners == d] = apply_term(terms[d], vectors[:, owners == d])
        vectors = cholesky.whiten(vectors)
        found = [
            (d, i, j, u)
            for (d, j, space), vector in zip(growing, vectors.T, strict=True)
            for i, u in space.extend(vector, tolerance)
        ]
        if found:
            columns_found = cholesky.whiten_transposed(np.column_stack([u for *_, u in found]))
        for (d, i, j, _), x in zip(found, columns_found.T if found else (), strict=True):
            dual[d, i, :, j] = x
            unsolved[d, i] -= 1
            if not unsolved[d, i]:
                waiting[d].remove(i)
                solved()
    steps = np.zeros(len(terms), int)
    for d, _, space in spaces:
        steps[d] = max(steps[d], len(space.diagonal))
    return steps


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
    """Return K + factor Z in float64; Z is (n, n), the (n,) diagonal of a matrix, or None."""
    combined = np.array(k, dtype=np.float64)
    if z is not None and factor != 0:
        if z.ndim == 1:
            combined[np.diag_indices(len(z))] += factor * z
        else:
            for row, more in zip(combined, z, strict=True):
                row += factor * np.asarray(more, np.float64)
    return combined


def factorize(gram: NDArray) -> CholeskyFactor | GramFactor:
    """Return the Cholesky factor of a Gram matrix, or its LU factors where rounding forbids one.

    Raises
    ------
    SolveError
        If the matrix is not square, not finite, or singular to working accuracy.
    """
    try:
        return CholeskyFactor(gram)
    except IndefiniteError:
        return GramFactor(gram)


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
