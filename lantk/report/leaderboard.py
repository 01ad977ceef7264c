"""The leaderboard: one row for every case, variant and protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lantk.errors import LantkError
from lantk.experiment.variants import (
    CASE_COLUMNS,
    DERIVED,
    LAP,
    candidates,
    case_key,
    window_of,
)
from lantk.labels import decide
from lantk.regression.statistics import (
    DEFINITE,
    FEWEST_POINTS,
    PROTOCOLS,
    Outcomes,
    accuracy_with_interval,
    clustered_interval,
    log_slope,
    mcnemar_p_value,
)
from lantk.variant import Variant

_CASE = list(CASE_COLUMNS)
_CHOSEN = ["accuracy", "label_weight", "ridge", "epoch", "validation_accuracy"]
# Of the chosen matrix, from the curve.
_OF_MATRIX = ["n_negative", "alignment", "relative_ratio_train", "relative_ratio_test"]
# Of the ten top eigenvectors of the train Gram matrix, of kernels to which no Z is added.
_OF_EIGENVECTORS = ["top10_trace_share", "top10_label_share"]
# Of Z and of its weight, on the train images.
_OF_TERM = ["validation_accuracy", "alignment_z"]
# Images of each class, such as 30+130.
_COUNTS = ["train_counts", "test_counts"]
TABLE_COLUMNS = [
    *_CASE,
    "n_test",
    *_COUNTS,
    "whitening",
    "variant",
    "protocol",
    "accuracy",
    "spread",
    "ci_low",
    "ci_high",
    "p_value",
    "label_gain",
    "label_gain_half_width",
    "label_weight",
    "ridge",
    "epoch",
    "window",
    *_OF_MATRIX,
    *_OF_EIGENVECTORS,
    *_OF_TERM,
]
OF_EVALUATIONS = ["outcomes", "curve"]
"""Columns that are not written into table.csv: `Outcomes`, and label weight -> test accuracy."""
_SLOPES = ["slope", "slope_low", "slope_high"]
_COMPARED = ["slope_minus_cntk", "log_error_minus_cntk", "slope_minus_shuffled"]
# An architecture without its local average pooling, and the window of that.
_POOLING = ["without_pooling", "own_window"]
_OF_CURVE = ["task", "architecture", "variant", "protocol", "n_points"]
EXPONENT_COLUMNS = [*_OF_CURVE, *_SLOPES, *_COMPARED]


def leaderboard(evaluations: Sequence[tuple[Mapping[str, Any], pd.DataFrame]]) -> pd.DataFrame:
    """Return one row for every case, variant and protocol.

    It has `TABLE_COLUMNS`, and `OF_EVALUATIONS`, which only evaluations tell. Several seeds of a
    variant make one row: mean and standard deviation of the accuracy, means of what describes the
    matrix and its label term; p-value, label weight, ridge and epoch of the lowest seed.
    ``lantk-best``, where all `PUBLISHED_TERMS` are there, is the one with the best validation
    accuracy under ``honest`` and `DEFINITE`, with the best test accuracy under ``oracle``; of
    equals the first of `candidates`. ``after-kernel`` and ``conjugate-kernel`` are the same choice
    among their epochs, and ``*-shuffled`` is, for each seed, the same among shuffled twins.
    ``cntk-lap``, in the case of the smallest window, is that choice among the ``cntk`` of all
    architectures that differ in their window of local average pooling alone; ``window`` is what it
    chose. The label gain is the accuracy minus the mean over the shuffled twins, with half the
    width of the interval that `clustered_interval` finds for it in this task.

    Parameters
    ----------
    evaluations : sequence of (record, predictions)
        Cases and variants in the order of the table; seeds in any. Predictions have the columns
        ``index`` and ``label``, and one of scores, or of class numbers, for each protocol.

    Raises
    ------
    LantkError
        If no result is of a protocol that is asked for.
    """
    frame = pd.DataFrame(
        [
            {
                **dict(zip(_CASE, case_key(record), strict=True)),
                **{key: record[key] for key in ("n_test", "variant", "seed")},
                **{key: _counts_text(record, key) for key in _COUNTS},
                "whitening": record.get("data", {}).get("whitening"),
                "protocol": protocol,
                **{key: result.get(key) for key in _CHOSEN},
                "window": math.nan,
                **dict(zip(_POOLING, window_of(_layers(record)), strict=True)),
                **chosen_matrix(record.get("curve", ()), result),
                **_eigenvector_shares(record),
                "alignment_z": record.get("diagnostics", {}).get("alignment_z"),
                "curve": _weight_curve(record),
                "index": predictions["index"].to_numpy(),
                "correct": _is_right(record, predictions, protocol),
            }
            for record, predictions in evaluations
            for protocol, result in record["protocols"].items()
        ]
    )
    if frame.empty:
        raise LantkError(
            "no result is of the protocols that are asked for: run the workflow with these"
            " `protocols`, or name others"
        )
    found = []
    for _, group in pd.concat([frame, *_best_windows(frame)]).groupby(
        [*_CASE, "protocol"], sort=False
    ):
        group = pd.concat([group, *_best_of(group)], ignore_index=True)
        found += _rows(group.sort_values("seed", kind="stable"))
    table = pd.DataFrame(found)
    # Case by case, variant by variant, in the order of first appearance.
    order = list(dict.fromkeys(frame[_CASE].itertuples(index=False, name=None)))
    cases = [order.index(name) for name in table[_CASE].itertuples(index=False, name=None)]
    names = [*dict.fromkeys(frame["variant"]), *DERIVED]
    variants = table["variant"].map({name: i for i, name in enumerate(names)})
    protocols = table["protocol"].map({name: i for i, name in enumerate([*PROTOCOLS, DEFINITE])})
    table = table.iloc[np.lexsort((protocols, variants, cases))]
    return table[[*TABLE_COLUMNS, *OF_EVALUATIONS]].reset_index(drop=True)


def chosen_matrix(
    curve: Sequence[Mapping[str, Any]], result: Mapping[str, Any]
) -> dict[str, float | None]:
    """Return what is known of K + lambda Z at the chosen weight; a ridge is no part of it."""
    weights = [result.get("label_weight"), result.get("ridge")]
    found = next(
        (point for point in curve if [point.get("label_weight"), point.get("ridge")] == weights), {}
    )
    return {key: found.get(key) for key in _OF_MATRIX}


def _eigenvector_shares(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what is known of the top eigenvectors of K, where nothing of a Z is added to it."""
    if Variant.of(record["variant"]).control == "diagonal":
        return dict.fromkeys(_OF_EIGENVECTORS)
    return {key: record.get("diagnostics", {}).get(key) for key in _OF_EIGENVECTORS}


def _weight_curve(record: Mapping[str, Any]) -> dict[float, float]:
    """Return label weight -> test accuracy, as far as a record tells it."""
    points = [(p.get("label_weight"), p.get("test_accuracy")) for p in record.get("curve", ())]
    return {weight: found for weight, found in points if weight is not None and found is not None}


def _counts_text(record: Mapping[str, Any], key: str) -> str | None:
    """Return the images of each class; records of earlier versions do not have them."""
    return "+".join(map(str, record.get("data", {}).get(key, ()))) or None


def _is_right(record: Mapping[str, Any], predictions: pd.DataFrame, protocol: str) -> NDArray:
    """Return where a prediction is right: the sign of a score, or the number of a class."""
    found, label = predictions[protocol].to_numpy(), predictions["label"].to_numpy()
    return (decide(found.astype(float)) if len(record["classes"]) == 2 else found) == label


def _layers(record: Mapping[str, Any]) -> Sequence[Any]:
    """Return the layers of a record's architecture; of one that does not tell, its digest."""
    found: Sequence[Any] = record["architecture"].get("layers") or [
        record["architecture"]["digest"]
    ]
    return found


def _best_windows(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of `LAP`, each of one task, n, protocol and family of architectures."""
    best = []
    rest, own = _POOLING
    plain = frame[frame["variant"] == "cntk"].sort_values(own, kind="stable")
    for key, group in plain.groupby(["task", "n_train", "protocol", rest], sort=False):
        of_family = frame[frame[rest] == key[-1]]
        by = _chosen_by(group)
        # A best of fewer than there are results of would be another choice.
        is_whole = {*group[own]} == {*of_family[own]} and group[by].notna().all()
        if is_whole and group[own].nunique() > 1:
            # Of equals, argmax takes the first, which has the smallest window.
            place = int(group[by].astype(float).argmax())
            chosen, first = group.iloc[[place]], group.iloc[0]
            columns = {"variant": LAP, "window": chosen[own].astype(float), **first[_CASE]}
            best.append(chosen.assign(**columns))
    return best


def _chosen_by(group: pd.DataFrame) -> str:
    """Return the column by which something is chosen in a group of one protocol."""
    return "accuracy" if group["protocol"].iloc[0] == "oracle" else "validation_accuracy"


def _best_of(group: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of what is derived and of its shuffled twins, of one case and protocol."""
    by = _chosen_by(group)
    best = []
    for derived in DERIVED:
        names = candidates(derived, group["variant"])
        for _, of_seed in group[group["variant"].isin(names)].groupby("seed", dropna=False):
            # A best of fewer would be another choice.
            if set(of_seed["variant"]) == set(names):
                # Of equals, idxmax takes the first of the candidates.
                winner = of_seed.set_index("variant")[by].astype(float).reindex(names).idxmax()
                chosen = of_seed[of_seed["variant"] == winner]
                best.append(chosen.assign(variant=derived))
    return best


def _rows(group: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of one case and protocol; several seeds make one."""
    by_variant = dict(list(group.groupby("variant", sort=False)))
    means = {variant: seeds["accuracy"].mean() for variant, seeds in by_variant.items()}
    outcomes = {variant: _outcomes(variant, seeds) for variant, seeds in by_variant.items()}
    rows = []
    for variant, seeds in by_variant.items():
        first = seeds.iloc[0].to_dict()
        row = first | dict.fromkeys(("p_value", "spread", "label_gain", "label_gain_half_width"))
        row |= {key: _mean(seeds[key]) for key in (*_OF_MATRIX, *_OF_EIGENVECTORS, *_OF_TERM)}
        row |= {"outcomes": outcomes[variant], "curve": _mean_curve([*seeds["curve"]])}
        if len(seeds) > 1:
            row["spread"] = seeds["accuracy"].std()
        if variant != "cntk" and "cntk" in by_variant:
            plain = by_variant["cntk"]["correct"].iloc[0]
            row["p_value"] = mcnemar_p_value(first["correct"], plain)
        twin = f"{variant}-shuffled"
        if twin in by_variant:
            row["label_gain"] = means[variant] - means[twin]
            pair = [(1, outcomes[variant]), (-1, outcomes[twin])]
            row["label_gain_half_width"] = clustered_interval([pair]).half
        rows.append(row | accuracy_with_interval(means[variant], first["n_test"]))
    return rows


def _outcomes(variant: str, seeds: pd.DataFrame) -> Outcomes:
    """Return the outcomes of all seeds of a variant, which come in ascending order."""
    kind = "network" if Variant.of(variant).is_network else "permutation"
    numbers = tuple(int(seed) for seed in seeds["seed"].dropna())
    return Outcomes(seeds["index"].iloc[0], np.stack([*seeds["correct"]]), numbers, kind)


def _mean_curve(curves: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Return the mean over seeds at the label weights that all of them have."""
    shared = set.intersection(*map(set, curves))
    return {weight: float(np.mean([c[weight] for c in curves])) for weight in sorted(shared)}


def _mean(values: pd.Series) -> float | None:
    """Return the mean over seeds, None where one is not known."""
    return None if values.isna().any() else float(values.astype(float).mean())


def error_exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Return how the error falls with n, for every task, architecture, variant and protocol.

    Parameters
    ----------
    table : DataFrame
        The leaderboard.

    Returns
    -------
    DataFrame
        ``EXPONENT_COLUMNS``, of those with at least three n: the slope of log(error) on log(n) and
        its interval; the slope minus that of ``cntk``, fitted to the n that both have; the mean of
        log(error) minus that of ``cntk`` at the same n; the slope minus that of the shuffled twin.
        Only the last is what labels change: against ``cntk`` it is what all of Z does.
    """
    rows = []
    table = table[table["protocol"].isin(PROTOCOLS)]
    for key, group in table.groupby(["task", "architecture", "protocol"], sort=False):
        error = 1 - group.pivot(index="n_train", columns="variant", values="accuracy").sort_index()
        for variant in dict.fromkeys(group["variant"]):
            own = error[variant].dropna()
            if own.size < FEWEST_POINTS:
                continue
            row = dict(zip(("task", "architecture", "protocol"), key, strict=True))
            row |= {"variant": variant, "n_points": own.size}
            row |= zip(_SLOPES, log_slope(own.index, own), strict=True)
            twin, _ = _minus(error, variant, f"{variant}-shuffled")
            row |= zip(_COMPARED, (*_minus(error, variant, "cntk"), twin), strict=True)
            rows.append(row)
    return pd.DataFrame(rows, columns=EXPONENT_COLUMNS)


def _minus(error: pd.DataFrame, variant: str, other: str) -> tuple[float, float]:
    """Return slope and mean log error of one variant minus those of another at the same n."""
    if other not in error:
        return math.nan, math.nan
    both = error[[variant, other]].set_axis(["own", "other"], axis=1).dropna()
    slope, base = (log_slope(both.index, both[name])[0] for name in both)
    if math.isnan(slope - base):
        return math.nan, math.nan
    return slope - base, float(np.log(both["own"] / both["other"]).mean())
