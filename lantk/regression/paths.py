"""Predictions of K + lambda Z along a path of label weights, and their validation inside train.

Several variants that share the factor of K and the features of pairs are predicted together: a
label term and its controls. No function here takes test labels.

References
----------
Chen, He and Su (2020), for the label weight ``r`` in ``lambda = r mean|K| / mean|Z|``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import numbering
from lantk.label_terms.base import LabelTerm, blocks_together, fit_together
from lantk.label_terms.feature_sets import Vectors
from lantk.labels import as_labels, decide, to_targets
from lantk.regression.diagnostics import describe
from lantk.regression.folds import permutation_parts, permuted, validation_folds
from lantk.regression.protocols import WeightPath
from lantk.solvers.additions import Addition, Dense, Diagonal, Nothing, add_label_term
from lantk.solvers.direct import (
    CholeskyFactor,
    IndefiniteError,
    SingularError,
    count_negative_eigenvalues,
)
from lantk.solvers.intercept import eliminate_constant, with_ones
from lantk.solvers.path import PathSolution, solve_path
from lantk.solvers.products import mean_abs, multiply

if TYPE_CHECKING:
    from lantk.solvers.gpu import DeviceSolver


# Relative residual of the solves on all of train, and in validation, where 1e-5 moves scores by
# some 1e-4 of their own size (measured at n = 8,000) and costs a tenth fewer steps.
_TOLERANCE, _VALIDATION_TOLERANCE = 1e-11, 1e-6
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Member:
    """A variant of a family: what is added to K, and the weights at which it is."""

    name: str
    weights: Sequence[float] = (0.0,)
    """Label weights (of ``cntk-ridge``: ridges) to predict at."""
    validated: Sequence[float] = ()
    """Those of `weights` to validate by stratified folds inside train."""
    make_term: Callable[[], LabelTerm] | None = None
    """Returns a fresh, unfitted label term; None for the plain kernel, whose one weight is 0."""
    permutation: int | None = None
    """Seed that permutes, inside folds, the train labels which the term is fitted to."""
    only_diagonal: bool = False
    """Whether only the diagonal of Z is added, with the lambda of all of Z."""
    has_intercept: bool = False
    """Whether an unpenalised constant is fitted beside K + lambda Z."""
    fitted: LabelTerm | None = None
    """The term fitted on all of train, if it is at hand."""
    grid: NDArray = field(init=False)
    """Weights in ascending order."""

    def __post_init__(self) -> None:
        weights = [0.0] if self.make_term is None else sorted(set(self.weights))
        object.__setattr__(self, "grid", np.array(weights, np.float64))

    @property
    def is_validated(self) -> NDArray:
        """Return which weights of the grid are validated, (p,) bool."""
        if self.make_term is None:
            return np.array([len(self.validated) > 0])
        return np.isin(self.grid, self.validated)


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
        others = [_without_zero(member) for member in members]
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
    factor = _factor(k_train_train, device)
    checked = [member.is_validated for member in members]
    total = sum(len(m.grid) + int(c.sum()) * n_folds for m, c in zip(members, checked, strict=True))
    parts = permutation_parts(y, folds, seed)
    targets = {m.permutation: permuted(y, m.permutation, parts) for m in members}
    n_done = 0

    def tick() -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done, total)

    with numbering({"k": ("x_test", range(len(k_test_train)))}):
        additions = _fit(members, k_train_train, k_test_train, targets, vectors, factor)
    paths = _solve_members(
        k_train_train, k_test_train, y.reshape(len(y), -1), members, additions, factor,
        grids=[m.grid for m in members], tolerance=_TOLERANCE, tick=tick,
    )  # fmt: skip
    results = [
        describe(
            k_train_train,
            k_test_train,
            y,
            diagonal_test,
            addition,
            member.grid,
            path,
            count=_counting(k_train_train, addition, factor),
        )
        for addition, member, path in zip(additions, members, paths, strict=True)
    ]
    del additions, factor
    if n_folds:
        accuracies = _validate(k_train_train, y, targets, vectors[0], members, splits, device, tick)
        for path, mask, accuracy in zip(results, checked, accuracies, strict=True):
            path.validation_accuracy[mask] = accuracy
    return results


def _validate(
    k: NDArray,
    y: NDArray,
    targets: Mapping[int | None, NDArray],
    x: Vectors | None,
    members: Sequence[Member],
    splits: Sequence[tuple[NDArray, NDArray]],
    device: str | None,
    tick: Callable[[], None],
) -> list[NDArray]:
    """Return each member's accuracy at its validated weights, over stratified folds."""
    grids = [member.grid[member.is_validated] for member in members]
    members = [replace(member, fitted=None) for member in members]
    n_correct = [np.zeros(len(grid)) for grid in grids]
    labels = as_labels(y)
    for fit, held in splits:
        k_fit, k_held = (np.asarray(k[np.ix_(rows, fit)]) for rows in (fit, held))
        vectors = (None, None) if x is None else (x[fit], x[held])
        own = {permutation: to_fit[fit] for permutation, to_fit in targets.items()}
        with numbering({"x_train": ("x_train", fit), "k": ("x_train", held)}):
            factor = _factor(k_fit, device)
            additions = _fit(members, k_fit, k_held, own, vectors, factor)
            paths = _solve_members(
                k_fit, k_held, y[fit].reshape(len(fit), -1), members, additions, factor,
                grids=grids, tolerance=_VALIDATION_TOLERANCE, tick=tick,
            )  # fmt: skip
        for correct, (_, scores, _) in zip(n_correct, paths, strict=True):
            correct += (decide(scores) == labels[held]).sum(axis=1)
    return [correct / len(y) for correct in n_correct]


def _fit(
    members: Sequence[Member],
    k_train: NDArray,
    k_rows: NDArray,
    targets: Mapping[int | None, NDArray],
    vectors: tuple[Vectors | None, Vectors | None],
    factor: CholeskyFactor | DeviceSolver | None,
) -> list[Addition]:
    """Fit every term on some train rows and return what each member adds there and on `k_rows`.

    Members that differ only in what of Z they add share one fit. `targets` are the labels of the
    rows, by permutation.
    """
    # What two members must share to share a fitted term; None for the plain kernel.
    keys: list[Any] = [m.make_term and (m.make_term, m.permutation) for m in members]
    owners = {key: m for key, m in zip(keys, members, strict=True) if key is not None}
    terms: dict[Any, LabelTerm] = {}
    unfitted = []
    for key, member in owners.items():
        if member.fitted is not None:
            terms[key] = member.fitted
        elif member.make_term is not None:
            terms[key] = member.make_term()
            unfitted.append(key)
    x_train, x_rows = vectors
    fit_together(
        [terms[key] for key in unfitted],
        k_train,
        [targets[owners[key].permutation] for key in unfitted],
        x_train,
        factor.solve if factor is not None else None,
    )
    blocks = {}
    for train, rows, x in ((True, k_train, x_train), (False, k_rows, x_rows)):
        found = blocks_together(list(terms.values()), rows, x, train=train)
        blocks[train] = dict(zip(terms, found, strict=True))
    mean_abs_k, diagonal = mean_abs(k_train), np.diag(k_train)
    told: dict[Any, Any] = {
        key: {
            "unit": term.weight_unit(mean_abs_k, diagonal, mean_abs(blocks[True][key])),
            "diagnostics": term.diagnostics(),
        }
        for key, term in terms.items()
    }
    additions: list[Addition] = []
    for key, member in zip(keys, members, strict=True):
        if key is None:
            additions.append(Nothing())
            continue
        z_train, z_rows = blocks[True][key], blocks[False][key]
        if member.only_diagonal:
            z_train = np.diag(z_train).astype(np.float64)
        if z_train.ndim == 1:
            additions.append(Diagonal(z_train, **told[key]))
        else:
            z_train, z_rows = (np.asarray(z, np.float32) for z in (z_train, z_rows))
            additions.append(Dense(z_train, z_rows, **told[key]))
    return additions


def _solve_members(
    k_train: NDArray,
    k_rows: NDArray,
    right_sides: NDArray,
    members: Sequence[Member],
    additions: Sequence[Addition],
    factor: CholeskyFactor | DeviceSolver | None,
    *,
    grids: Sequence[NDArray],
    tolerance: float,
    tick: Callable[[], None],
) -> list[tuple[NDArray, NDArray, PathSolution]]:
    """Return, for each member, lambda, the scores on `k_rows` (p, m[, c]) and the solution."""
    results: dict[int, tuple[NDArray, NDArray, PathSolution]] = {}
    kinds = [(len(grid), m.has_intercept) for grid, m in zip(grids, members, strict=True)]
    for kind in dict.fromkeys(kinds):
        chosen, has_intercept = [i for i, other in enumerate(kinds) if other == kind], kind[1]
        sides = with_ones(right_sides) if has_intercept else right_sides
        factors = [grids[i] * additions[i].unit for i in chosen]
        terms = [additions[i] for i in chosen]
        if factor is None or isinstance(factor, CholeskyFactor):
            solution = solve_path(
                k_train, terms, factors, sides,
                cholesky=factor, tolerance=tolerance, solved=tick,
            )  # fmt: skip
        else:
            solution = factor.solve_path(terms, factors, sides, solved=tick)
        for d, i in enumerate(chosen):
            own = PathSolution(*(values[d] for values in solution))
            if has_intercept:
                alpha, constant, n_lifted = eliminate_constant(own.dual)
                own = own._replace(dual=alpha, n_lifted=n_lifted)
            scores = _scores(k_rows, additions[i], own.dual, factors[d])
            if has_intercept:
                scores += constant if scores.ndim == 2 else constant[:, None]
            results[i] = factors[d], scores, own
    return [results[i] for i in range(len(members))]


def _counting(
    k: NDArray, z: Addition, factor: CholeskyFactor | DeviceSolver | None
) -> Callable[[float], int]:
    """Return a function of lambda: how many eigenvalues of K + lambda Z are negative."""
    if factor is None or isinstance(factor, CholeskyFactor):
        return lambda value: count_negative_eigenvalues(add_label_term(k, z, value))
    return partial(factor.count_negative, z)


def _scores(k_rows: NDArray, z: Addition, dual: NDArray, factors: NDArray) -> NDArray:
    """Return the scores (p, m), or (p, m, c) for c > 1, of dual coefficients (p, n, c)."""
    p, n, c = dual.shape
    flat = dual.transpose(1, 0, 2).reshape(n, p * c)
    scores = multiply(k_rows, flat) + z.apply_rows(flat) * np.repeat(factors, c)
    scores = scores.reshape(-1, p, c).transpose(1, 0, 2)
    return scores[..., 0] if c == 1 else scores


def _factor(k: NDArray, device: str | None) -> CholeskyFactor | DeviceSolver | None:
    """Return what solves with K: on a CPU its Cholesky factor, or None if it has none.

    K, then singular or indefinite, is no preconditioner: each weight is solved by an LU
    factorization of its own, which the record counts.
    """
    if device is not None:
        # Imported here: PyTorch takes a second to load, and only GPUs need it.
        from lantk.solvers.gpu import DeviceSolver

        return DeviceSolver(k, device)
    try:
        return CholeskyFactor(k)
    except (IndefiniteError, SingularError):
        return None


def _without_zero(member: Member) -> Member:
    """Return a member without weight 0; the same one if no other is left, or left to validate."""
    others, is_asked = member.grid != 0, member.is_validated
    has_others = others.any() and (is_asked[others].any() or not is_asked.any())
    if member.make_term is None or others.all() or not has_others:
        return member
    return replace(member, weights=member.grid[others].tolist())
