"""Additions to the kernel that see no label, under the contract of label terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.label_terms.base import CheckedTerm, check_vectors
from lantk.label_terms.feature_sets import FEATURE_SETS, GAUSSIAN, L1, as_array, mean_distance
from lantk.label_terms.least_squares import LeastSquares


class Ridge(CheckedTerm):
    """The identity: K + lambda I sees no label. Its weight is the ridge, times K's mean diagonal.

    Blocks are given as the diagonal (n,) on train, and as (0,), which stands for zeros, elsewhere.
    """

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        pass

    def _transform(self, k: NDArray, x: NDArray | None) -> NDArray:
        return np.zeros(0)

    def _train_block(self, k_train_train: NDArray, x: NDArray | None) -> NDArray:
        return np.ones(len(k_train_train))

    def weight_unit(self, mean_abs_k: float, k_diagonal: NDArray, mean_abs_z: float) -> float:
        """Return lambda at ridge 1: the mean diagonal of K."""
        return float(np.mean(k_diagonal))


class _OneFeature(LeastSquares):
    """One of the ten pair features, with coefficient 1: it is not fitted, and sees no label."""

    feature: int

    def __init__(self) -> None:
        super().__init__(("global",))

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        for term in terms:
            term.x_train_ = check_vectors(x, len(k_train_train))
            vars(term).update(FEATURE_SETS["global"].fit(term.x_train_))
            term.coefficients_ = np.eye(10)[term.feature]


class Rbf(_OneFeature):
    """The Gaussian exp(-|x - x'|^2 / s2) of pixels, a kernel beside K that sees no label.

    It is the eighth of the pair features; s2 is the mean squared distance over all train entries,
    zeros of the diagonal included.
    """

    feature = GAUSSIAN


class Laplacian(_OneFeature):
    """The Laplacian exp(-|x - x'|_1 / s) of pixels, a kernel beside K that sees no label.

    It is made of the tenth pair feature, the L1 distance; s is its mean over all train entries,
    zeros of the diagonal included.
    """

    feature = L1

    @property
    def fitted_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """As of the pair features, and the scale."""
        return (*super().fitted_names, "mean_distance_")

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        _OneFeature.fit_all(terms, k_train_train, ys, x, solve)
        for term in terms:
            term.mean_distance_ = mean_distance(as_array(term.x_train_))

    @staticmethod
    def blocks_of(terms: Sequence[Any], k: NDArray, x: Any, *, train: bool) -> list[NDArray]:
        distances = LeastSquares.blocks_of(terms, k, x, train=train)
        # Vectors that are all equal have no scale, and a Z of ones.
        scales = [float(term.mean_distance_) or 1.0 for term in terms]
        return [np.exp(found / -s) for found, s in zip(distances, scales, strict=True)]
