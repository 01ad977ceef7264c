"""Regression with the exact kernel of a network, or the posterior of its Gaussian process."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.model_selection import KFold

from lantk.estimators.base import KernelEstimator
from lantk.estimators.inputs import EstimatorError
from lantk.solvers.direct import CholeskyFactor
from lantk.solvers.factors import Factor, factorize_kernel, with_ridge


class KernelRegressor(MultiOutputMixin, RegressorMixin, KernelEstimator):
    """Kernel regression with the exact kernel of a network; with the NNGP, a Gaussian process.

    f(x) = K(x, train) (K + ridge)^-1 y. With ``kernel="nngp"`` it is the mean of the posterior of
    the network at infinite width, its ridge the variance of the noise; `predict` has its standard
    deviation. With ``kernel="ntk"`` and ridge 0 it is the mean over initialisations of the trained
    network, whose deviation over them is another than that of a Gaussian process with the NTK for
    its covariance, which is what `predict` returns (Lee et al. 2019, equations 13 to 15).

    The covariance has the scale of the network and the mean 0; deviations mean something where y
    has both. Where it has not, divide y, or fit an amplitude with `CNTK` and scikit-learn's
    `GaussianProcessRegressor`.

    Parameters
    ----------
    architecture, kernel, intercept, flips, image_shape, scaling, whitening, dtype, device, \
threads, memory, random_state
        As for `KernelClassifier`.
    ridge : float, "cv" or list of float
        Ridge, times the mean diagonal of the train Gram matrix, or what validation chooses among,
        by the mean squared error over `folds` shuffled folds.
    folds : int
        Validation folds.

    Attributes
    ----------
    dual_ : (n,) or (n, c) array
        (K + ridge)^-1 y.
    ridge_ : float
        As given or chosen.
    cv_results_ : dict
        Where validation chose: ``param_ridge`` and ``mean_test_score``, minus the mean squared
        error.
    log_marginal_likelihood_ : float
        log p(y) of a Gaussian process with covariance K and the ridge as its noise, summed over
        outputs; NaN with an intercept, and where K + ridge is not positive definite.

    Raises
    ------
    LantkError
        A ValueError, as `KernelClassifier` does.

    References
    ----------
    Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), algorithm 2.1; Lee et
    al., "Wide Neural Networks of Any Depth Evolve as Linear Models", NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 12)[:, None] + [[0, 2]]
    >>> model = KernelRegressor(kernel="nngp").fit(x, np.sin(3 * x[:, 0]))
    >>> mean, std = model.predict(x[:2], return_std=True)
    >>> mean.shape, bool((std < 0.05).all())
    ((2,), True)
    """

    def __init__(
        self,
        *,
        architecture: Any = "chen2020",
        kernel: str = "ntk",
        ridge: Any = 1e-6,
        intercept: bool = False,
        flips: bool = False,
        folds: int = 5,
        image_shape: tuple[int, int, int] | None = None,
        scaling: str | None = None,
        whitening: float | None = None,
        dtype: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        memory: Any = None,
        random_state: Any = None,
    ) -> None:
        self.architecture = architecture
        self.kernel = kernel
        self.ridge = ridge
        self.intercept = intercept
        self.flips = flips
        self.folds = folds
        self.image_shape = image_shape
        self.scaling = scaling
        self.whitening = whitening
        self.dtype = dtype
        self.device = device
        self.threads = threads
        self.memory = memory
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to train images and what is to be predicted of them.

        Parameters
        ----------
        X : (n, channels, height, width) or (n, d) array
            Images, flattened images or vectors; (n, n) of a precomputed kernel.
        y : (n,) or (n, c) array
            Numbers.
        """
        checked, numbers = self._check(X, y=y, multi_output=True, y_numeric=True)
        targets: NDArray[np.float64] = numbers.astype(np.float64)
        self._is_column = targets.shape[1:] == (1,)

        def folds(seed: int) -> list[tuple[NDArray, NDArray]]:
            if len(targets) < self.folds:
                raise EstimatorError(
                    f"{self.folds} folds need at least {self.folds} rows, found {len(targets)}:"
                    " lower `folds`"
                )
            return list(KFold(self.folds, shuffle=True, random_state=seed).split(targets))

        def judge(scores: NDArray, held: NDArray) -> NDArray:
            wrong = scores.reshape(len(scores), len(held), -1) - targets[held].reshape(
                len(held), -1
            )
            return -np.mean(wrong**2, axis=2).sum(axis=1)

        k, factor = self._fit(checked, targets, folds=folds, judge=judge)
        is_of_ridge = isinstance(factor, CholeskyFactor) and not hasattr(self, "cv_results_")
        if not is_of_ridge and not self.intercept:
            # A GPU's factor has no determinant, and a path's is that of K.
            factor = factorize_kernel(with_ridge(k, self.ridge_))
        self.log_marginal_likelihood_ = self._log_marginal_likelihood(factor, targets)
        return self

    def predict(
        self, X: ArrayLike, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return f(x), (m,) or (m, c); with `return_std` also the posterior's deviation, (m,).

        The deviation is that of f without noise. It is a Gaussian process's: of the network at
        infinite width with ``kernel="nngp"``. It takes the train Gram matrix once more (with
        `memory`, no more than reading it).

        Raises
        ------
        EstimatorError
            If a deviation is asked of a precomputed kernel, whose K(x, x) is not known, or beside
            an intercept.
        """
        checked = self._check(X, reset=False)
        mean = self._scores(checked)
        mean = mean[:, None] if self._is_column else mean
        return (mean, self._deviation(checked)) if return_std else mean

    def _deviation(self, X: NDArray) -> NDArray[np.float64]:
        if self.X_train_ is None or self.intercept:
            why = "has an intercept" if self.intercept else "is precomputed: K(x, x) is not known"
            raise EstimatorError(f"there is no deviation to return, as the kernel {why}")
        maker, train = self._gram_maker(), self._images(self.X_train_)
        k = maker.gram(train)
        factor = CholeskyFactor(with_ridge(k, self.ridge_))
        found = []
        for rows in self._row_blocks(len(X)):
            images = self._images(self._pixels(X[rows]))
            explained = factor.whiten(maker.gram(images, train).T.astype(np.float64))
            variance = maker.diagonal(images) - (explained**2).sum(axis=0)
            found.append(np.sqrt(np.maximum(variance, 0)))
        return np.concatenate(found)

    def _log_marginal_likelihood(self, factor: Factor, y: NDArray) -> float:
        """Return log p(y) of Rasmussen and Williams, algorithm 2.1, summed over outputs."""
        if self.intercept or not isinstance(factor, CholeskyFactor):
            return float("nan")
        columns = y.reshape(len(y), -1)
        fit = -0.5 * float(np.sum(columns * self.dual_.reshape(columns.shape)))
        each = 0.5 * factor.log_determinant + 0.5 * len(y) * np.log(2 * np.pi)
        return float(fit - columns.shape[1] * each)
