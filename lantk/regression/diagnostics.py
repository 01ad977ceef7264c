"""What the record of an evaluation says of a chosen K + lambda Z."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lantk.label_terms.base import label_product_factors
from lantk.labels import as_labels
from lantk.regression.measures import ClassSums, top_eigenvectors
from lantk.regression.protocols import WeightPath
from lantk.solvers.direct import add_label_term
from lantk.solvers.path import PathSolution, apply_term
from lantk.solvers.products import mean_abs, multiply

# The eigenvalues of a matrix cost more than a solve; up to this n the smallest is reported.
_EIGENVALUE_MAX_N = 1000


@dataclass(frozen=True)
class Addition:
    """What a member adds to K on some train rows, and on rows that are predicted."""

    z_train: NDArray | None
    z_rows: NDArray | None
    unit: float
    """lambda at weight 1."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """What the label term tells of itself."""


def describe(
    k: NDArray,
    k_test: NDArray,
    y: NDArray,
    diagonal_test: NDArray | None,
    addition: Addition,
    grid: NDArray,
    path: tuple[NDArray, NDArray, PathSolution],
) -> WeightPath:
    """Return a path with what is known of its matrices, not yet validated."""
    factors, scores, solution = path
    z = addition.z_train
    labels, signs = label_product_factors(y, len(y))
    mean_abs_k, moments = _moments(k, z, labels, signs)
    diagnostics = {
        "mean_abs_k": mean_abs_k,
        "lanczos_steps": int(solution.n_steps),
        "factorizations": int(solution.n_factorizations),
        "alignment_k": _alignment(moments, 0.0, len(y)),
    }
    if z is not None and z.ndim == 2:
        diagnostics |= {
            "mean_abs_z": mean_abs(z),
            "mean_z_diagonal": float(np.diag(z).mean(dtype=np.float64)),
            "sign_agreement": _sign_agreement(z, labels, signs),
            "alignment_z": _alignment(moments, np.inf, len(y)),
        }
    if z is None or z.ndim == 1:
        largest, shares = top_eigenvectors(k, y)
        diagnostics |= {"top10_trace_share": float(largest.sum())}
        diagnostics |= {"top10_label_share": float(shares.sum())}
    diagnostics |= addition.diagnostics
    eigenvalues = [_smallest_eigenvalue(k, z, factor) for factor in factors]
    classes = as_labels(y)
    ratios = [
        float("nan") if sums is None else sums.ratio(classes).value
        for sums in _class_sums(k, z, k, z, classes, None, factors)
    ]
    on_test = None
    if diagonal_test is not None:
        on_test = _class_sums(k_test, addition.z_rows, k, z, classes, diagonal_test, factors)
    return WeightPath(
        grid,
        factors,
        scores,
        solution.relative_residuals,
        np.array(eigenvalues),
        np.full(len(grid), np.nan),
        np.array([_alignment(moments, factor, len(y)) for factor in factors]),
        y.reshape(len(y), -1).T @ solution.dual[0] if z is None else None,
        diagnostics,
        np.array(ratios),
        on_test,
    )


def _class_sums(
    k_rows: NDArray,
    z_rows: NDArray | None,
    k: NDArray,
    z: NDArray | None,
    classes: NDArray,
    diagonal_rows: NDArray | None,
    factors: NDArray,
) -> list[ClassSums | None]:
    """Return, for each lambda, the class sums of K + lambda Z between rows and train images.

    Rows without a diagonal of their own are the train images. A Z that is diagonal is left out: a
    ridge makes no two images more alike. None stands where K + lambda Z is not positive on the
    diagonal, so that it cannot be normalised.
    """
    is_dense = z is not None and z.ndim == 2
    own = np.diag(k).astype(np.float64)
    added = np.zeros(len(k)) if z is None or z.ndim == 1 else np.diag(z).astype(np.float64)
    columns = own + factors[:, None] * added
    are_legal: NDArray = np.all(columns > 0, axis=1)
    names, counts = np.unique(classes, return_counts=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = (classes == names[:, None]) / np.sqrt(columns)[:, None]
    weights[~are_legal] = 0
    # One product for all lambda: what it costs is reading K and Z.
    flat = weights.reshape(-1, len(k)).T
    sums = multiply(k_rows, flat).reshape(len(k_rows), len(factors), -1)
    if is_dense and z_rows is not None:
        sums += factors[:, None] * multiply(z_rows, flat).reshape(sums.shape)
    rows = (
        columns
        if diagonal_rows is None
        else np.broadcast_to(diagonal_rows, (len(factors), len(k_rows)))
    )
    return [
        ClassSums(sums[:, i] / np.sqrt(rows[i])[:, None], names, counts) if legal else None
        for i, legal in enumerate(are_legal)
    ]


def _moments(
    k: NDArray, z: NDArray | None, labels: NDArray, signs: NDArray
) -> tuple[float, NDArray]:
    """Return mean|K|, and <K,L>, <Z,L>, <K,K>, <K,Z>, <Z,Z>, L being the label product."""
    sums = np.zeros(5)
    for vector, sign in zip(labels.T, signs, strict=True):
        sums[0] += sign * vector @ multiply(k, vector)
        if z is not None:
            sums[1] += sign * vector @ apply_term(z, vector[:, None])[:, 0]
    total = 0.0
    for i, row in enumerate(k):
        own = np.asarray(row, np.float64)
        total += float(np.abs(own).sum())
        sums[2] += own @ own
        if z is not None and z.ndim == 2:
            other = np.asarray(z[i], np.float64)
            sums[3] += own @ other
            sums[4] += other @ other
        elif z is not None:
            sums[3] += own[i] * z[i]
            sums[4] += z[i] ** 2
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


def _smallest_eigenvalue(k_train_train: NDArray, z_train: NDArray | None, factor: float) -> float:
    """Return the smallest eigenvalue of K + factor Z, or NaN above n = 1,000."""
    if len(k_train_train) > _EIGENVALUE_MAX_N:
        return np.nan
    return float(np.linalg.eigvalsh(add_label_term(k_train_train, z_train, factor))[0])
