"""Evaluation: protocols, accuracies with intervals, paired tests, the leaderboard.

Test labels enter the project here and nowhere else: `predict.predict` and `network.train` return
scores without them, and `assess` and `assess_network` compare the scores with them.

References
----------
Chen, He and Su (2020) for the label weight and the protocol here named ``oracle``; Wilson (1927)
for the interval; McNemar (1947) for the paired test, in its exact form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

PROTOCOLS = ("honest", "oracle")
TABLE_COLUMNS = [
    "pair",
    "variant",
    "protocol",
    "accuracy",
    "ci_low",
    "ci_high",
    "p_value",
    "n_train",
    "n_test",
    "label_weight",
]
BEST = "lantk-best"


@dataclass(frozen=True)
class WeightPath:
    """Scores along a path of label weights.

    Attributes
    ----------
    weights : (p,) array
        Label weights r, ascending.
    factors : (p,) array
        lambda = r mean|K| / mean|Z|, on all of train.
    scores : (p, n_test) array
        f(x) on the test rows; f >= 0 predicts +1.
    relative_residuals : (p,) array
        Of each train solve.
    smallest_eigenvalues : (p,) array
        Of K + lambda Z on train; NaN for n > 1,000.
    validation_accuracy : (p,) array
        Mean over folds inside train; NaN where not validated.
    diagnostics : dict
        Scalars about K, Z and the solves.
    """

    weights: NDArray
    factors: NDArray
    scores: NDArray
    relative_residuals: NDArray
    smallest_eigenvalues: NDArray
    validation_accuracy: NDArray
    diagnostics: dict[str, float] = field(default_factory=dict)


def choose_weight(weights: NDArray, validation_accuracy: NDArray) -> int:
    """Return the index of the best validated weight; ties go to the smaller weight."""
    best = np.nanmax(validation_accuracy)
    tied = np.flatnonzero(validation_accuracy == best)
    return int(tied[np.argmin(weights[tied])])


def assess(
    path: WeightPath,
    y_test: NDArray,
    *,
    protocols: Sequence[str],
    oracle_weights: Sequence[float],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the results of a weight path under each protocol, and its predictions.

    `honest` takes the weight with the best validation accuracy, whatever the test labels are.
    `oracle` takes the one of `oracle_weights` with the best test accuracy, as the paper does.

    Parameters
    ----------
    path : WeightPath
        What `predict` returned.
    y_test : (n_test,) array of -1/+1
        Test labels.
    protocols : sequence of str
        Out of `PROTOCOLS`.
    oracle_weights : sequence of float
        The weights that compete under `oracle`.

    Returns
    -------
    results : dict
        ``protocols`` (a dict for each: accuracy, interval, weight) and ``curve`` (one dict a
        weight).
    scores : DataFrame
        One column a protocol.
    """
    correct = is_correct(path.scores, y_test)
    test_accuracy = correct.mean(axis=1)
    chosen: dict[str, int] = {}
    if "honest" in protocols:
        chosen["honest"] = choose_weight(path.weights, path.validation_accuracy)
    if "oracle" in protocols:
        # The plain kernel has the one weight 0; label terms compete on the oracle's own grid.
        allowed = np.isin(path.weights, oracle_weights) | (len(path.weights) == 1)
        chosen["oracle"] = choose_weight(path.weights, np.where(allowed, test_accuracy, np.nan))
    results = {
        "protocols": {
            name: {
                **accuracy_with_interval(test_accuracy[i], len(y_test)),
                "label_weight": float(path.weights[i]),
                "epoch": None,
                "validation_accuracy": _or_none(path.validation_accuracy[i]),
            }
            for name, i in chosen.items()
        },
        "curve": [
            {
                "label_weight": float(path.weights[i]),
                "label_factor": float(path.factors[i]),
                "validation_accuracy": _or_none(path.validation_accuracy[i]),
                "test_accuracy": float(test_accuracy[i]),
                "relative_residual": float(path.relative_residuals[i]),
                "smallest_eigenvalue": _or_none(path.smallest_eigenvalues[i]),
            }
            for i in range(len(path.weights))
        ],
        "diagnostics": dict(path.diagnostics),
    }
    return results, pd.DataFrame({name: path.scores[i] for name, i in chosen.items()})


def assess_network(
    test_scores: NDArray, train_loss: NDArray, y_test: NDArray, *, protocols: Sequence[str]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the results of a trained network, in the form of `assess`.

    `honest` is the last epoch; `oracle` the epoch with the best test accuracy (the earliest of
    equals).

    Parameters
    ----------
    test_scores : (epochs, n_test) array
        Scores after each epoch; >= 0 predicts +1.
    train_loss : (epochs,) array
        Mean training loss of each epoch.
    y_test : (n_test,) array of -1/+1
        Test labels.
    protocols : sequence of str
        Out of `PROTOCOLS`.
    """
    test_accuracy = is_correct(test_scores, y_test).mean(axis=1)
    epochs = {"honest": len(test_scores) - 1, "oracle": int(np.argmax(test_accuracy))}
    chosen = {name: epochs[name] for name in PROTOCOLS if name in protocols}
    results = {
        "protocols": {
            name: {
                **accuracy_with_interval(test_accuracy[i], len(y_test)),
                "label_weight": None,
                "epoch": i + 1,
                "validation_accuracy": None,
            }
            for name, i in chosen.items()
        },
        "curve": [
            {"epoch": i + 1, "train_loss": float(loss), "test_accuracy": float(accuracy)}
            for i, (loss, accuracy) in enumerate(zip(train_loss, test_accuracy, strict=True))
        ],
        "diagnostics": {},
    }
    return results, pd.DataFrame({name: test_scores[i] for name, i in chosen.items()})


def is_correct(scores: NDArray, y: NDArray) -> NDArray:
    """Return where the sign of a score agrees with the label (a score of 0 predicts +1)."""
    return np.where(np.asarray(scores) >= 0, 1, -1) == np.asarray(y)


def accuracy_with_interval(accuracy: float, n: int) -> dict[str, float]:
    """Return the accuracy and its 95 % Wilson interval as a dictionary."""
    low, high = wilson_interval(accuracy, n)
    return {"accuracy": float(accuracy), "ci_low": low, "ci_high": high}


def wilson_interval(accuracy: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion (a mean over seeds need not be k / n).

    Examples
    --------
    >>> low, high = wilson_interval(0.5, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    z = float(stats.norm.ppf((1 + confidence) / 2))
    centre = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2))
    # At 0 and 1 one end is the accuracy itself, but for rounding.
    return float(max(0, min(centre - half, accuracy))), float(min(1, max(centre + half, accuracy)))


def mcnemar_p_value(correct_a: NDArray, correct_b: NDArray) -> float:
    """Return the two-sided exact McNemar p-value of two classifiers on the same images."""
    only_a = int(np.sum(correct_a & ~correct_b))
    only_b = int(np.sum(~correct_a & correct_b))
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def leaderboard(evaluations: Sequence[tuple[dict[str, Any], pd.DataFrame]]) -> pd.DataFrame:
    """Return one row for every pair, variant and protocol, with `TABLE_COLUMNS`.

    Several seeds of a variant make one row: the mean accuracy, the p-value of the first seed.
    ``lantk-best`` is added where there are label terms: under ``honest`` the one with the best
    validation accuracy, under ``oracle`` the one with the best test accuracy; the earlier wins a
    tie.

    Parameters
    ----------
    evaluations : sequence of (record, predictions)
        In the order of the table: by pair, then variant, then seed. Predictions have the columns
        ``label`` and one of scores for each protocol.
    """
    frame = pd.DataFrame(
        [
            {
                **{key: record[key] for key in ("pair", "variant", "n_train", "n_test")},
                "protocol": protocol,
                "accuracy": result["accuracy"],
                "label_weight": result["label_weight"],
                "validation_accuracy": result["validation_accuracy"],
                "correct": is_correct(predictions[protocol], predictions["label"]),
            }
            for record, predictions in evaluations
            for protocol, result in record["protocols"].items()
        ]
    )
    rows = []
    for (_, protocol), group in frame.groupby(["pair", "protocol"], sort=False):
        by_variant = [seeds for _, seeds in group.groupby("variant", sort=False)]
        entries = [
            {**seeds.iloc[0].to_dict(), "p_value": None, "accuracy": seeds["accuracy"].mean()}
            for seeds in by_variant
        ]
        plain = next((e["correct"] for e in entries if e["variant"] == "cntk"), None)
        terms = [e for e in entries if e["variant"].startswith("lantk-")]
        if terms:
            by = "validation_accuracy" if protocol == "honest" else "accuracy"
            entries.append({**max(terms, key=lambda e: e[by]), "variant": BEST})
        for entry in entries:
            if plain is not None and entry["variant"] != "cntk":
                entry["p_value"] = mcnemar_p_value(entry["correct"], plain)
            rows.append(entry | accuracy_with_interval(entry["accuracy"], entry["n_test"]))
    # Pair by pair, variant by variant, in the order of first appearance.
    table = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate(dict.fromkeys(frame["pair"]))}
    table["_pair"] = table["pair"].map(order)
    variants = {name: i for i, name in enumerate([*dict.fromkeys(frame["variant"]), BEST])}
    table["_variant"] = table["variant"].map(variants)
    table["_protocol"] = table["protocol"].map({name: i for i, name in enumerate(PROTOCOLS)})
    return table.sort_values(["_pair", "_variant", "_protocol"])[TABLE_COLUMNS].reset_index(
        drop=True
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
