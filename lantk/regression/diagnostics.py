"""What the record of an evaluation says of a chosen K + lambda Z."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lantk.label_terms.base import label_product_factors
from lantk.labels import as_labels
from lantk.regression.measures import ClassSums, top_eigenvectors
from lantk.regression.protocols import WeightPath, ratio_of
from lantk.solvers.additions import Addition, Dense, Nothing, add_label_term
from lantk.solvers.path import PathSolution, count_negative_along
from lantk.solvers.products import mean_abs, multiply

# The eigenvalues of a matrix cost more than a solve; up to this n the smallest is reported.
EIGENVALUE_MAX_N = 1000


def describe(
    k: NDArray,
    k_test: NDArray,
    y: NDArray,
    diagonal_test: NDArray | None,
    z: Addition,
    grid: NDArray,
    path: tuple[NDArray, NDArray, PathSolution],
    count: Callable[[float], int],
) -> WeightPath:
    """Return a path with what is known of its matrices, not yet validated.

    `count` is as for `count_negative_along`.
    """
    factors, scores, solution = path
    labels, signs = label_product_factors(y, len(y))
    mean_abs_k, moments = _moments(k, z, labels, signs)
    diagnostics = {
        "mean_abs_k": mean_abs_k,
        "lanczos_steps": int(solution.n_steps),
        "factorizations": int(solution.n_factorizations),
        "alignment_k": _alignment(moments, 0.0, len(y)),
    }
    if isinstance(z, Dense):
        diagnostics |= {
            "mean_abs_z": mean_abs(z.train),
            "mean_z_diagonal": float(np.diag(z.train).mean(dtype=np.float64)),
            "sign_agreement": _sign_agreement(z.train, labels, signs),
            "alignment_z": _alignment(moments, np.inf, len(y)),
        }
    else:
        largest, shares = top_eigenvectors(k, y)
        diagnostics |= {"top10_trace_share": float(largest.sum())}
        diagnostics |= {"top10_label_share": float(shares.sum())}
    diagnostics |= z.diagnostics
    smallest = np.full(len(factors), np.nan)
    if len(k) <= EIGENVALUE_MAX_N:
        eigenvalues = np.array([np.linalg.eigvalsh(add_label_term(k, z, f)) for f in factors])
        smallest, n_negative = eigenvalues[:, 0], (eigenvalues < 0).sum(axis=1)
    else:
        n_negative = count_negative_along(factors, solution.at_least_negative, count)
    classes, shared = as_labels(y), z if isinstance(z, Dense) else Nothing()
    # A Z that is diagonal is left out: a ridge makes no two images more alike.
    own = np.diag(k).astype(np.float64) + factors[:, None] * shared.diagonal(len(k))
    ratios = [
        ratio_of(sums, classes) for sums in _class_sums(k, shared.apply, own, own, classes, factors)
    ]
    on_test = None
    if diagonal_test is not None:
        diagonals = np.broadcast_to(diagonal_test, (len(factors), len(k_test)))
        on_test = _class_sums(k_test, shared.apply_rows, diagonals, own, classes, factors)
    return WeightPath(
        grid,
        factors,
        scores,
        solution.relative_residuals,
        smallest,
        np.full(len(grid), np.nan),
        np.array([_alignment(moments, factor, len(y)) for factor in factors]),
        y.reshape(len(y), -1).T @ solution.dual[0] if isinstance(z, Nothing) else None,
        diagnostics,
        np.array(ratios),
        on_test,
        n_negative - solution.n_lifted,
    )


def _class_sums(
    k_rows: NDArray,
    apply_z: Callable[[NDArray], NDArray],
    rows: NDArray,
    columns: NDArray,
    classes: NDArray,
    factors: NDArray,
) -> list[ClassSums | None]:
    """Return, for each lambda, the class sums of K + lambda Z between rows and train images.

    `rows` and `columns` are K(x, x) + lambda Z(x, x) of both, (p, m) and (p, n). None stands where
    one of them is not positive, as of a black image, so that the kernel cannot be normalised.
    """
    are_legal: NDArray = np.all(rows > 0, axis=1) & np.all(columns > 0, axis=1)
    names, counts = np.unique(classes, return_counts=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = (classes == names[:, None]) / np.sqrt(columns)[:, None]
    weights[~are_legal] = 0
    # One product for all lambda: what it costs is reading K and Z.
    flat = weights.reshape(-1, len(classes)).T
    sums = multiply(k_rows, flat).reshape(len(k_rows), len(factors), -1)
    sums += factors[:, None] * apply_z(flat).reshape(-1, *sums.shape[1:])
    return [
        ClassSums(sums[:, i] / np.sqrt(rows[i])[:, None], names, counts) if legal else None
        for i, legal in enumerate(are_legal)
    ]


def _moments(k: NDArray, z: Addition, labels: NDArray, signs: NDArray) -> tuple[float, NDArray]:
    """Return mean|K|, and <K,L>, <Z,L>, <K,K>, <K,Z>, <Z,Z>, L being the label product."""
    sums = np.zeros(5)
    for vector, sign in zip(labels.T, signs, strict=True):
        sums[0] += sign * vector @ multiply(k, vector)
        sums[1] += sign * vector @ z.apply(vector[:, None])[:, 0]
    total = 0.0
    for row in k:
        own = np.asarray(row, np.float64)
        total += float(np.abs(own).sum())
        sums[2] += own @ own
    sums[3:] = z.inner_products(k)
    return total / k.size, sums


def _alignment(moments: NDArray, factor: float, n: int) -> float:
    """Return <K + factor Z, L> / (|K + factor Z| |L|), of Z alone for an infinite factor.

    Cristianini et al., "On kernel-target alignment", 2001, equation 2; all labels products are
    -1 or +1, so |L| = n.
    """
    k_l, z_l, k_k, k_z, z_z = moments
    if np.isinf(factor):
        return float(z_l / (n * np.sqrt(z_z))) if z_z else 0.0
    norm = np.sqrt(max(k_k + 2 * factor * k_z + factor**2 * z_z, 0.0))
    return float((k_l + factor * z_l) / (n * norm)) if norm else 0.0


def _sign_agreement(z: NDArray, labels: NDArray, signs: NDArray) -> float:
    """Return the share of train entries where Z has the sign of the label product."""
    # Row by row, so that no n x n label product is formed.
    signed = labels * signs
    rows = zip(z, signed, strict=True)
    return float(np.mean([np.mean((row >= 0) == (labels @ own >= 0)) for row, own in rows]))
