"""Labels, the targets that stand for them, and what scores decide.

Two classes are labelled -1 and +1 and have one output, the score; k classes are numbered 0 to k - 1
and have k outputs. Targets are what outputs are regressed on: -1/+1, or one-hot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lantk.errors import LantkError


class LabelError(LantkError):
    """Labels of a class that is not among those known, or that are no labels."""


class Classes:
    """Names of classes in ascending order, of whatever type: text, 0 and 1, other numbers.

    Examples
    --------
    >>> classes = Classes(["dog", "deer", "dog"])
    >>> classes.names, classes.labels(["deer", "dog"])
    (array(['deer', 'dog'], dtype='<U4'), array([-1,  1]))
    """

    def __init__(self, y: ArrayLike) -> None:
        self.names: NDArray[Any] = np.unique(np.asarray(y))

    def numbers(self, y: ArrayLike, name: str = "labels") -> NDArray[np.int64]:
        """Return the number of each class, (n,), 0 ... k - 1.

        Raises
        ------
        LabelError
            If a class is not among the names; the message calls the array `name`.
        """
        y = np.asarray(y)
        unknown = ~np.isin(y, self.names)
        if unknown.any():
            i = int(unknown.argmax())
            found = f"{name}[{i}] is {y[i].item()!r}"
            raise LabelError(f"{found}, none of the {len(self.names)} classes")
        return np.searchsorted(self.names, y).astype(np.int64)

    def labels(self, y: ArrayLike) -> NDArray[np.int64]:
        """Return the labels of named classes, (n,): -1/+1 of two, else their numbers."""
        return class_labels(count_outputs(len(self.names)))[self.numbers(y)]


def count_outputs(n_classes: int) -> int:
    """Return how many scores tell classes apart: one for two classes."""
    return 1 if n_classes == 2 else n_classes


def class_labels(n_outputs: int) -> NDArray[np.int64]:
    """Return the labels of all classes: -1 and +1 for one output, 0 ... k - 1 for k."""
    return np.array([-1, 1] if n_outputs == 1 else range(n_outputs))


def as_targets(labels: NDArray, n_outputs: int) -> NDArray:
    """Return labels (n,) as targets: -1/+1 as they are, class numbers one-hot (n, k)."""
    return labels if n_outputs == 1 else np.eye(n_outputs)[labels]


def to_targets(y: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return the labels of n rows as targets, whichever way they are written.

    -1/+1 and one-hot labels stay as they are; of 0 and 1, and of class numbers, two classes become
    -1 and +1 in ascending order, more become one-hot.

    Raises
    ------
    LabelError
        If they are none of these, or all of one class number.

    Examples
    --------
    >>> to_targets([0, 1, 1], 3), to_targets([3, 5, 8], 3).shape
    (array([-1.,  1.,  1.]), (3, 3))
    """
    wanted = f"wanted ({n},) of -1 and +1, of 0 and 1 or of class numbers, or ({n}, k) one-hot"
    try:
        found = np.asarray(y)
    except ValueError as error:
        raise LabelError(f"labels of unequal lengths for {n} train rows: {wanted}") from error
    if found.dtype.kind not in "biuf":
        first = found.ravel()[:1].tolist()
        raise LabelError(
            f"labels hold {found.dtype}, such as {first}: {wanted}. Of text,"
            " `lantk.labels.Classes(y).labels(y)` makes such labels"
        )
    numbers = found.astype(np.float64)
    if are_targets(numbers, n):
        return numbers
    if numbers.shape == (n,) and np.all(np.floor(numbers) == numbers):
        classes = Classes(numbers)
        if len(classes.names) > 1 and np.isfinite(numbers).all():
            outputs = count_outputs(len(classes.names))
            return as_targets(classes.labels(numbers), outputs).astype(np.float64)
    raise LabelError(f"labels of shape {found.shape} for {n} train rows: {wanted}")


def as_labels(targets: NDArray) -> NDArray:
    """Return the labels (n,) of targets: -1/+1 as they are, class numbers of one-hot (n, k)."""
    return targets if targets.ndim == 1 else targets.argmax(axis=1)


def are_targets(y: NDArray, n: int) -> bool:
    """Return whether `y` is (n,) of -1/+1 or (n, k) one-hot."""
    if y.shape == (n,):
        return bool(np.all(np.abs(y) == 1))
    is_table = y.ndim == 2 and len(y) == n
    return bool(is_table and np.all((y == 0) | (y == 1)) and np.all(y.sum(1) == 1))


def class_counts(targets: NDArray) -> NDArray:
    """Return how many targets are of each class, those of none included."""
    return (targets if targets.ndim == 2 else targets[:, None] == class_labels(1)).sum(axis=0)


def decide(scores: NDArray) -> NDArray:
    """Return the labels that scores predict, for each weight or epoch and each image.

    Parameters
    ----------
    scores : (p, m) or (p, m, k) array
        Of one output a score of 0 or more predicts +1, a smaller one -1; of k outputs the largest
        is predicted, the first of equals. Whole numbers (p, m) are labels already.
    """
    if scores.ndim == 3:
        return scores.argmax(axis=2)
    return np.where(scores >= 0, 1, -1) if scores.dtype.kind == "f" else scores
