"""Label terms Z(x, x', D): regression estimates of the label product y y'.

Every estimator shares one contract:

* ``fit(k_train_train, y, x=None, solve=None)`` learns and returns ``self``;
* ``transform(k, x=None)`` returns Z for rows that were not fitted on: `k` is m x n_train, `x`
  their m vectors;
* ``train_block(k_train_train, x=None)`` returns Z on the rows that were fitted on, and
  ``fit_transform`` is fit followed by it.

`fit_together` fits several terms that differ in their labels only, for little more than one.

`y` is (n,) of -1/+1 or (n, k) one-hot. ``needs_x`` says whether vectors are needed: the flattened
images, in the binary task with a constant 1 appended (`image_vectors`). Test labels have no way in.

Two label-free additions to the kernel share the contract, as controls: `Ridge` and `Rbf`.

References
----------
Chen, He and Su, "Label-Aware Neural Tangent Kernel", NeurIPS 2020, section 2.3 and appendix C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.experiment.variants import split_control
from lantk.label_terms.hierarchy import LabelPart, sample_label_part, solve_lyapunov
from lantk.label_terms.pair_features import (
    FEATURE_SETS,
    GAUSSIAN,
    PairFeatures,
    Vectors,
    two_layer_ntk,
)
from lantk.solvers.path import factorize
from lantk.solvers.products import multiply

Solve = Callable[[NDArray], NDArray]

# Entries (rows x train images) worked on at once: bounds the memory of fit and transform.
_BLOCK_ENTRIES = 100_000


class LabelTermError(LantkError):
    """A label term that cannot be fitted or applied; the message says why."""


class LabelTerm:
    """What all label terms share; see the module for the contract."""

    needs_x = False
    x_train_: NDArray
    fitted_names: tuple[str, ...] = ()
    """Names of the learned arrays: all that `transform` needs beside the train vectors."""
    shares: Any = None
    """Terms of one class for which this is equal can be fitted by one `fit_all`."""

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

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Fit terms of this class, each to its own labels; see `fit_together`."""
        for term, y in zip(terms, ys, strict=True):
            term.fit(k_train_train, y, x, solve=solve)

    @staticmethod
    def blocks_of(terms: Sequence[Any], k: NDArray, x: Any, *, train: bool) -> list[NDArray]:
        """Return Z of each of several terms of this class; see `blocks_together`."""
        return [t.train_block(k, x) if train else t.transform(k, x) for t in terms]

    def diagnostics(self) -> dict[str, float]:
        """Return numbers about the fit for the record of an evaluation; by default none."""
        return {}

    def weight_unit(self, mean_abs_k: float, k_diagonal: NDArray, mean_abs_z: float) -> float:
        """Return lambda at label weight 1: mean|K| / mean|Z|, both over all of train."""
        return mean_abs_k / mean_abs_z if mean_abs_z else 0.0

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


class _FittedTogether(LabelTerm):
    """A label term that states how several of its class are fitted; one is a case of that."""

    def fit(
        self,
        k_train_train: NDArray,
        y: NDArray,
        x: NDArray | None = None,
        solve: Solve | None = None,
    ) -> Self:
        """Learn from the train rows; see the module, and `fit_all` for what it raises."""
        self.fit_all([self], k_train_train, [y], x, solve)
        return self


def fit_together(
    terms: Sequence[LabelTerm],
    k_train_train: NDArray,
    ys: Sequence[NDArray],
    x: Vectors | None = None,
    solve: Solve | None = None,
) -> None:
    """Fit every term to its own labels; what does not depend on the labels is computed once.

    Parameters
    ----------
    terms : sequence of LabelTerm
        Unfitted.
    k_train_train, x, solve
        As for `LabelTerm.fit`.
    ys : sequence of arrays
        The labels of each.
    """
    for kind, chosen in _kinds(terms):
        kind.fit_all([terms[i] for i in chosen], k_train_train, [ys[i] for i in chosen], x, solve)


def blocks_together(
    terms: Sequence[LabelTerm], k: NDArray, x: Vectors | None = None, *, train: bool
) -> list[NDArray]:
    """Return Z of every term, on the fitted rows (`train`) or on others."""
    blocks: dict[int, NDArray] = {}
    for kind, chosen in _kinds(terms):
        found = kind.blocks_of([terms[i] for i in chosen], k, x, train=train)
        blocks.update(zip(chosen, found, strict=True))
    return [blocks[i] for i in range(len(terms))]


def _kinds(terms: Sequence[LabelTerm]) -> Iterator[tuple[type[LabelTerm], list[int]]]:
    """Yield each class of terms that can be fitted together, and their positions."""
    keys = [(type(term), term.shares) for term in terms]
    for key in dict.fromkeys(keys):
        yield key[0], [i for i, other in enumerate(keys) if other == key]


class KernelRegression(_FittedTogether):
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
    spread_: float
    mean_: float
    variance_: float
    moments_: NDArray

    def __init__(self, targets: str) -> None:
        self.targets = targets

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Learn the moments of several: the kernel matrix is visited once.

        `solve` maps right-hand sides to H^-1 times them (V2 only).

        Raises
        ------
        LabelTermError
            If all kernel values are equal, or shapes do not fit.
        SolveError
            If V2 must factor a singular Gram matrix.
        """
        h, n = k_train_train, len(k_train_train)
        factors = [label_product_factors(y, n) for y in ys]
        needs_solve = any(term.targets == "dual" for term in terms)
        solve = solve or (factorize(h).solve if needs_solve else None)
        duals = [
            labels if term.targets == "labels" else solve(labels)
            for term, (labels, _) in zip(terms, factors, strict=True)
        ]
        # L = sum_c signs_c dual_c dual_c^T, so each mean is a sum of quadratic forms.
        dual = np.column_stack(duals)
        total = squares = 0.0
        low, high = np.inf, -np.inf
        h_dual, hh_dual = np.empty_like(dual), np.empty_like(dual)
        for rows in _row_blocks(n, n):
            # A copy: it is squared in place.
            block = np.array(h[rows], dtype=np.float64)
            total += float(block.sum())
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            h_dual[rows] = block @ dual
            np.square(block, out=block)
            squares += float(block.sum())
            hh_dual[rows] = block @ dual
        if high == low:
            raise LabelTermError(
                f"all {n} x {n} kernel values equal {low:.3g}: kernel regression over them is"
                " undefined; look for images that are all equal"
            )
        first = 0
        for term, own, (_, signs) in zip(terms, duals, factors, strict=True):
            mine = slice(first, first + own.shape[1])
            first = mine.stop
            term.mean_ = total / n**2
            term.variance_ = squares / n**2 - term.mean_**2
            term.spread_ = (high - low) ** 2
            moments = [
                signs @ own.sum(axis=0) ** 2,
                signs @ np.einsum("ic,ic->c", own, h_dual[:, mine]),
                signs @ np.einsum("ic,ic->c", own, hh_dual[:, mine]),
            ]
            term.moments_ = np.array(moments) / float(n**2)

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z, elementwise in `k`.

        Raises
        ------
        LabelTermError
            If a kernel value lies so far outside the train values that the weights sum to zero or
            less, where the estimate has no meaning (never on train, possible on test).
        """
        m0, m1, m2 = self.moments_
        z = np.empty(k.shape, np.float32)
        for rows in _row_blocks(*k.shape):
            phi = np.asarray(k[rows], dtype=np.float64)
            weight_sum = phi - self.mean_
            np.square(weight_sum, out=weight_sum)
            np.subtract(self.spread_ - self.variance_, weight_sum, out=weight_sum)
            if weight_sum.size and weight_sum.min() <= 0:
                i, j = np.unravel_index(np.argmin(weight_sum), phi.shape)
                raise LabelTermError(
                    f"kernel value {phi[i, j]:.3g} at row {rows.start + i}, column {j} is too far"
                    f" from the train values (mean {self.mean_:.3g}, range"
                    f" {np.sqrt(self.spread_):.3g}): its regression weights sum to zero or less."
                    " Is this image scaled like the others?"
                )
            # Horner's form: m0 B - m2 + phi (2 m1 - m0 phi).
            part = phi * -m0
            part += 2 * m1
            part *= phi
            part += m0 * self.spread_ - m2
            part /= weight_sum
            z[rows] = part
        return z


class LeastSquares(_FittedTogether):
    """Least squares of label products on features of the pair, without intercept (LANTK-FJLT).

    Rows are all n^2 ordered entries, the diagonal included. The normal equations are accumulated
    over tiles of entries, so memory is never n^2 x features; columns are scaled to unit norm and
    the system solved by a symmetric eigendecomposition. The kernel between train rows is taken to
    be symmetric.

    Parameters
    ----------
    feature_sets : tuple of str
        Names out of `pair_features.FEATURE_SETS`; their columns stand side by side.
    with_diagonal : bool
        Whether the n entries of the diagonal, whose target is always 1, belong to the fit.
    estimator : {"exact", "fjlt"}
        Exact normal equations, or those of the published sketch (`lantk.label_terms.sketch`, with
        its own seed).

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
        """Learn feature constants and coefficients of several: the pairs are visited once.

        Raises
        ------
        LabelTermError
            If `x` is missing or does not fit, or all features are zero.
        """
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

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z = sum of coefficient times feature."""
        return self.blocks_of([self], k, x, train=False)[0]

    def train_block(self, k_train_train: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z on the fitted rows, in half the time: it is symmetric. `x` is not needed."""
        return self.blocks_of([self], k_train_train, x, train=True)[0]

    def _features(self) -> PairFeatures:
        learned = {name: getattr(self, name) for name in self.fitted_names[1:]}
        return PairFeatures(self.feature_sets, self.x_train_, learned)


class PlugIn(_FittedTogether):
    """The product of estimated label expectations, Z(x, x') = sum_c s_c eta_c(x) eta_c(x').

    Given independent samples E[y y' | x, x'] = eta(x) eta(x') with eta(x) = E[y | x]: the best
    regression of label products is of rank one (k classes: 2 sum_c p_c p'_c - 1). eta is estimated
    by kernel regression with K itself; on train rows out of fold, since a train row's own label
    would be reproduced exactly.

    Parameters
    ----------
    folds, seed : int
        Number of folds of the estimate on train rows, and the seed that shuffles them.

    Attributes
    ----------
    dual_ : (n, c) array
        K^-1 times the labels.
    eta_train_ : (n, c) array
        Estimates on train rows, out of fold.
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

        Raises
        ------
        SolveError
            If a Gram matrix is singular to working accuracy.
        """
        k, n, first = k_train_train, len(k_train_train), terms[0]
        factors = [label_product_factors(y, n) for y in ys]
        # One-hot labels come scaled by sqrt(2), beside a column of ones.
        labels = [f if len(s) == 1 else f[:, :-1] / np.sqrt(2) for f, s in factors]
        stacked = np.column_stack(labels)
        low = -1.0 if labels[0].shape[1] == 1 else 0.0
        dual = (solve or factorize(k).solve)(stacked)
        eta = np.empty_like(stacked)
        fold_of = np.random.default_rng(first.seed).permutation(np.arange(n) % first.folds)
        for fold in range(first.folds):
            held, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            part = factorize(np.asarray(k[np.ix_(rest, rest)])).solve(stacked[rest])
            eta[held] = multiply(np.asarray(k[np.ix_(held, rest)]), part)
        np.clip(eta, low, 1, out=eta)
        width = stacked.shape[1] // len(terms)
        for i, term in enumerate(terms):
            mine = slice(i * width, (i + 1) * width)
            term.dual_, term.eta_train_ = dual[:, mine], eta[:, mine]

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z, the estimates of the rows being those of all of train."""
        low = -1 if self.dual_.shape[1] == 1 else 0
        return self._product(np.clip(multiply(k, self.dual_), low, 1))

    def train_block(self, k_train_train: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z on the fitted rows, from the out-of-fold estimates."""
        return self._product(self.eta_train_)

    def _product(self, eta: NDArray) -> NDArray:
        z = np.empty((len(eta), len(self.eta_train_)), np.float32)
        is_binary = eta.shape[1] == 1
        for rows in _row_blocks(*z.shape):
            product = eta[rows] @ self.eta_train_.T
            z[rows] = product if is_binary else 2 * product - 1
        return z


class Hierarchy(_FittedTogether):
    """The label part of the neural tangent hierarchy of a 2-layer ReLU network (LANTK-NTH).

    Z = sum_ij K4(x, x', x_i, x_j) C_ij with ``H C + C H = (H^-1 y) y^T``, H the 2-layer NTK: what
    the labels add to the kernel until the end of training, by Monte Carlo over the weights of a
    neuron. Train and other rows share the weights drawn, so that all blocks are of one kernel.

    Parameters
    ----------
    n_samples : int
        Weights drawn.
    tolerance : float
        Truncation of the low rank of C.
    seed : int
        Of the weights.

    Attributes
    ----------
    left_, right_ : (n, k) arrays
        C = left_ right_^T.
    error_ : float
        Standard error of Z on train, root mean square, as a share of that of Z; once
        `train_block` was called.
    x_train_ : (n, d) array
        The vectors fitted on.

    References
    ----------
    Chen, He and Su (2020), LANTK-NTH; `lantk.label_terms.hierarchy` has the formulas.
    """

    needs_x = True
    fitted_names = ("left_", "right_")
    left_: NDArray
    right_: NDArray
    error_: float

    def __init__(self, n_samples: int = 4096, tolerance: float = 1e-6, seed: int = 0) -> None:
        self.n_samples = n_samples
        self.tolerance = tolerance
        self.seed = seed

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Learn C of several: H, which is not `k_train_train`, has one eigendecomposition.

        Raises
        ------
        LabelTermError
            If `x` is missing or does not fit.
        SpectrumError
            If H is not positive definite.
        """
        n = len(k_train_train)
        factors = [label_product_factors(y, n) for y in ys]
        for term in terms:
            term.x_train_ = check_vectors(x, n)
        values, vectors = np.linalg.eigh(two_layer_ntk(x, x))
        for term, (labels, signs) in zip(terms, factors, strict=True):
            dual = vectors @ ((vectors.T @ labels) / values[:, None])
            term.left_, term.right_ = solve_lyapunov(
                values, vectors, dual * signs, labels, tolerance=term.tolerance
            )

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z; `k` is not read but for its shape."""
        return self._sample(check_vectors(x, len(k))).mean.astype(np.float32)

    def train_block(self, k_train_train: NDArray, x: NDArray | None = None) -> NDArray:
        """Return Z on the fitted rows. `x` is not needed."""
        found = self._sample(self.x_train_)
        error, size = np.square(found.standard_error).mean(), np.square(found.mean).mean()
        self.error_ = float(np.sqrt(error / size))
        z = found.mean.astype(np.float32)
        return (z + z.T) / 2

    def diagnostics(self) -> dict[str, float]:
        """Return the samples, their error as a share of Z, and the rank that C is cut to."""
        return {
            "nth_samples": self.n_samples,
            "nth_standard_error": self.error_,
            "nth_rank": self.left_.shape[1],
        }

    def _sample(self, rows: NDArray) -> LabelPart:
        return sample_label_part(
            rows, self.x_train_, self.x_train_, (self.left_, self.right_),
            n_samples=self.n_samples, seed=self.seed,
        )  # fmt: skip


class Ridge(_FittedTogether):
    """The identity: K + lambda I sees no label. Its weight is the ridge, times K's mean diagonal.

    Blocks are given as the diagonal (n,) on train, and as zeros elsewhere.
    """

    @staticmethod
    def fit_all(
        terms: Sequence[Any], k_train_train: NDArray, ys: Sequence[NDArray], x: Any, solve: Any
    ) -> None:
        """Learn nothing."""

    def transform(self, k: NDArray, x: NDArray | None = None) -> NDArray:
        """Return zeros, as a (0,) array that stands for them."""
        return np.zeros(0)

    def train_block(self, k_train_train: NDArray, x: NDArray | None = None) -> NDArray:
        """Return the diagonal of the identity, (n,)."""
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
        """Learn the scale of the Gaussian; labels are not looked at."""
        for term in terms:
            term.x_train_ = check_vectors(x, len(k_train_train))
            vars(term).update(FEATURE_SETS["global"].fit(term.x_train_))
            term.coefficients_ = np.eye(10)[GAUSSIAN]


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


def check_vectors(x: Vectors | None, n: int) -> Any:
    """Return the vectors of n rows, or raise `LabelTermError` if they are missing or others."""
    if x is None or x.ndim != 2 or len(x) != n:
        found = "none" if x is None else f"an array of shape {x.shape}"
        raise LabelTermError(
            f"this label term needs one vector a row of the kernel: found {found}, wanted"
            f" shape ({n}, d); pass x=image_vectors(images)"
        )
    return x


def image_vectors(images: NDArray, *, append_one: bool = True) -> NDArray:
    """Return the flattened images, channels first, with a constant 1 appended, (n, d + 1).

    Chen et al. append the 1 in the binary task and not in the ten-class task.
    """
    flat = images.reshape(len(images), -1)
    if not append_one:
        return flat
    return np.column_stack([flat, np.ones(len(flat), dtype=flat.dtype)])


# Term -> how to build its estimator.
_ESTIMATORS: dict[str, tuple[type[LabelTerm], dict[str, Any]]] = {
    "lantk-kr-v1": (KernelRegression, {"targets": "labels"}),
    "lantk-kr-v2": (KernelRegression, {"targets": "dual"}),
    "lantk-fjlt-v1": (LeastSquares, {"feature_sets": ("global",)}),
    "lantk-fjlt-v2": (LeastSquares, {"feature_sets": ("global", "pca-release")}),
    "lantk-fjlt-v2-text": (LeastSquares, {"feature_sets": ("global", "pca-text")}),
    "lantk-plugin": (PlugIn, {}),
    "lantk-nth": (Hierarchy, {}),
    "cntk-ridge": (Ridge, {}),
    "cntk-rbf": (Rbf, {}),
}


def label_term(name: str, *, estimator: str = "exact") -> LabelTerm:
    """Return an unfitted label term by its variant name.

    Parameters
    ----------
    name : str
        A term, such as ``lantk-kr-v1`` or ``lantk-plugin``; ``TERM-offdiagonal`` leaves the
        diagonal out of a least-squares fit; ``TERM-shuffled`` and ``TERM-diagonal`` are the term
        itself, whose labels or blocks `predict` changes. ``cntk-ridge`` and ``cntk-rbf`` are the
        additions that see no label.
    estimator : {"exact", "fjlt"}
        How least squares are solved: by exact normal equations, or on the published sketch.

    Raises
    ------
    LabelTermError
        If there is no such label term or estimator.

    Examples
    --------
    >>> k = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> label_term("lantk-kr-v1").fit_transform(k, np.array([1.0, -1.0])).shape
    (2, 2)
    """
    term, control = split_control(name)
    if term not in _ESTIMATORS:
        raise LabelTermError(f"unknown label term {name!r}: wanted one of {', '.join(_ESTIMATORS)}")
    if estimator not in ("exact", "fjlt"):
        raise LabelTermError(f"unknown estimator {estimator!r}: wanted 'exact' or 'fjlt'")
    kind, options = _ESTIMATORS[term]
    if kind is LeastSquares:
        options = options | {"estimator": estimator}
    if control == "offdiagonal":
        if kind is not LeastSquares:
            raise LabelTermError(
                f"{name!r}: only the least-squares terms (lantk-fjlt-...) can leave the diagonal"
                " out of their fit"
            )
        options = options | {"with_diagonal": False}
    return kind(**options)


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
