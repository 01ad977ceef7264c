"""Predictions of K + lambda Z along a path of label weights, and their validation inside train.

No function here takes test labels.

References
----------
Chen, He and Su (2020), for the label weight ``r`` in ``lambda = r mean|K| / mean|Z|``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.evaluate import WeightPath, is_correct
from lantk.label_terms import LabelTerm
from lantk.solve import CholeskyFactor, IndefiniteError, PathSolution, add_label_term, solve_path

if TYPE_CHECKING:
    from lantk.solve_device import DeviceSolver

# The eigenvalues of a matrix cost more than a solve; up to this n the smallest is reported.
_EIGENVALUE_MAX_N = 1000

Progress = Callable[[int, int], None]
TermFactory = Callable[[], LabelTerm]


class ValidationError(LantkError):
    """A validation that cannot be made as asked; the message says what to change."""


def predict(
    k_train_train: NDArray,
    k_test_train: NDArray,
    y_train: NDArray,
    term: LabelTerm | None,
    *,
    weights: Sequence[float],
    validated: Sequence[float],
    make_term: TermFactory | None = None,
    x_train: NDArray | None = None,
    x_test: NDArray | None = None,
    folds: int = 5,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> WeightPath:
    """Return the scores of K + lambda Z on the test rows along a path of label weights.

    Parameters
    ----------
    k_train_train : (n, n) array
        Train Gram matrix.
    k_test_train : (n_test, n) array
        Test x train Gram matrix.
    y_train : (n,) array of -1/+1
        Train labels. No argument takes test labels.
    term : LabelTerm or None
        Fitted on all of train; None for the plain kernel.
    weights : sequence of float
        Label weights to predict at.
    validated : sequence of float
        Those of `weights` to validate by stratified folds inside train.
    make_term : callable
        Returns a fresh, unfitted label term: Z is fitted anew in each fold.
    x_train, x_test : (n, d), (n_test, d) arrays
        Vectors, for label terms that need them.
    folds, seed : int
        Number of validation folds, and the seed that shuffles them.
    device : str or None
        What PyTorch calls the GPU that solves; None stands for the CPU.
    progress : callable
        Called with (solves done, solves in all).

    Raises
    ------
    SolveError, LabelTermError
        If a matrix is singular or a label term cannot be fitted.
    ValidationError
        If a class has fewer train images than folds.
    """
    grid = np.array(sorted(set(weights)) if term is not None else [0.0])
    checked = np.isin(grid, validated) if term is not None else np.array([len(validated) > 0])
    y = np.asarray(y_train, dtype=np.float64)
    n_folds = folds if checked.any() else 0
    total = len(grid) + int(checked.sum()) * n_folds
    tick = _counter(progress, total)

    z_train = z_test = None
    diagnostics: dict[str, float] = {}
    if term is not None:
        z_train = term.train_block(k_train_train, x_train)
        z_test = term.transform(k_test_train, x_test)
        diagnostics = _describe_label_term(z_train, y)
    factor = _factor(k_train_train, device)
    factors, scores, solution = _solve_path(
        k_train_train, z_train, k_test_train, z_test, y, grid, factor, tick
    )
    eigenvalues = [_smallest_eigenvalue(k_train_train, z_train, factor) for factor in factors]
    diagnostics["mean_abs_k"] = _mean_abs(k_train_train)
    diagnostics["lanczos_steps"] = solution.n_steps
    diagnostics["factorizations"] = solution.n_factorizations
    # Last, so that a singular matrix is reported with the row numbers of the whole train set.
    validation = np.full(len(grid), np.nan)
    if checked.any():
        validation[checked] = _validate(
            k_train_train, y, x_train, make_term, grid[checked], folds, seed, device, tick
        )
    return WeightPath(
        grid,
        factors,
        scores,
        solution.relative_residuals,
        np.array(eigenvalues),
        validation,
        diagnostics,
    )


def _validate(
    k: NDArray,
    y: NDArray,
    x: NDArray | None,
    make_term: TermFactory | None,
    weights: NDArray,
    folds: int,
    seed: int,
    device: str | None,
    tick: Callable[[], None],
) -> NDArray:
    """Return the accuracy of each weight over the validation parts of stratified folds."""
    # Imported here: scikit-learn takes seconds to load, and the oracle protocol does not need it.
    from sklearn.model_selection import StratifiedKFold

    smallest = int(min(np.sum(y == 1), np.sum(y == -1)))
    if smallest < folds:
        raise ValidationError(
            f"{folds} folds need at least {folds} train images of each class, found {smallest}:"
            " lower `folds` or raise `n_train`"
        )
    n_correct = np.zeros(len(weights))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fit_rows, held_rows in splitter.split(np.zeros(len(y)), y):
        k_fit = np.asarray(k[np.ix_(fit_rows, fit_rows)])
        k_held = np.asarray(k[np.ix_(held_rows, fit_rows)])
        z_fit = z_held = None
        factor = _factor(k_fit, device)
        if make_term is not None:
            term = make_term()
            x_fit, x_held = (x[fit_rows], x[held_rows]) if x is not None else (None, None)
            term.fit(k_fit, y[fit_rows], x_fit, solve=factor.solve if factor else None)
            z_fit = term.train_block(k_fit, x_fit)
            z_held = term.transform(k_held, x_held)
        _, scores, _ = _solve_path(k_fit, z_fit, k_held, z_held, y[fit_rows], weights, factor, tick)
        n_correct += is_correct(scores, y[held_rows]).sum(axis=1)
    return n_correct / len(y)


def _solve_path(
    k_train: NDArray,
    z_train: NDArray | None,
    k_rows: NDArray,
    z_rows: NDArray | None,
    y: NDArray,
    weights: NDArray,
    factor: CholeskyFactor | DeviceSolver | None,
    tick: Callable[[], None],
) -> tuple[NDArray, NDArray, PathSolution]:
    """Return lambda and the scores on `rows` at each weight, and how the train side was solved."""
    ratio = 0.0 if z_train is None else _mean_abs(k_train) / (_mean_abs(z_train) or np.inf)
    factors = weights * ratio
    if factor is None or isinstance(factor, CholeskyFactor):
        solution = solve_path(k_train, z_train, factors, y, cholesky=factor, solved=tick)
    else:
        solution = factor.solve_path(z_train, factors, y, solved=tick)
    scores = k_rows @ solution.dual
    if z_rows is not None:
        scores += (z_rows @ solution.dual) * factors
    return factors, scores.T, solution


def _factor(k: NDArray, device: str | None) -> CholeskyFactor | DeviceSolver | None:
    """Return what solves with K: on a CPU its Cholesky factor, or None if rounding forbids one.

    Each weight is then solved by an LU factorization of its own, which the record counts.
    """
    if device is not None:
        # Imported here: PyTorch takes a second to load, and only GPUs need it.
        from lantk.solve_device import DeviceSolver

        return DeviceSolver(k, device)
    try:
        return CholeskyFactor(k)
    except IndefiniteError:
        return None


def _smallest_eigenvalue(k_train_train: NDArray, z_train: NDArray | None, factor: float) -> float:
    """Return the smallest eigenvalue of K + factor Z, or NaN above n = 1,000."""
    if len(k_train_train) > _EIGENVALUE_MAX_N:
        return np.nan
    return float(np.linalg.eigvalsh(add_label_term(k_train_train, z_train, factor))[0])


def _describe_label_term(z: NDArray, y: NDArray) -> dict[str, float]:
    """Return how large Z is, and how well its sign agrees with the label product."""
    n = len(y)
    # Row by row, so that no n x n label product is formed.
    agreement = np.mean([np.mean((z[i] >= 0) == (y[i] * y >= 0)) for i in range(n)])
    return {
        "mean_abs_z": _mean_abs(z),
        "mean_z_diagonal": float(np.diag(z).mean()),
        "sign_agreement": float(agreement),
    }


def _mean_abs(matrix: NDArray) -> float:
    """Return the mean absolute value, row by row: no copy of the matrix is made."""
    return float(np.mean([np.abs(row).mean(dtype=np.float64) for row in matrix]))


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick
