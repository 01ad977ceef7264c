"""LANTK-FJLT-V1 and -V2: Z by least squares on features of the pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.label_terms.base import (
    CheckedTerm,
    LabelTermError,
    check_vectors,
    label_product_factors,
)
from lantk.label_terms.feature_sets import FEATURE_SETS
from lantk.label_terms.pair_features import PairFeatures


class LeastSquares(CheckedTerm):
    """Least squares of label products on features of the pair, without intercept (LANTK-FJLT).

    Rows are all n^2 ordered entries, the diagonal included. The normal equations are accumulated
    over tiles of entries, so memory is never n^2 x features; columns are scaled to unit norm and
    the system solved by a symmetric eigendecomposition. The kernel between train rows is taken to
    be symmetric.

    Parameters
    ----------
    feature_sets : tuple of str
        Names out of `FEATURE_SETS`; their columns stand side by side.
    with_diagonal : bool
        Whether the n entries of the diagonal, whose target is always 1, belong to the fit.
    estimator, seed
        "exact" for exact normal equations, or "fjlt" for those of the published sketch of this
        seed.

    Attributes
    ----------
    coefficients_ : (p,) array
        One a feature, on the features' own scale.

    References
    ----------
    Chen, He and Su (2020), LANTK-FJLT; they solve a sketch of the same problem.
    """

    needs_x = True

    def __init__(
        self,
        feature_sets: tuple[str, ...],
        *,
        with_diagonal: bool = True,
        estimator: str = "exact",
        seed: int = 0,
    ) -> None:
        self.feature_sets = feature_sets
        self.with_diagonal = with_diagonal
        self.estimator = estimator
        self.seed = seed

    @property
    def shares(self) -> Any:  # type: ignore[override]
        """Features are shared by terms on the same sets, a sketch by fits to the same entries."""
        is_exact = self.estimator == "exact"
        return self.feature_sets, is_exact or (self.with_diagonal, self.seed)

    @property
    def fitted_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Coefficients, and what each feature set learned."""
        learned = [name for s in self.feature_sets for name in FEATURE_SETS[s].fitted_names]
        return ("coefficients_", *learned)

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Learn feature constants and coefficients of several: the pairs are visited once."""
        n = len(k_train_train)
        targets = [label_product_factors(y, n) for y in ys]
        first = terms[0]
        x = check_vectors(x, n)
        learned = {
            key: value
            for name in first.feature_sets
            for key, value in FEATURE_SETS[name].fit(x).items()
        }
        for term in terms:
            term.x_train_ = x
            vars(term).update(learned)
        features = first._features()
        if first.estimator == "exact":
            products, on_diagonal = features.normal_equations(k_train_train, targets)
        else:
            # Imported here: only the published estimator needs it.
            from lantk.label_terms.sketch import sketched_normal_equations

            products = sketched_normal_equations(
                features.row_blocks(k_train_train, targets, with_diagonal=first.with_diagonal),
                n * n,
                features.n_features,
                seed=first.seed,
                n_targets=len(targets),
            )
            on_diagonal = 0
        p = features.n_features
        for i, term in enumerate(terms):
            taken = products if term.with_diagonal else products - on_diagonal
            term.coefficients_ = _solve_normal_equations(taken[:p], taken[p + i])

    @staticmethod
    def blocks_of(terms: Sequence[Any], k: NDArray, x: Any, *, train: bool) -> list[NDArray]:
        """Return Z of several that were fitted together: the pairs are visited once."""
        first = terms[0]
        if train:
            check_vectors(first.x_train_, len(k))
        else:
            x = check_vectors(x, len(k))
        coefficients = np.array([term.coefficients_ for term in terms])
        return list(first._features().combine(coefficients, k, None if train else x))

    def _transform(self, k: NDArray, x: NDArray | None) -> NDArray:
        """Return Z = sum of coefficient times feature."""
        return self.blocks_of([self], k, x, train=False)[0]

    def _train_block(self, k_train_train: NDArray, x: NDArray | None) -> NDArray:
        """Return Z on the fitted rows, in half the time: it is symmetric. `x` is not needed."""
        return self.blocks_of([self], k_train_train, x, train=True)[0]

    def _features(self) -> PairFeatures:
        learned = {name: getattr(self, name) for name in self.fitted_names[1:]}
        return PairFeatures(self.feature_sets, self.x_train_, learned)


def _solve_normal_equations(gram: NDArray, moment: NDArray) -> NDArray:
    """Return the least-squares coefficients from F^T F and F^T t.

    The features are nearly dependent, so directions with less than 1e-12 of the largest
    eigenvalue (after scaling columns to unit norm) are dropped: rounding, not data.
    """
    norms = np.sqrt(np.diag(gram))
    if not np.any(norms):
        raise LabelTermError("all pair features are zero: look for images that are all zero")
    scale = np.where(norms > 0, norms, 1.0)
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    kept = values > 1e-12 * values[-1]
    projected = vectors[:, kept].T @ (moment / scale)
    return (vectors[:, kept] @ (projected / values[kept])) / scale
