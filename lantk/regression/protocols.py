"""Evaluation: what the scores are worth on the test images, under each protocol.

`paths.predict` and `training.train` return scores without test labels, and `assess` and
`assess_network` compare the scores with them; so does the leaderboard, with finished predictions.

References
----------
Chen, He and Su (2020) for the label weight and the protocol here named ``oracle``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.labels import as_targets, decide
from lantk.regression.measures import ClassSums
from lantk.regression.statistics import DEFINITE, PROTOCOLS, accuracy_with_interval

if TYPE_CHECKING:
    from lantk.regression.fits import FittedPath


@dataclass(frozen=True)
class WeightPath:
    """Scores along a path of p label weights, and what is known of K + lambda Z on train."""

    weights: NDArray
    """(p,): label weights r, ascending."""
    factors: NDArray
    """(p,): lambda = r mean|K| / mean|Z|, on all of train."""
    scores: NDArray
    """(p, n_test) or (p, n_test, k): f(x) on the test rows; `labels.decide` predicts from it."""
    relative_residuals: NDArray
    """(p,): of each train solve."""
    smallest_eigenvalues: NDArray
    """(p,): of K + lambda Z on train; NaN for n > 1,000."""
    validation_accuracy: NDArray
    """(p,): mean over folds inside train; NaN where not validated."""
    alignment: NDArray
    """(p,): kernel-target alignment of K + lambda Z on train, with the label product."""
    label_gram: NDArray | None = None
    """(c, c), of the plain kernel: U^T K^-1 U, with labels U, -1/+1 or one-hot."""
    diagnostics: dict[str, float] = field(default_factory=dict)
    """Scalars about K, Z and the solves."""
    relative_ratio: NDArray | None = None
    """(p,): local elasticity of K + lambda Z on train; NaN where it cannot be normalised."""
    test_class_sums: Sequence[ClassSums | None] | None = None
    """The same between test and train images, as far as it is known without test labels."""
    n_negative: NDArray | None = None
    """(p,): how many eigenvalues of K + lambda Z on train are negative; beside an unpenalised
    constant, of it between vectors that sum to 0."""
    fitted: FittedPath | None = None
    """What predicts other rows."""


def choose_weight(weights: NDArray, validation_accuracy: NDArray) -> int:
    """Return the index of the best validated weight; ties go to the smaller weight.

    Raises
    ------
    LantkError
        If no weight has an accuracy, as where 0 is the only candidate and K is singular.
    """
    if np.isnan(validation_accuracy).all():
        raise LantkError(
            "no weight or ridge is left to choose: 0 is no candidate where the train Gram matrix is"
            " singular, as with duplicate images. Give others than 0, or remove the duplicates"
        )
    best = np.nanmax(validation_accuracy)
    tied = np.flatnonzero(validation_accuracy == best)
    return int(tied[np.argmin(weights[tied])])


def assess(
    path: WeightPath,
    y_test: NDArray,
    *,
    protocols: Sequence[str],
    oracle_weights: Sequence[float],
    is_ridge: bool = False,
    epoch: int | None = None,
) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Return the results of a weight path under each protocol, and its predictions.

    `honest` takes the weight with the best validation accuracy, whatever the test labels are.
    `oracle` takes the one of `oracle_weights` with the best test accuracy, as the paper does. With
    `honest` comes `DEFINITE`, where the definiteness of the path is known.

    Parameters
    ----------
    path : WeightPath
        What `predict` returned.
    y_test : (n_test,) array
        Test labels -1/+1, or class numbers.
    protocols : sequence of str
        Out of `PROTOCOLS`.
    oracle_weights : sequence of float
        The weights that compete under `oracle`.
    is_ridge : bool
        Whether the weights are ridges and not label weights.
    epoch : int, optional
        Of the network whose kernel it is.

    Returns
    -------
    results : dict
        ``protocols`` (a dict for each: accuracy, interval, weight) and ``curve`` (one dict a
        weight).
    predictions : dict of (n_test,) arrays
        One a protocol, `DEFINITE` included: scores, or predicted class numbers.
    """
    test_accuracy = (decide(path.scores) == y_test).mean(axis=1)
    chosen: dict[str, int] = {}
    if "honest" in protocols:
        chosen["honest"] = choose_weight(path.weights, path.validation_accuracy)
    if "oracle" in protocols:
        # The plain kernel has the one weight 0; label terms compete on the oracle's own grid.
        allowed = np.isin(path.weights, oracle_weights) | (len(path.weights) == 1)
        chosen["oracle"] = choose_weight(path.weights, np.where(allowed, test_accuracy, np.nan))

    if "honest" in protocols and path.n_negative is not None:
        definite = np.where(path.n_negative == 0, path.validation_accuracy, np.nan)
        if not np.isnan(definite).all():
            chosen[DEFINITE] = choose_weight(path.weights, definite)

    def weight_of(i: int) -> dict[str, float | None]:
        weight = float(path.weights[i])
        ridge, label_weight = (weight, None) if is_ridge else (None, weight)
        return {"label_weight": label_weight, "ridge": ridge}

    results = {
        "protocols": {
            name: {
                **accuracy_with_interval(test_accuracy[i], len(y_test)),
                **weight_of(i),
                "epoch": epoch,
                "validation_accuracy": _or_none(path.validation_accuracy[i]),
            }
            for name, i in chosen.items()
        },
        "curve": [
            {
                **weight_of(i),
                "label_factor": float(path.factors[i]),
                "validation_accuracy": _or_none(path.validation_accuracy[i]),
                "test_accuracy": float(test_accuracy[i]),
                "relative_residual": _or_none(path.relative_residuals[i]),
                "smallest_eigenvalue": _or_none(path.smallest_eigenvalues[i]),
                "n_negative": None if path.n_negative is None else int(path.n_negative[i]),
                "alignment": _or_none(path.alignment[i]),
                **_relative_ratios(path, i, y_test),
            }
            for i in range(len(path.weights))
        ],
        "diagnostics": dict(path.diagnostics),
    }
    shown = path.scores if path.scores.ndim == 2 else decide(path.scores)
    return results, {name: shown[i] for name, i in chosen.items()}


def _relative_ratios(path: WeightPath, i: int, y_test: NDArray) -> dict[str, float | None]:
    """Return the relative ratios at one weight, as far as they are known."""
    found: dict[str, float | None] = {}
    if path.relative_ratio is not None:
        found["relative_ratio_train"] = _or_none(path.relative_ratio[i])
    if path.test_class_sums is not None:
        sums = path.test_class_sums[i]
        found["relative_ratio_test"] = _or_none(ratio_of(sums, y_test))
    return found


def ratio_of(sums: ClassSums | None, labels_rows: NDArray) -> float:
    """Return the relative ratio of class sums, NaN where there are none."""
    return float("nan") if sums is None else sums.ratio(labels_rows).value


def oracle_label_path(plain: WeightPath, y_test: NDArray, weights: Sequence[float]) -> WeightPath:
    """Return the path of K + lambda Z with Z the true label product, test labels included.

    The ceiling of every label term, to be assessed under ``oracle`` only; `weights` are label
    weights, as mean|Z| is 1. With labels U (-1/+1, or one-hot) the label product is U C U^T (C = 1,
    or 2 I - 1 1^T), so the solve follows from that of the `plain` kernel: with G = U^T K^-1 U,

        (K + lambda U C U^T)^-1 U = K^-1 U (I + lambda C G)^-1.
    """
    grid = np.array(sorted(set(weights)), np.float64)
    factors = grid * plain.diagnostics["mean_abs_k"]
    gram = plain.label_gram
    if gram is None:
        raise ValueError("the ceiling follows from the path of the plain kernel, at weight 0")
    k = len(gram)
    scores = plain.scores[0].reshape(-1, k)
    labels = as_targets(y_test, k).reshape(-1, k)
    product = np.eye(1) if k == 1 else 2 * np.eye(k) - 1
    path = []
    for factor in factors:
        inner = np.linalg.inv(np.eye(k) + factor * product @ gram)
        path.append((scores + factor * labels @ product @ gram) @ inner)
    stacked = np.stack(path)
    unknown = np.full((4, len(grid)), np.nan)
    return WeightPath(
        grid, factors, stacked[..., 0] if plain.scores.ndim == 2 else stacked, *unknown
    )


def assess_network(
    test_predictions: NDArray,
    train_loss: NDArray,
    y_test: NDArray,
    *,
    protocols: Sequence[str],
    validation_accuracy: float | None = None,
) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Return the results of a trained network, in the form of `assess`.

    `honest` is the last epoch; `oracle` the epoch with the best test accuracy (the earliest of
    equals).

    Parameters
    ----------
    test_predictions : (epochs, n_test) array
        Of each epoch: floats are scores, integers are class numbers.
    train_loss : (epochs,) array
        Mean training loss of each epoch.
    y_test, protocols
        As for `assess`.
    validation_accuracy : float, optional
        Of the learning rate, where validation inside train chose it; it belongs to `honest`.
    """
    test_accuracy = (decide(test_predictions) == y_test).mean(axis=1)
    epochs = {"honest": len(test_accuracy) - 1, "oracle": int(np.argmax(test_accuracy))}
    chosen = {name: epochs[name] for name in PROTOCOLS if name in protocols}
    results = {
        "protocols": {
            name: {
                **accuracy_with_interval(test_accuracy[i], len(y_test)),
                "label_weight": None,
                "ridge": None,
                "epoch": i + 1,
                "validation_accuracy": validation_accuracy if name == "honest" else None,
            }
            for name, i in chosen.items()
        },
        "curve": [
            {"epoch": i + 1, "train_loss": float(loss), "test_accuracy": float(accuracy)}
            for i, (loss, accuracy) in enumerate(zip(train_loss, test_accuracy, strict=True))
        ],
        "diagnostics": {},
    }
    return results, {name: test_predictions[i] for name, i in chosen.items()}


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
