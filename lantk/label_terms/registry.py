"""Label terms by the names of their variants."""

from __future__ import annotations

from typing import Any

from lantk.label_terms.base import LabelTerm, LabelTermError
from lantk.label_terms.controls import Laplacian, Rbf, Ridge
from lantk.label_terms.hierarchy import Hierarchy
from lantk.label_terms.kernel_regression import KernelRegression
from lantk.label_terms.least_squares import LeastSquares
from lantk.label_terms.plug_in import PlugIn
from lantk.variant import Variant

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
    "cntk-laplacian": (Laplacian, {}),
}


def label_term(name: str, *, estimator: str = "exact") -> LabelTerm:
    """Return an unfitted label term by its variant name.

    Parameters
    ----------
    name : str
        A term, such as ``lantk-kr-v1`` or ``lantk-plugin``; ``TERM-offdiagonal`` leaves the
        diagonal out of a least-squares fit; ``TERM-shuffled`` and ``TERM-diagonal`` are the term
        itself, whose labels or blocks `predict` changes. ``cntk-ridge``, ``cntk-rbf`` and
        ``cntk-laplacian`` are the additions that see no label.
    estimator : {"exact", "fjlt"}
        How least squares are solved: by exact normal equations, or on the published sketch.

    Raises
    ------
    LabelTermError
        If there is no such label term or estimator.

    Examples
    --------
    >>> import numpy as np
    >>> k = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> label_term("lantk-kr-v1").fit_transform(k, np.array([1.0, -1.0])).shape
    (2, 2)
    """
    v = Variant.of(name)
    term = v.parent
    if term not in _ESTIMATORS:
        raise LabelTermError(f"unknown label term {name!r}: wanted one of {', '.join(_ESTIMATORS)}")
    if estimator not in ("exact", "fjlt"):
        raise LabelTermError(f"unknown estimator {estimator!r}: wanted 'exact' or 'fjlt'")
    kind, options = _ESTIMATORS[term]
    if kind is LeastSquares:
        options = options | {"estimator": estimator}
    if v.is_off_diagonal:
        if kind is not LeastSquares:
            raise LabelTermError(
                f"{name!r}: only the least-squares terms (lantk-fjlt-...) can leave the diagonal"
                " out of their fit"
            )
        options = options | {"with_diagonal": False}
    return kind(**options)
