"""The label part of the neural tangent hierarchy of a 2-layer ReLU network, for ``lantk-nth``.

With H the 2-layer NTK of the train images and labels y, gradient flow to the end of training adds
to the kernel

    Z(a, b) = sum_ij K4(a, b, x_i, x_j) C_ij,      H C + C H = (H^-1 y) y^T,

where K4 is the fourth-order kernel at initialisation, its smooth terms only: those that hold a
derivative of the step function are dropped, as Chen et al. do. K4 is an expectation over the
weights w ~ N(0, I) of one neuron. C is of low rank but for tiny singular values, so every sample of
w costs products with k columns, and no sum over n^4 entries is ever formed.

References
----------
Chen, He and Su (2020), section 2.3 and appendix B (LANTK-NTH); Huang and Yau, "Dynamics of deep
neural networks and neural tangent hierarchy", ICML 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.label_terms.base import CheckedTerm, check_vectors, label_product_factors
from lantk.label_terms.feature_sets import two_layer_ntk

# Weights drawn at once: a run, whose mean is one observation of the Monte Carlo error.
_SAMPLES_AT_ONCE = 32
# Of the quadrature in log t: the error falls as exp(-pi^2 / step).
_STEP = 0.3
_ROWS_AT_ONCE = 1000


class SpectrumError(LantkError):
    """A matrix of the hierarchy that is not positive definite; the message says what to change."""


class LabelPart(NamedTuple):
    """Label parts of a block of images, and the error of their Monte Carlo mean."""

    mean: NDArray
    """(m, n)."""
    standard_error: NDArray
    """(m, n), of the mean."""


def solve_lyapunov(
    eigenvalues: NDArray,
    eigenvectors: NDArray,
    left: NDArray,
    right: NDArray,
    *,
    tolerance: float = 1e-10,
) -> tuple[NDArray, NDArray]:
    """Return U, V (n, k) with C = U V^T the solution of ``H C + C H = left right^T``.

    C = int_0^inf exp(-tH) left right^T exp(-tH) dt, by the trapezoidal rule in log t, which
    converges exponentially. H is given by its eigenvalues (n,), ascending, and eigenvectors (n, n);
    left and right are (n, c). Singular values of C below `tolerance` times the largest are left
    out, and the quadrature is as exact. Cost: 4 n^2 c operations and some hundred columns.

    Raises
    ------
    SpectrumError
        If an eigenvalue is not positive.
    """
    low, high = eigenvalues[0], eigenvalues[-1]
    if low <= 0:
        raise SpectrumError(
            f"the 2-layer NTK of the train images has the eigenvalue {low:.3g}, wanted all of them"
            " positive: look for images that are equal but for brightness"
        )
    # exp(-2 t d) has to have fallen to the tolerance at the last t for the smallest d, and the
    # part of t below the first one must not count for the largest.
    start = math.log(tolerance / (2 * high))
    stop = math.log(-math.log(tolerance) / (2 * low))
    times = np.exp(np.arange(start, stop + _STEP, _STEP))
    decay = np.exp(-np.multiply.outer(eigenvalues, times))
    u, v = (
        (decay[:, :, None] * (eigenvectors.T @ side)[:, None, :]).reshape(len(decay), -1)
        for side in (left, right)
    )
    u *= np.repeat(times * _STEP, left.shape[1])
    u_basis, u_inner = np.linalg.qr(u)
    v_basis, v_inner = np.linalg.qr(v)
    inner_left, values, inner_right = np.linalg.svd(u_inner @ v_inner.T)
    k = int(np.sum(values > tolerance * values[0]))
    return (
        eigenvectors @ (u_basis @ (inner_left[:, :k] * values[:k])),
        eigenvectors @ (v_basis @ inner_right[:k].T),
    )


def sample_label_part(
    rows: NDArray,
    x_train: NDArray,
    factors: tuple[NDArray, NDArray],
    *,
    n_samples: int,
    seed: int = 0,
) -> LabelPart:
    """Return ``sum_ij K4(a, b, x_i, x_j) C_ij``, (m, n), by samples of a neuron's weights.

    With I = 1{w.x >= 0}, R = relu(w.x), and C = U V^T,

        K4_ab . C = E[ I_a I_b (2 a.b sum_ij C_ij (I_i I_j x_i.x_j + R_i R_j)
                                + sum_ij C_ij I_i I_j (a.x_i b.x_j + b.x_i a.x_j))
                       + sum_ij C_ij I_i R_j (I_a R_b a.x_i + R_a I_b b.x_i) ].

    Parameters
    ----------
    rows, x_train : (m, d), (n, d) arrays
        Vectors a, and those of the train images, b and x_i.
    factors : tuple of two (n, k) arrays
        U and V, from `solve_lyapunov`.
    n_samples, seed : int
        Weights drawn, in runs of 32, at least two runs; blocks of the same seed are blocks of one
        matrix.

    Notes
    -----
    Computed in the precision of the vectors, summed in float64. Cost: 4 (m + n) n k + 4 m n k
    operations a sample; memory: 8 times the block and three Gram matrices.
    """
    x = np.asarray(x_train)
    dtype = x.dtype
    sides = [np.asarray(side, dtype) for side in factors]
    k = sides[0].shape[1]
    # Train images come first, and are visited once where they are the rows too.
    blocks = [x] if rows is x_train else [x, rows]
    grams = [block @ x.T for block in blocks]
    inner = grams[-1]
    rng = np.random.default_rng(seed)
    total, squares = np.zeros(inner.shape), np.zeros(inner.shape)
    n_runs = max(-(-n_samples // _SAMPLES_AT_ONCE), 2)
    for _ in range(n_runs):
        w = rng.standard_normal((x.shape[1], _SAMPLES_AT_ONCE)).astype(dtype)
        heights = [block @ w for block in blocks]
        on_train = (heights[0] >= 0).astype(dtype)
        # (n_train, samples x k): diag(I) U and diag(I) V of every sample.
        masked = [(on_train[:, :, None] * s[:, None, :]).reshape(len(x), -1) for s in sides]
        h_u, h_v = (np.maximum(heights[0], 0).T @ s for s in sides)
        own = []
        for gram, height in zip(grams, heights, strict=True):
            on = (height >= 0).astype(dtype)
            products = [(gram @ m).reshape(len(gram), -1, k) * on[:, :, None] for m in masked]
            mixed = np.einsum("isk,sk->is", products[0], h_v)
            flat = [p.reshape(len(gram), -1) for p in products]
            own.append((on, np.maximum(height, 0), mixed, *flat))
        on_b, active_b, mixed_b, b_u, b_v = own[0]
        # Here diag(I) is in the product once and in the mask once, which is the same.
        both = (part.reshape(len(x), -1, k) for part in (b_u, masked[1]))
        scalars = np.einsum("isk,isk->s", *both) + np.einsum("sk,sk->s", h_u, h_v)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            on_a, active_a, mixed_a, a_u, a_v = (v[part] for v in own[-1])
            run = 2 * inner[part] * ((on_a * scalars) @ on_b.T)
            run += a_u @ b_v.T
            run += a_v @ b_u.T
            run += mixed_a @ active_b.T
            run += active_a @ mixed_b.T
            run = run / _SAMPLES_AT_ONCE
            total[part] += run
            squares[part] += np.square(run, dtype=np.float64)
    mean = total / n_runs
    variance = np.maximum(squares / n_runs - mean**2, 0) / (n_runs - 1)
    return LabelPart(mean, np.sqrt(variance))


class Hierarchy(CheckedTerm):
    """The label part of the neural tangent hierarchy of a 2-layer ReLU network (LANTK-NTH).

    By Monte Carlo over the weights of a neuron, `n_samples` of them, of one seed: train and other
    rows share the weights drawn, so that all blocks are of one kernel. The rank of C is cut off at
    `tolerance`. The module has the formulas.

    Attributes
    ----------
    left_, right_ : (n, k) arrays
        C = left_ right_^T.
    error_ : float
        Standard error of Z on train, root mean square, as a share of that of Z; once `train_block`
        was called.
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
        """Learn C of several: H, which is not `k_train_train`, has one eigendecomposition."""
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

    def _transform(self, k: NDArray, x: NDArray | None) -> NDArray:
        """Return Z; `k` is not read but for its shape."""
        return self._sample(check_vectors(x, len(k))).mean.astype(np.float32)

    def _train_block(self, k_train_train: NDArray, x: NDArray | None) -> NDArray:
        """Return Z on the fitted rows. `x` is not needed."""
        found = self._sample(self.x_train_)
        error, size = np.square(found.standard_error).mean(), np.square(found.mean).mean()
        self.error_ = float(np.sqrt(error / size)) if size else 0.0
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
            rows, self.x_train_, (self.left_, self.right_),
            n_samples=self.n_samples, seed=self.seed,
        )  # fmt: skip
