"""Validation folds inside the train set, and permutations of train labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.labels import as_labels, class_counts


class ValidationError(LantkError):
    """A validation that cannot be made as asked; the message says what to change."""


def validation_folds(
    y: NDArray[Any], folds: int, seed: int = 0
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return stratified folds inside train: for each, the rows to fit and those held out.

    `y` are targets, -1/+1 or one-hot; the seed shuffles. The folds are those of scikit-learn's
    `StratifiedKFold`, which takes a second to load.

    Raises
    ------
    ValidationError
        If there are fewer than two folds, or fewer train images of a class than folds.
    """
    if folds < 2:
        raise ValidationError(f"`folds` is {folds}: wanted 2 or more")
    smallest = int(class_counts(y).min())
    if smallest < folds:
        raise ValidationError(
            f"{folds} folds need at least {folds} train images of each class, found {smallest}:"
            " lower `folds` or raise `n_train`"
        )
    labels, stream = as_labels(y), np.random.RandomState(seed)
    fold_of, n_seen = np.empty(len(y), int), 0
    for label in dict.fromkeys(labels.tolist()):
        members = np.flatnonzero(labels == label)
        # Sorted by class, images are dealt out to the folds in turn.
        dealt = np.sort(np.arange(n_seen, n_seen + len(members)) % folds)
        stream.shuffle(dealt)
        fold_of[members] = dealt
        n_seen += len(members)
    return [(np.flatnonzero(fold_of != i), np.flatnonzero(fold_of == i)) for i in range(folds)]


def permutation_parts(y: NDArray[Any], folds: int, seed: int = 0) -> list[NDArray[np.intp]]:
    """Return the rows that permutations of labels mix among themselves: those of each fold.

    So every fold has as many permuted labels of a class as true ones, held out and to fit. `y` are
    targets; classes of fewer images than folds have fewer parts, whether or not folds are used.
    """
    n_parts = min(folds, int(class_counts(y).min()))
    if n_parts < 2:
        return [np.arange(len(y))]
    return [held for _, held in validation_folds(y, n_parts, seed)]


def permuted(y: NDArray, permutation: int | None, parts: Sequence[NDArray[np.intp]]) -> NDArray:
    """Return the labels of all of train that a control is fitted to: permuted, or as they are.

    Folds take their rows of it, as they do of true labels. With a permutation of its own a fold's Z
    would be another than the one that its weight is chosen for; with one that mixes folds, classes
    would be of unequal size in each, which moves the constant in Z, and with it lambda (of KR-V1 at
    n = 1,000 by up to 190 %, against 4 % for true labels).
    """
    if permutation is None:
        return y
    stream, order = np.random.default_rng([permutation, 0]), np.arange(len(y))
    for rows in parts:
        order[rows] = stream.permutation(rows)
    return y[order]
