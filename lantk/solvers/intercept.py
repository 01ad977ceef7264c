"""An unpenalised constant beside a kernel: K + c 1 1^T with c to infinity, solved exactly.

The bordered system

    [[A, 1], [1^T, 0]] [alpha; b] = [y; 0]

is solved by elimination, so that all it takes beside A^-1 y is one more right-hand side, of ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lantk.solvers.direct import SolveError

# Below this cosine between 1 and A^-1 1 nothing but rounding is left of 1^T A^-1 1.
_LEAST_COSINE = 1e-12


def with_ones(y: NDArray) -> NDArray:
    """Return right-hand sides (n, c) with a column of ones behind them, (n, c + 1)."""
    return np.column_stack([y, np.ones(len(y))])


def eliminate_constant(dual: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return alpha and b of bordered systems from the solutions of A x = `with_ones` (y).

    b = (1^T A^-1 y) / (1^T A^-1 1) and alpha = A^-1 y - b A^-1 1, each column of y by itself.

    Parameters
    ----------
    dual : (..., n, c + 1) array
        A^-1 y and, last, A^-1 1.

    Returns
    -------
    alpha : (..., n, c) array
        Dual coefficients; those of each column sum to 0.
    constant : (..., c) array
        b, what scores have beside K alpha.
    n_lifted : (...) array
        1 where 1^T A^-1 1 is negative, else 0: so many negative eigenvalues fewer than A has A
        between vectors that sum to 0, where alpha is (Haynsworth's inertia additivity).

    Raises
    ------
    SolveError
        If 1^T A^-1 1 is 0 to working accuracy, as it may be for an indefinite A only.

    References
    ----------
    Golub and Van Loan, "Matrix Computations", section 3.2 (block elimination); Wahba, "Spline
    Models for Observational Data" (1990), equation 1.3.16, for a null space of constants.
    """
    of_y, of_one = dual[..., :-1], dual[..., -1:]
    total = of_one.sum(axis=-2, keepdims=True)
    norm = np.linalg.norm(of_one, axis=-2, keepdims=True) * np.sqrt(dual.shape[-2])
    if (np.abs(total) <= _LEAST_COSINE * norm).any():
        raise SolveError(
            "the system with an unpenalised constant is singular: the entries of the inverse of the"
            " train Gram matrix, with what is added to it, sum to 0. It is indefinite: take another"
            " label weight, or the variant without -intercept"
        )
    constant = of_y.sum(axis=-2, keepdims=True) / total
    n_lifted = (total[..., 0, 0] < 0).astype(int)
    return of_y - constant * of_one, constant[..., 0, :], n_lifted
