"""Predictions of K + lambda Z along a path of label weights: what the workflow evaluates.

No function here takes test labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from numpy.typing import NDArray

from lantk.errors import numbering
from lantk.label_terms.feature_sets import Vectors
from lantk.labels import to_targets
from lantk.regression.diagnostics import describe
from lantk.regression.fits import (
    Member,
    count_right,
    fit_paths,
    score_together,
    validate,
)
from lantk.regression.folds import permutation_parts, permuted, validation_folds
from lantk.regression.protocols import WeightPath
from lantk.solvers.additions import Addition, Dense, add_label_term
from lantk.solvers.direct import CholeskyFactor, SingularError, count_negative_eigenvalues
from lantk.solvers.factors import Factor, factorize_kernel

Progress = Callable[[int, int], None]


def predict(
    k_train_train: NDArray,
    k_test_train: NDArray,
    y_train: NDArray,
    members: Sequence[Member],
    *,
    x_train: Vectors | None = None,
    x_test: Vectors | None = None,
    diagonal_test: NDArray | None = None,
    folds: int = 5,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> list[WeightPath]:
    """Return, for every member, the scores of K + lambda Z on the test rows along its path.

    One-hot labels are regressed on as they are. Other targets, low and high, would change no
    prediction: the scores are linear in them, so each class gets (high - low) times its own score
    and low times the sum of all.

    Parameters
    ----------
    k_train_train, k_test_train : (n, n), (n_test, n) arrays
        Gram matrices.
    y_train : (n,) array of -1/+1, or (n, k) one-hot
        Train labels, or what `labels.to_targets` makes such of. No argument takes test labels.
    members : sequence of Member
        Variants to predict.
    x_train, x_test : (n, d), (n_test, d) arrays or PairedVectors
        Vectors, for label terms that need them.
    diagonal_test : (n_test,) array
        K(x, x) of the test images, for the relative ratio between test and train images.
    folds, seed : int
        Number of validation folds, and the seed that shuffles them.
    device : str or None
        What PyTorch calls the GPU that solves; None stands for the CPU.
    progress : callable
        Called with (solves done, solves in all).

    Raises
    ------
    SolveError, LabelTermError
        If a matrix is singular or a label term cannot be fitted. Where one is, as with equal
        images, weight 0 is left out of every path that has others, and the diagnostics say so.
    ValidationError
        If a class has fewer train images than folds.
    """
    y = to_targets(y_train, len(k_train_train))
    vectors, rest = (x_train, x_test), (diagonal_test, folds, seed, device, progress)
    try:
        return _predict(k_train_train, k_test_train, y, members, vectors, *rest)
    except SingularError:
        others = [member.without_zero() for member in members]
        if all(other is member for other, member in zip(others, members, strict=True)):
            raise
    paths = _predict(k_train_train, k_test_train, y, others, vectors, *rest)
    for path, member in zip(paths, members, strict=True):
        if len(path.weights) < len(member.grid):
            path.diagnostics["kernel_is_singular"] = 1.0
    return paths


def _predict(
    k_train_train: NDArray,
    k_test_train: NDArray,
    y: NDArray,
    members: Sequence[Member],
    vectors: tuple[Vectors | None, Vectors | None],
    diagonal_test: NDArray | None,
    folds: int,
    seed: int,
    device: str | None,
    progress: Progress | None,
) -> list[WeightPath]:
    """Return what `predict` does; a matrix that is singular ends it."""
    n_folds = folds if any(member.is_validated.any() for member in members) else 0
    splits = validation_folds(y, n_folds, seed) if n_folds else []
    factor = factorize_kernel(k_train_train, device)
    checked = [member.is_validated for member in members]
    total = sum(len(m.grid) + int(c.sum()) * n_folds for m, c in zip(members, checked, strict=True))
    parts = permutation_parts(y, folds, seed)
    targets = {m.permutation: permuted(y, m.permutation, parts) for m in members}
    x_train, x_test = vectors
    n_done = 0

    def tick() -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done, total)

    with numbering({"k": ("x_test", range(len(k_test_train)))}):
        paths = fit_paths(k_train_train, y, members, targets, factor, x=x_train, solved=tick)
        scored = score_together(paths, k_test_train, x_test)
    results = [
        describe(
            k_train_train,
            k_test_train,
            y,
            diagonal_test,
            _with_rows(path.addition, z),
            path.weights,
            (path.factors, scores, path.solution),
            count=_counting(k_train_train, path.addition, factor),
        )
        for path, (scores, z) in zip(paths, scored, strict=True)
    ]
    results = [
        replace(result, fitted=path.at(slice(None)))
        for result, path in zip(results, paths, strict=True)
    ]
    del paths, scored, factor
    if n_folds:
        accuracies = validate(
            k_train_train, y, members, targets, splits, count_right(y),
            x=x_train, device=device, solved=tick,
        )  # fmt: skip
        for result, mask, accuracy in zip(results, checked, accuracies, strict=True):
            result.validation_accuracy[mask] = accuracy
    return results


def _with_rows(addition: Addition, z: NDArray | None) -> Addition:
    """Return an addition with Z of the test rows, where it adds anything there."""
    return replace(addition, rows=z) if isinstance(addition, Dense) else addition


def _counting(k: NDArray, z: Addition, factor: Factor) -> Callable[[float], int]:
    """Return a function of lambda: how many eigenvalues of K + lambda Z are negative."""
    if factor is None or isinstance(factor, CholeskyFactor):
        return lambda value: count_negative_eigenvalues(add_label_term(k, z, value))
    return partial(factor.count_negative, z)
