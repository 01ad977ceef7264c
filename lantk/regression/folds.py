"""Validation folds inside the train set, and permutations of train labels."""

from __future__ import annotations

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

    Parameters
    ----------
    y : (n,) array of -1/+1, or (n, k) one-hot
        Train labels.
    folds, seed : int
        Number of folds, and the seed that shuffles them.

    Raises
    ------
    ValidationError
        If a class has fewer train images than folds.
    """
    # Imported here: scikit-learn takes seconds to load, and the oracle protocol does not need it.
    from sklearn.model_selection import StratifiedKFold

    smallest = int(class_counts(y).min())
    if smallest < folds:
        raise ValidationError(
            f"{folds} folds need at least {folds} train images of each class, found {smallest}:"
            " lower `folds` or raise `n_train`"
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(y)), as_labels(y)))


def permuted(y: NDArray, permutation: int | None, part: int) -> NDArray:
    """Return the labels that a control is fitted to on train set `part`: permuted, or as they are.

    The same seed permutes each train set another way.
    """
    return y if permutation is None else np.random.default_rng([permutation, part]).permutation(y)
