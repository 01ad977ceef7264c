"""What a Gram matrix says about classes: local elasticity, alignment with the labels, eigenvectors.

And what predictions say of each class, where classes have unequal numbers of images.

References
----------
He and Su, "The local elasticity of neural networks", ICLR 2020; Chen, He and Su (2020), section 2.2
and table 2 (the relative ratio). Cristianini et al., "On kernel-target alignment", 2001.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.labels import class_labels, count_outputs
from lantk.solvers.products import multiply


class RelativeRatio(NamedTuple):
    """Means of a normalised kernel over entries, and their ratio."""

    within: float
    """Mean over entries of two images of one class; on train, self pairs included."""
    between: float
    """Mean over entries of two images of different classes."""

    @property
    def value(self) -> float:
        """Return within / (within + between), 1/2 where the kernel tells no classes apart.

        NaN where nothing is alike.
        """
        total = self.within + self.between
        return self.within / total if total else float("nan")


class ClassSums(NamedTuple):
    """Sums of a normalised kernel over the train images of each class."""

    sums: NDArray
    """(m, c): over the columns of each class, of each row."""
    classes: NDArray
    """(c,) labels."""
    counts: NDArray
    """(c,) columns of each class."""

    def ratio(self, labels_rows: NDArray) -> RelativeRatio:
        """Return the relative ratio, once the classes (m,) of the rows are known.

        Raises
        ------
        LantkError
            If no two images are of one class, or all are.
        """
        is_own = np.asarray(labels_rows)[:, None] == self.classes
        n_within, n_between = (float((mask @ self.counts).sum()) for mask in (is_own, ~is_own))
        if not n_within or not n_between:
            raise LantkError(
                "the relative ratio needs entries within a class and between two classes"
            )
        within, between = (float(self.sums[mask].sum()) for mask in (is_own, ~is_own))
        return RelativeRatio(within / n_within, between / n_between)


def class_sums(
    k: NDArray, labels_columns: NDArray, diagonal_rows: NDArray, diagonal_columns: NDArray
) -> ClassSums:
    """Return the sums of K / sqrt(K(x,x) K(x',x')) over the columns of each class.

    Parameters
    ----------
    k : (m, n) array
        Kernel values, such as a train Gram matrix or a test x train block.
    labels_columns : (n,) array
        Classes, of any type.
    diagonal_rows, diagonal_columns : (m,), (n,) arrays
        K(x, x). A label-aware kernel of a test image takes that of the kernel without labels (Chen
        et al. 2020).

    Raises
    ------
    LantkError
        If a K(x, x) is not positive.
    """
    for name, diagonal in (("rows", diagonal_rows), ("columns", diagonal_columns)):
        if not (diagonal > 0).all():
            raise LantkError(
                f"K(x, x) of {name}[{np.argmin(diagonal > 0)}] is {diagonal[diagonal <= 0][0]:.3g}:"
                " the relative ratio divides by its root, so leave out images that are all zero, or"
                " take a smaller label weight"
            )
    classes, counts = np.unique(labels_columns, return_counts=True)
    columns = (labels_columns == classes[:, None]) / np.sqrt(diagonal_columns)
    # Row by row: c numbers each, with no normalised copy of K.
    sums = np.array([np.asarray(row, np.float64) @ columns.T for row in k])
    return ClassSums(sums / np.sqrt(diagonal_rows)[:, None], classes, counts)


def confusion_matrix(labels: NDArray, predicted: NDArray, n_classes: int) -> NDArray[np.int64]:
    """Return how many images (k, k) of each class, a row, were taken for each class, a column.

    Labels (m,) are -1 and +1 of two classes, 0 ... k - 1 of more.
    """
    rows, columns = (
        np.searchsorted(class_labels(count_outputs(n_classes)), of) for of in (labels, predicted)
    )
    flat = np.bincount(rows * n_classes + columns, minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def balanced_accuracy(confusion: NDArray) -> float:
    """Return the mean over the classes of the share of their images that were taken for them.

    Classes without images are left out.

    Examples
    --------
    >>> balanced_accuracy(np.array([[90, 0], [10, 0]]))
    0.5
    """
    right, counts = np.diag(confusion), confusion.sum(axis=1)
    return float(np.mean(right[counts > 0] / counts[counts > 0]))


def top_eigenvectors(k: NDArray, y: NDArray, n_vectors: int = 10) -> tuple[NDArray, NDArray]:
    """Return the largest eigenvalues of K (n, n), the largest first, and what of y lies along each.

    The eigenvalues are shares of the trace; the others |v^T y|^2 / |y|^2 for each eigenvector v,
    with targets y, -1/+1 or one-hot.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    n_vectors = min(n_vectors, len(k) - 1)
    start = np.random.default_rng(0).standard_normal(len(k))
    # Without a float64 copy of K.
    operator = LinearOperator(k.shape, lambda v: multiply(k, v), dtype=np.float64)
    values, vectors = eigsh(operator, n_vectors, v0=start)
    order = np.argsort(values)[::-1]
    targets = np.asarray(y, np.float64).reshape(len(y), -1)
    shares = np.square(vectors.T @ targets).sum(1) / np.square(targets).sum()
    return values[order] / np.trace(k, dtype=np.float64), shares[order]
