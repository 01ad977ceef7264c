"""Additions to the kernel that see no label, under the contract of label terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.label_terms.base import CheckedTerm, check_vectors
from lantk.label_terms.feature_sets import FEATURE_SETS, GAUSSIAN
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


class Rbf(LeastSquares):
    """The Gaussian exp(-|x - x'|^2 / s2) of pixels, a kernel beside K that sees no label.

    It is the eighth of the pair features, with coefficient 1 and without the others; s2 is the mean
    squared distance over all train entries, zeros of the diagonal included.
    """

    def __init__(self) -> None:
        super().__init__(("global",))

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        for term in terms:
            term.x_train_ = check_vectors(x, len(k_train_train))
            vars(term).update(FEATURE_SETS["global"].fit(term.x_train_))
            term.coefficients_ = np.eye(10)[GAUSSIAN]
