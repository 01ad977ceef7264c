"""The plug-in term: Z = eta(x) eta(x'), eta an out-of-fold estimate of E[y given x]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import numbering
from lantk.label_terms.base import CheckedTerm, row_blocks, target_columns
from lantk.solvers.direct import factorize
from lantk.solvers.products import multiply


class PlugIn(CheckedTerm):
    """The product of estimated label expectations, Z(x, x') = sum_c s_c eta_c(x) eta_c(x').

    Given independent samples E[y y' | x, x'] = eta(x) eta(x') with eta(x) = E[y | x]: the best
    regression of label products is of rank one (k classes: 2 sum_c p_c p'_c - 1). eta is estimated
    by kernel regression with K itself; on train rows out of fold, since a train row's own label
    would be reproduced exactly. `seed` shuffles the folds.

    Attributes
    ----------
    dual_, eta_train_ : (n, c) arrays
        K^-1 times the labels, and the estimates on train rows, out of fold.
    """

    fitted_names = ("dual_", "eta_train_")
    dual_: NDArray
    eta_train_: NDArray

    def __init__(self, folds: int = 5, seed: int = 0) -> None:
        self.folds = folds
        self.seed = seed

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Learn the estimates of several: every Gram matrix is factored once.

        `solve` maps right-hand sides to K^-1 times them.
        """
        k, n, first = k_train_train, len(k_train_train), terms[0]
        stacked = np.column_stack([target_columns(y, n) for y in ys])
        width = stacked.shape[1] // len(terms)
        dual = (solve or factorize(k).solve)(stacked)
        eta = np.empty_like(stacked)
        fold_of = np.random.default_rng(first.seed).permutation(np.arange(n) % first.folds)
        for fold in range(first.folds):
            held, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            with numbering({"x_train": ("x_train", rest)}):
                part = factorize(np.asarray(k[np.ix_(rest, rest)])).solve(stacked[rest])
            eta[held] = multiply(np.asarray(k[np.ix_(held, rest)]), part)
        np.clip(eta, -1 if width == 1 else 0, 1, out=eta)
        for i, term in enumerate(terms):
            mine = slice(i * width, (i + 1) * width)
            term.dual_, term.eta_train_ = dual[:, mine], eta[:, mine]

    def _transform(self, k: NDArray, x: NDArray | None) -> NDArray:
        """Return Z, the estimates of the rows being those of all of train."""
        low = -1 if self.dual_.shape[1] == 1 else 0
        return self._product(np.clip(multiply(k, self.dual_), low, 1))

    def _train_block(self, k_train_train: NDArray, x: NDArray | None) -> NDArray:
        """Return Z on the fitted rows, from the out-of-fold estimates."""
        return self._product(self.eta_train_)

    def _product(self, eta: NDArray) -> NDArray:
        z = np.empty((len(eta), len(self.eta_train_)), np.float32)
        is_binary = eta.shape[1] == 1
        for rows in row_blocks(*z.shape):
            product = eta[rows] @ self.eta_train_.T
            z[rows] = product if is_binary else 2 * product - 1
        return z
