"""Variants fitted to train rows at every weight of a path, and their validation inside train.

The workflow's evaluation (`paths.predict`) and the estimators fit here. Several variants that share
the factor of K and the features of pairs are fitted together: a label term and its controls.

References
----------
Chen, He and Su (2020), for the label weight ``r`` in ``lambda = r mean|K| / mean|Z|``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import numbering
from lantk.label_terms.base import LabelTerm, blocks_together, fit_together
from lantk.label_terms.feature_sets import PairedVectors, Vectors
from lantk.label_terms.least_squares import LeastSquares
from lantk.labels import as_labels, decide
from lantk.solvers.additions import Addition, Dense, Diagonal, Nothing
from lantk.solvers.direct import CholeskyFactor
from lantk.solvers.factors import Factor, factorize_kernel, with_ridge
from lantk.solvers.intercept import eliminate_constant, with_ones
from lantk.solvers.path import PathSolution, solve_path
from lantk.solvers.products import mean_abs, multiply

if TYPE_CHECKING:
    from lantk.solvers.gpu import DeviceSolver

# Relative residual of the solves on all of train, and in validation, where 1e-5 moves scores by
# some 1e-4 of their own size (measured at n = 8,000) and costs a tenth fewer steps.
TOLERANCE, _VALIDATION_TOLERANCE = 1e-11, 1e-6
Judge = Callable[[NDArray, NDArray], NDArray]
"""Returns, for the scores (p, m[, c]) of held-out rows and their numbers (m,), a sum over the rows
of how good they are, (p,)."""
Folds = Sequence[tuple[NDArray, NDArray]]
"""Of each fold the rows to fit and those held out."""


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

    def without_zero(self) -> Member:
        """Return it without weight 0; itself if no other is left, or left to validate."""
        others, is_asked = self.grid != 0, self.is_validated
        has_others = others.any() and (is_asked[others].any() or not is_asked.any())
        if self.make_term is None or others.all() or not has_others:
            return self
        return replace(self, weights=self.grid[others].tolist())


@dataclass(frozen=True, eq=False)
class FittedPath:
    """A variant fitted to n train rows at p weights: all that predicting other rows takes."""

    weights: NDArray
    """(p,): label weights or ridges, ascending."""
    factors: NDArray
    """(p,): lambda."""
    dual: NDArray
    """(p, n, c): coefficients of K + lambda Z."""
    constant: NDArray | None
    """(p, c): what scores have beside these, or None."""
    term: LabelTerm | None
    """The fitted label term, or None where nothing is added between train rows and others."""

    def at(self, only: int | slice) -> FittedPath:
        """Return it at weight number `only`, or several, with no more than predictions take."""
        only = only if isinstance(only, slice) else slice(only, only + 1)
        constant = None if self.constant is None else self.constant[only]
        return FittedPath(
            self.weights[only], self.factors[only], self.dual[only], constant, self.term
        )


@dataclass(frozen=True, eq=False)
class SolvedPath(FittedPath):
    """The same with what is known of the train rows."""

    addition: Addition
    """Z on the train rows."""
    solution: PathSolution


def pair_vectors(
    term: LabelTerm, x_train: NDArray, x_rows: NDArray | None = None
) -> tuple[Vectors, Vectors]:
    """Return vectors of train and of other rows for a term that is validated.

    Every fold fits features anew, so what pairs of vectors share is computed once.
    """
    rows = x_train[:0] if x_rows is None else x_rows
    if not isinstance(term, LeastSquares):
        return x_train, rows
    store, n = PairedVectors(x_train, rows), len(x_train)
    return store[:n], store[n:]


def fit_paths(
    k: NDArray,
    right_sides: NDArray,
    members: Sequence[Member],
    targets: Mapping[int | None, NDArray],
    factor: Factor,
    *,
    k_solved: NDArray | None = None,
    x: Vectors | None = None,
    grids: Sequence[NDArray] | None = None,
    tolerance: float = TOLERANCE,
    solved: Callable[[], None] = lambda: None,
) -> list[SolvedPath]:
    """Fit every member to the train rows, at every weight of its path.

    Members that differ only in what of Z they add share one fit.

    Parameters
    ----------
    k : (n, n) array
        Train Gram matrix, which label terms are fitted on.
    right_sides : (n,) or (n, c) array
        What the scores are to be at the train rows.
    members : sequence of Member
        What is fitted.
    targets : dict
        The labels that terms are fitted to, by permutation.
    factor : CholeskyFactor, DeviceSolver or None
        What `factorize_kernel` returns, of `k_solved`.
    k_solved : (n, n) array, optional
        The matrix that Z is added to and that is solved with, by default K.
    x : (n, d) array or PairedVectors, optional
        Vectors, for label terms that need them.
    grids : sequence of (p,) arrays, optional
        The weights of each member, by default its own.
    tolerance : float
        As for `solve_path`.
    solved : callable
        Called once for every weight of every member.

    Raises
    ------
    SolveError, LabelTermError
        If a matrix is singular or a label term cannot be fitted.
    """
    k_solved = k if k_solved is None else k_solved
    grids = [member.grid for member in members] if grids is None else grids
    fitted = _fit_terms(members, k, targets, x, factor)
    return _solve(k_solved, right_sides, members, fitted, factor, grids, tolerance, solved)


def score_together(
    paths: Sequence[FittedPath], k_rows: NDArray, x_rows: Vectors | None = None
) -> list[tuple[NDArray, NDArray | None]]:
    """Return the scores of each path on other rows, and its Z there.

    Parameters
    ----------
    paths : sequence of FittedPath
        Fitted to the same train rows.
    k_rows : (m, n) array
        K between other rows and the train rows.
    x_rows : (m, d) array or PairedVectors, optional
        Their vectors.

    Returns
    -------
    list of ((p, m) or (p, m, c) array, (m, n) array or None)
    """
    terms = {id(path.term): path.term for path in paths if path.term is not None}
    blocks = blocks_together(list(terms.values()), k_rows, x_rows, train=False)
    found = {key: np.asarray(z, np.float32) for key, z in zip(terms, blocks, strict=True)}
    results = []
    for path in paths:
        z = None if path.term is None else found[id(path.term)]
        scores = _scores(k_rows, z, path.dual, path.factors)
        if path.constant is not None:
            scores += path.constant if scores.ndim == 2 else path.constant[:, None]
        results.append((scores, z))
    return results


def count_right(y: NDArray) -> Judge:
    """Return the judge that counts the rows of which the scores decide the label right.

    `y` are targets of all rows, -1/+1 or one-hot.
    """
    labels = as_labels(y)
    return lambda scores, held: (decide(scores) == labels[held]).sum(axis=1)


def validate(
    k: NDArray,
    right_sides: NDArray,
    members: Sequence[Member],
    targets: Mapping[int | None, NDArray],
    folds: Folds,
    judge: Judge,
    *,
    ridge: float = 0.0,
    x: Vectors | None = None,
    device: str | None = None,
    solved: Callable[[], None] = lambda: None,
) -> list[NDArray]:
    """Return each member's mean of `judge` at its validated weights, over folds inside train.

    Everything is fitted anew in each fold. `ridge` is as for `with_ridge`, `device` as for
    `factorize_kernel`, the rest as for `fit_paths`.
    """
    grids = [member.grid[member.is_validated] for member in members]
    members = [replace(member, fitted=None) for member in members]
    totals = [np.zeros(len(grid)) for grid in grids]
    for fit, held in folds:
        k_fit, k_held = (np.asarray(k[np.ix_(rows, fit)]) for rows in (fit, held))
        x_fit, x_held = (None, None) if x is None else (x[fit], x[held])
        own = {permutation: to_fit[fit] for permutation, to_fit in targets.items()}
        with numbering({"x_train": ("x_train", fit), "k": ("x_train", held)}):
            k_solved = with_ridge(k_fit, ridge)
            factor = factorize_kernel(k_solved, device)
            paths = fit_paths(
                k_fit, right_sides[fit], members, own, factor,
                k_solved=k_solved, x=x_fit, grids=grids, tolerance=_VALIDATION_TOLERANCE,
                solved=solved,
            )  # fmt: skip
            scored = score_together(paths, k_held, x_held)
        for total, (scores, _) in zip(totals, scored, strict=True):
            total += judge(scores, held)
    return [total / len(k) for total in totals]


def _fit_terms(
    members: Sequence[Member],
    k: NDArray,
    targets: Mapping[int | None, NDArray],
    x: Vectors | None,
    factor: Factor,
) -> list[tuple[LabelTerm | None, Addition]]:
    """Return every member's fitted term and what it adds to K on the train rows."""
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
    fit_together(
        [terms[key] for key in unfitted],
        k,
        [targets[owners[key].permutation] for key in unfitted],
        x,
        factor.solve if factor is not None else None,
    )
    blocks = dict(zip(terms, blocks_together(list(terms.values()), k, x, train=True), strict=True))
    mean_abs_k, diagonal = mean_abs(k), np.diag(k)
    told: dict[Any, Any] = {
        key: {
            "unit": term.weight_unit(mean_abs_k, diagonal, mean_abs(blocks[key])),
            "diagnostics": term.diagnostics(),
        }
        for key, term in terms.items()
    }
    found: list[tuple[LabelTerm | None, Addition]] = []
    for key, member in zip(keys, members, strict=True):
        if key is None:
            found.append((None, Nothing()))
            continue
        z = blocks[key]
        if member.only_diagonal:
            z = np.diag(z).astype(np.float64)
        if z.ndim == 1:
            found.append((None, Diagonal(z, **told[key])))
        else:
            found.append((terms[key], Dense(np.asarray(z, np.float32), **told[key])))
    return found


def _solve(
    k: NDArray,
    right_sides: NDArray,
    members: Sequence[Member],
    fitted: Sequence[tuple[LabelTerm | None, Addition]],
    factor: CholeskyFactor | DeviceSolver | None,
    grids: Sequence[NDArray],
    tolerance: float,
    solved: Callable[[], None],
) -> list[SolvedPath]:
    """Solve (K + lambda Z) alpha = right sides for every member."""
    right_sides = np.asarray(right_sides, np.float64).reshape(len(right_sides), -1)
    results: dict[int, SolvedPath] = {}
    kinds = [(len(grid), m.has_intercept) for grid, m in zip(grids, members, strict=True)]
    for kind in dict.fromkeys(kinds):
        chosen, has_intercept = [i for i, other in enumerate(kinds) if other == kind], kind[1]
        sides = with_ones(right_sides) if has_intercept else right_sides
        factors = [grids[i] * fitted[i][1].unit for i in chosen]
        additions = [fitted[i][1] for i in chosen]
        if factor is None or isinstance(factor, CholeskyFactor):
            solution = solve_path(
                k, additions, factors, sides,
                cholesky=factor, tolerance=tolerance, solved=solved,
            )  # fmt: skip
        else:
            solution = factor.solve_path(additions, factors, sides, solved=solved)
        for d, i in enumerate(chosen):
            own, constant = PathSolution(*(values[d] for values in solution)), None
            if has_intercept:
                alpha, constant, n_lifted = eliminate_constant(own.dual)
                own = own._replace(dual=alpha, n_lifted=n_lifted)
            results[i] = SolvedPath(grids[i], factors[d], own.dual, constant, *fitted[i], own)
    return [results[i] for i in range(len(members))]


def _scores(k_rows: NDArray, z: NDArray | None, dual: NDArray, factors: NDArray) -> NDArray:
    """Return the scores (p, m), or (p, m, c) for c > 1, of dual coefficients (p, n, c)."""
    p, n, c = dual.shape
    flat = dual.transpose(1, 0, 2).reshape(n, p * c)
    scores = multiply(k_rows, flat)
    if z is not None:
        scores += multiply(z, flat) * np.repeat(factors, c)
    scores = scores.reshape(-1, p, c).transpose(1, 0, 2)
    return scores[..., 0] if c == 1 else scores
