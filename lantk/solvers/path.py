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
from scipy.linalg import eigh_tridiagonal, solve_banded

from lantk.solvers.additions import Addition, Nothing, add_label_term
from lantk.solvers.direct import CholeskyFactor, GramFactor
from lantk.solvers.products import multiply

# One LU factorization takes as long as some n / 40 steps of Lanczos' method with two threads, and
# n / 23 with one (n = 8,000): 2/3 n^3 operations against 3/2 n^2 numbers read from memory.
_STEPS_PER_FACTORIZATION = 1 / 30


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
    at_least_negative: NDArray
    """(d, p): so many eigenvalues of K + lambda Z are negative at least; -1 where K is not known to
    be definite."""
    n_lifted: NDArray
    """(d, p): how many of these an unpenalised constant takes away, 0 or 1; 0 without one."""


def solve_path(
    k: NDArray,
    terms: Sequence[Addition],
    factors: Sequence[NDArray],
    y: NDArray,
    *,
    cholesky: CholeskyFactor | None,
    tolerance: float = 1e-11,
    solved: Callable[[], None] = lambda: None,
) -> PathSolution:
    """Solve (K + lambda Z) x = y for several Z, and for every lambda of a path for each.

    With K = L L^T and S = L^-1 Z L^-T the systems of one Z are (I + lambda S) u = L^-1 y, u = L^T
    x. They differ by a multiple of S only, so one Krylov space of S serves all of them: one Lanczos
    basis, and a tridiagonal system for each lambda. Small lambda need few steps, large ones many; a
    lambda that would cost more steps than a factorization does is solved by its own LU. The Krylov
    spaces of all Z and right-hand sides grow side by side, so that L is read once a step for all of
    them.

    Parameters
    ----------
    k : (n, n) array
        Train Gram matrix.
    terms, factors : sequences of d additions, and of d arrays (p,)
        The Z, and the lambdas of each; all paths have the same length.
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
    right-hand side is kept, n numbers a step, and every new vector is orthogonalised against all of
    it, twice.

    References
    ----------
    Lanczos (1950); Frommer and Maass, "Fast CG-based methods for Tikhonov-Phillips regularization"
    (1999), for shifted systems in one Krylov space.
    """
    columns = np.asarray(y, np.float64).reshape(len(y), -1)
    n, c = columns.shape
    dual = np.empty((len(terms), len(factors[0]), n, c))
    n_steps, at_least = np.zeros(len(terms), int), np.full(dual.shape[:2], -1)
    waiting = [list(range(len(path))) for path in factors]
    if cholesky is not None:
        n_steps, at_least = _grow_krylov_spaces(
            cholesky, terms, factors, columns, tolerance, dual, waiting, solved
        )
    residuals = np.empty(dual.shape[:2])
    for d, (z, path) in enumerate(zip(terms, factors, strict=True)):
        for i in waiting[d]:
            is_plain = isinstance(z, Nothing) or path[i] == 0
            combined = add_label_term(k, z, path[i])
            dual[d, i] = GramFactor(combined, None if is_plain else k).solve(columns)
            solved()
        flat = dual[d].transpose(1, 0, 2).reshape(n, -1)
        product = multiply(k, flat) + z.apply(flat) * np.repeat(path, c)
        missing = (np.tile(columns, len(path)) - product).reshape(n, len(path), c)
        residuals[d] = np.linalg.norm(missing, axis=(0, 2)) / np.linalg.norm(columns)
    n_factorizations = np.array([len(rest) for rest in waiting])
    return PathSolution(
        dual, residuals, n_steps, n_factorizations, at_least, np.zeros_like(at_least)
    )


def count_negative_along(
    factors: NDArray, at_least: NDArray, count: Callable[[float], int]
) -> NDArray[np.int_]:
    """Return how many eigenvalues of K + lambda Z are negative, for every lambda of a path (p,).

    With a definite K = L L^T they are as many as the eigenvalues of S = L^-1 Z L^-T below
    -1 / lambda (Sylvester's law of inertia), so the larger lambda, the more. What is counted at
    one lambda holds for all smaller ones that have as many at least.

    Parameters
    ----------
    factors : (p,) array
        The lambdas, ascending.
    at_least : (p,) array
        As in `PathSolution`. With -1, of a K that is not known to be definite, every lambda is
        counted.
    count : callable
        Returns the number at one lambda, at the cost of a factorization.

    Notes
    -----
    Measured on CIFAR-10, n = 2,000, the published terms and twins: Ritz values of the Krylov space
    find the lambda where the first eigenvalue turns negative within 20 steps, and all (9 at most)
    within 100, so that there is one factorization for each number that occurs.
    """
    found, n_unknown = np.zeros(len(factors), int), len(factors)
    while n_unknown and (factors[n_unknown - 1] != 0 or at_least[0] < 0):
        exact = count(float(factors[n_unknown - 1]))
        first = min(int(np.searchsorted(at_least[:n_unknown], exact)), n_unknown - 1)
        found[first:n_unknown] = exact
        n_unknown = first
    return found


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

    def count_negative(self) -> NDArray[np.int_]:
        """Return, for every lambda, how many Ritz values of I + lambda S are negative.

        Ritz values interlace the eigenvalues, of which so many are negative at least.
        """
        ritz = eigh_tridiagonal(self.diagonal, self.below[:-1], eigvals_only=True)
        return (1 + self.factors[:, None] * ritz < 0).sum(axis=1)


def _grow_krylov_spaces(
    cholesky: CholeskyFactor,
    terms: Sequence[Addition],
    factors: Sequence[NDArray],
    columns: NDArray,
    tolerance: float,
    dual: NDArray,
    waiting: list[list[int]],
    solved: Callable[[], None],
) -> tuple[NDArray, NDArray]:
    """Fill in what of `dual` converges and leave the rest in `waiting`.

    Return the steps of each Z, and how many eigenvalues are negative at least at each lambda.
    """
    start = cholesky.whiten(columns)
    plain = cholesky.whiten(start, transposed=True)
    for d, (z, path) in enumerate(zip(terms, factors, strict=True)):
        for i in [i for i in waiting[d] if isinstance(z, Nothing) or path[i] == 0]:
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
        vectors = cholesky.whiten(np.column_stack([s.last() for *_, s in growing]), transposed=True)
        owners = np.array([d for d, *_ in growing])
        for d in np.unique(owners):
            # One product a term: it is read once for all right-hand sides.
            vectors[:, owners == d] = terms[d].apply(vectors[:, owners == d])
        vectors = cholesky.whiten(vectors)
        found = [
            (d, i, j, u)
            for (d, j, space), vector in zip(growing, vectors.T, strict=True)
            for i, u in space.extend(vector, tolerance)
        ]
        if found:
            solutions = np.column_stack([u for *_, u in found])
            solutions = cholesky.whiten(solutions, transposed=True)
        for (d, i, j, _), x in zip(found, solutions.T if found else (), strict=True):
            dual[d, i, :, j] = x
            unsolved[d, i] -= 1
            if not unsolved[d, i]:
                waiting[d].remove(i)
                solved()
    steps, at_least = np.zeros(len(terms), int), np.zeros(dual.shape[:2], int)
    for d, _, space in spaces:
        steps[d] = max(steps[d], len(space.diagonal))
        at_least[d] = np.maximum(at_least[d], space.count_negative())
    return steps, at_least


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
