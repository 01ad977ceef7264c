"""Label terms Z(x, x', D): regression estimates of the label product y y'.

Every estimator shares one contract:

* ``fit(k_train_train, y, x=None, solve=None)`` learns and returns ``self``;
* ``transform(k, x=None)`` returns Z for rows that were not fitted on: `k` is m x n_train, `x`
  their m vectors;
* ``train_block(k_train_train, x=None)`` returns Z on the rows that were fitted on, and
  ``fit_transform`` is fit followed by it.

`y` is (n,) of -1/+1 or (n, k) one-hot. ``needs_x`` says whether vectors are needed: the flattened
images, in the binary task with a constant 1 appended (`image_vectors`). Test labels have no way in.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 2.3 and appendix C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.pair_features import FEATURE_SETS, PairFeatures
from lantk.solve import GramFactor

Solve = Callable[[NDArray], NDArray]

# Entries (rows x train images) worked on at once: bounds the memory of fit and transform.
_BLOCK_ENTRIES = 500_000


class LabelTermError(LantkError):
    """A label term that cannot be fitted or applied; the message says why."""


class LabelTerm:
    """What all label terms share; see the module for the contract."""

    needs_x = False
    x_train_: NDArray
    fitted_names: tuple[str, ...] = ()
    """Names of the learned arrays: all that `transform` needs beside the train vectors."""

    def fit(
        self,
        k_train_train: NDArray,
        y: NDArray,
        x: NDArray | None = None,
        solve: Solve | None = None,
    ) -> LabelTerm:
        """Learn from the train rows; see the module."""
        raise NotImplementedError

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z (m, n_train) for rows that were not fitted on."""
        raise NotImplementedError

    def train_block(self, k_train_train: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z (n_train, n_train) on the fitted rows."""
        return self.transform(k_train_train, x)

    def fit_transform(
        self, k_train_train: NDArray, y: NDArray, x: NDArray | None = None
    ) -> NDArray:
        """Fit, then return the train block."""
        return self.fit(k_train_train, y, x).train_block(k_train_train, x)

    def fitted(self) -> dict[str, NDArray]:
        """Return the learned arrays by name, to be saved (kilobytes, without train vectors)."""
        return {name: np.asarray(getattr(self, name)) for name in self.fitted_names}

    def restore(self, fitted: dict[str, NDArray], x_train: NDArray | None = None) -> LabelTerm:
        """Take learned arrays from `fitted` and the vectors they were fitted on; return self."""
        for name in self.fitted_names:
            setattr(self, name, fitted[name])
        if x_train is not None:
            self.x_train_ = x_train
        return self


class KernelRegression(LabelTerm):
    """Nadaraya-Watson regression of label products on the kernel value (LANTK-KR).

    With the Epanechnikov weight ``w_ij(phi) = B - (phi - H_ij)^2``, ``B = (max H - min H)^2``,
    which is never truncated,

        Z(phi) = sum_ij w_ij(phi) L_ij / sum_ij w_ij(phi)
               = [m0 (B - phi^2) + 2 m1 phi - m2] / [B - var - (phi - mu)^2],

    mu and var being mean and variance of H, and m0, m1, m2 the means of L, H L, H H L over all
    n^2 entries: a fixed elementwise transform of the kernel, into which the labels enter through
    three numbers.

    Parameters
    ----------
    targets : {"labels", "dual"}
        L = y y^T (V1), or L = alpha alpha^T with alpha = H^-1 y (V2).

    Attributes
    ----------
    spread_, mean_, variance_ : float
        B, mu, var.
    moments_ : (3,) array
        m0, m1, m2.

    References
    ----------
    Chen, He and Su (2020), equations for LANTK-KR-V1 and -V2.
    """

    fitted_names = ("spread_", "mean_", "variance_", "moments_")

    def __init__(self, targets: str) -> None:
        self.targets = targets

    def fit(
        self,
        k_train_train: NDArray,
        y: NDArray,
        x: NDArray | None = None,
        solve: Solve | None = None,
    ) -> KernelRegression:
        """Learn the moments; `solve` maps a right-hand side to H^-1 times it (V2 only).

        Raises
        ------
        LabelTermError
            If all kernel values are equal, or shapes do not fit.
        SolveError
            If V2 must factor a singular Gram matrix.
        """
        h, n = k_train_train, len(k_train_train)
        labels, signs = label_product_factors(y, n)
        dual = labels if self.targets == "labels" else (solve or GramFactor(h).solve)(labels)
        # L = sum_c signs_c dual_c dual_c^T, so each mean is a sum of quadratic forms.
        total = squares = 0.0
        h_dual, hh_dual = np.empty_like(dual), np.empty_like(dual)
        for rows in _row_blocks(n, n):
            block = np.asarray(h[rows], dtype=np.float64)
            total += float(block.sum())
            squares += float(np.vdot(block, block))
            h_dual[rows] = block @ dual
            hh_dual[rows] = np.square(block) @ dual
        self.mean_ = total / n**2
        self.variance_ = squares / n**2 - self.mean_**2
        self.spread_ = float(np.ptp(h)) ** 2
        self.moments_ = np.array(
            [
                signs @ dual.sum(axis=0) ** 2,
                signs @ np.einsum("ic,ic->c", dual, h_dual),
                signs @ np.einsum("ic,ic->c", dual, hh_dual),
            ]
        ) / float(n**2)
        if self.spread_ == 0:
            raise LabelTermError(
                f"all {n} x {n} kernel values equal {h[0, 0]:.3g}: kernel regression over them is"
                " undefined; look for images that are all equal"
            )
        return self

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z, elementwise in `k`.

        Raises
        ------
        LabelTermError
            If a kernel value lies so far outside the train values that the weights sum to zero or
            less, where the estimate has no meaning (never on train, possible on test).
        """
        m0, m1, m2 = self.moments_
        phi = np.asarray(k, dtype=np.float64)
        weight_sum = (self.spread_ - self.variance_) - (phi - self.mean_) ** 2
        if weight_sum.size and weight_sum.min() <= 0:
            i, j = np.unravel_index(np.argmin(weight_sum), phi.shape)
            raise LabelTermError(
                f"kernel value {phi[i, j]:.3g} at row {i}, column {j} is too far from the train"
                f" values (mean {self.mean_:.3g}, range {np.sqrt(self.spread_):.3g}): its"
                " regression weights sum to zero or less. Is this image scaled like the others?"
            )
        # Horner's form, in two n x m buffers.
        z = m0 * (self.spread_ - phi**2)
        z += 2 * m1 * phi
        z -= m2
        z /= weight_sum
        return z


class LeastSquares(LabelTerm):
    """Least squares of label products on features of the pair, without intercept (LANTK-FJLT).

    Rows are all n^2 ordered entries, the diagonal included. The normal equations are accumulated
    over tiles of entries, so memory is never n^2 x features; columns are scaled to unit norm and
    the system solved by a symmetric eigendecomposition. The kernel between train rows is taken to
    be symmetric.

    Parameters
    ----------
    feature_sets : tuple of str
        Names out of `pair_features.FEATURE_SETS`; their columns stand side by side.

    Attributes
    ----------
    coefficients_ : (p,) array
        One a feature, on the features' own scale.
    x_train_ : (n, d) array
        The vectors fitted on.

    References
    ----------
    Chen, He and Su (2020), LANTK-FJLT; they solve a sketch of the same problem.
    """

    needs_x = True

    def __init__(self, feature_sets: tuple[str, ...]) -> None:
        self.feature_sets = feature_sets

    @property
    def fitted_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Coefficients, and what each feature set learned."""
        learned = [name for s in self.feature_sets for name in FEATURE_SETS[s].fitted_names]
        return ("coefficients_", *learned)

    def fit(
        self,
        k_train_train: NDArray,
        y: NDArray,
        x: NDArray | None = None,
        solve: Solve | None = None,
    ) -> LeastSquares:
        """Learn feature constants and coefficients.

        Raises
        ------
        LabelTermError
            If `x` is missing or does not fit, or all features are zero.
        """
        n = len(k_train_train)
        labels, signs = label_product_factors(y, n)
        self.x_train_ = self._check_vectors(x, n)
        for name in self.feature_sets:
            for key, value in FEATURE_SETS[name].fit(self.x_train_).items():
                setattr(self, key, value)
        gram, moment = self._features().normal_equations(k_train_train, labels, signs)
        self.coefficients_ = _solve_normal_equations(gram, moment)
        return self

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z = sum of coefficient times feature."""
        return self._features().combine(self.coefficients_, k, self._check_vectors(x, len(k)))

    def train_block(self, k_train_train: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z on the fitted rows, in half the time: it is symmetric. `x` is not needed."""
        self._check_vectors(self.x_train_, len(k_train_train))
        return self._features().combine(self.coefficients_, k_train_train)

    def _features(self) -> PairFeatures:
        learned = {name: getattr(self, name) for name in self.fitted_names[1:]}
        return PairFeatures(self.feature_sets, self.x_train_, learned)

    def _check_vectors(self, x: NDArray | None, n: int) -> NDArray:
        if x is None or x.ndim != 2 or len(x) != n:
            found = "none" if x is None else f"an array of shape {x.shape}"
            raise LabelTermError(
                f"this label term needs one vector a row of the kernel: found {found}, wanted"
                f" shape ({n}, d); pass x=image_vectors(images)"
            )
        return x


def label_product_factors(y: NDArray, n: int) -> tuple[NDArray, NDArray]:
    """Return U (n, m) and signs (m,) with label products ``L = U diag(signs) U^T``.

    Binary labels: ``L = y y^T``. One-hot labels: ``L = 2 Y Y^T - 1 1^T``, which is 1 for the same
    class and -1 otherwise.

    Raises
    ------
    LabelTermError
        If `y` is neither (n,) of -1/+1 nor (n, k) one-hot.
    """
    y = np.asarray(y, dtype=np.float64)
    if y.shape == (n,) and np.all(np.abs(y) == 1):
        return y[:, None], np.ones(1)
    if y.ndim == 2 and len(y) == n and np.all((y == 0) | (y == 1)) and np.all(y.sum(1) == 1):
        factors = np.column_stack([np.sqrt(2.0) * y, np.ones(n)])
        return factors, np.append(np.ones(y.shape[1]), -1.0)
    raise LabelTermError(
        f"labels of shape {y.shape} for {n} train rows: wanted ({n},) of -1 and +1, or ({n}, k)"
        " one-hot"
    )


def image_vectors(images: NDArray, *, append_one: bool = True) -> NDArray:
    """Return the flattened images, channels first, with a constant 1 appended, (n, d + 1).

    Chen et al. append the 1 in the binary task and not in the ten-class task.
    """
    flat = images.reshape(len(images), -1)
    if not append_one:
        return flat
    return np.column_stack([flat, np.ones(len(flat), dtype=flat.dtype)])


# Variant name -> how to build its estimator.
_LABEL_TERMS: dict[str, tuple[type[LabelTerm], dict[str, Any]]] = {
    "lantk-kr-v1": (KernelRegression, {"targets": "labels"}),
    "lantk-kr-v2": (KernelRegression, {"targets": "dual"}),
    "lantk-fjlt-v1": (LeastSquares, {"feature_sets": ("global",)}),
    "lantk-fjlt-v2": (LeastSquares, {"feature_sets": ("global", "pca-release")}),
    "lantk-fjlt-v2-text": (LeastSquares, {"feature_sets": ("global", "pca-text")}),
}


def label_term(name: str) -> LabelTerm:
    """Return an unfitted label term by its variant name.

    Parameters
    ----------
    name : str
        ``lantk-kr-v1``, ``lantk-kr-v2``, ``lantk-fjlt-v1``, ``lantk-fjlt-v2`` or
        ``lantk-fjlt-v2-text``.

    Raises
    ------
    LabelTermError
        If there is no such label term.

    Examples
    --------
    >>> k = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> label_term("lantk-kr-v1").fit_transform(k, np.array([1.0, -1.0])).shape
    (2, 2)
    """
    if name not in _LABEL_TERMS:
        raise LabelTermError(
            f"unknown label term {name!r}: wanted one of {', '.join(_LABEL_TERMS)}"
        )
    estimator, options = _LABEL_TERMS[name]
    return estimator(**options)


def _row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut rows into blocks of at most `_BLOCK_ENTRIES` entries (at least one row)."""
    step = max(1, _BLOCK_ENTRIES // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


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
