"""What an MLflow run says of a result: its parameters, metrics and curves, named in one place.

Every run has the parameters of `variant_params` and, where its case is known, of `case_params`,
every finished one the metrics ``accuracy``, ``ci_low`` and ``ci_high`` with the ending of each
protocol, so that charts and comparisons of MLflow hold all runs. MLflow's comparison begins with
the first three parameters that differ, by name: within a case these are ``control``, ``family`` and
``kind``, which is why settings carry a prefix.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from lantk.experiment.settings import PROTOCOLS
from lantk.experiment.timings import JobCost
from lantk.experiment.variants import LAP, PLAIN_VARIANTS, case_key, family_of
from lantk.variant import Variant

OF_TABLE = (
    *("p_value", "spread", "label_gain", "label_gain_half_width"),
    *("alignment", "relative_ratio_train", "relative_ratio_test"),
)
"""What only the leaderboard knows: it takes other variants, several seeds or the chosen weight."""
_OF_CHOICE = ("accuracy", "ci_low", "ci_high", "label_weight", "ridge", "epoch", "window")
_OF_DERIVED = (*_OF_CHOICE, *OF_TABLE)


def is_measured_by_clock(metric: str) -> bool:
    """Return whether a clock or the machine's load decides a metric, which is no content then."""
    return metric.endswith(("seconds", "peak_memory_mb"))


def variant_params(variant: str, seed: int | None) -> dict[str, Any]:
    """Return the parameters that the name of a variant and its seed tell.

    ``kind`` is ``network``, ``network kernel``, ``kernel`` or ``label term``; ``control`` is
    ``shuffled``, ``diagonal``, ``offdiagonal`` or ``none``. The seed of a network is
    ``network_seed``, that of permuted labels ``permutation_seed``.

    Parameters
    ----------
    variant : str
        As records name it.
    seed : int or None
        None where the variant has one result.
    """
    v = Variant.of(variant)
    is_plain = variant in PLAIN_VARIANTS
    kind = (
        "network" if v.kernel is None else "kernel" if is_plain or variant == LAP else "label term"
    )
    if v.is_network_kernel:
        kind = "network kernel"
    # A label term of the user's own has its own name as family.
    family = family_of(variant) if is_plain or v.is_network_kernel else v.parent
    found: dict[str, Any] = {"control": v.control or "none", "family": family}
    found |= {"kind": kind, "variant": variant}
    if seed is not None:
        found["network_seed" if v.is_network else "permutation_seed"] = seed
    return found


def case_params(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that all runs of a case share."""
    task, architecture, n_train = case_key(record)
    zca = record["data"].get("whitening")
    return {
        "task": task,
        "n_train": n_train,
        "n_test": record["n_test"],
        "n_classes": len(record["classes"]),
        "architecture": architecture,
        "architecture_digest": record["architecture"]["digest"],
        "source": record["data"]["source"],
        "scaling": record["data"]["scaling"],
    } | ({} if zca is None else {"whitening": zca})


def setting_params(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an evaluation, as ``setting_NAME``; null ones are left out."""
    settings = record.get("settings") or {}
    return {f"setting_{key}": value for key, value in settings.items() if value is not None}


def record_metrics(
    record: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Return the metrics of an evaluation, those of a protocol with its name at the end.

    `rows` maps a protocol to a row of the leaderboard, where this run is the one that shows it.
    """
    metrics: dict[str, Any] = dict(record.get("diagnostics") or {})
    shown = {name: record["protocols"][name] for name in PROTOCOLS if name in record["protocols"]}
    for protocol, values in shown.items():
        # What validation saw belongs to the honest choice; the oracle makes no use of it.
        left_out = {"validation_accuracy"} if protocol == "oracle" else set()
        metrics |= {f"{k}_{protocol}": v for k, v in values.items() if k not in left_out}
        metrics |= {f"{key}_{protocol}": rows.get(protocol, {}).get(key) for key in OF_TABLE}
    return finite(metrics)


def derived_metrics(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of a variant that only the leaderboard has."""
    named = {f"{key}_{protocol}": row[key] for protocol, row in rows.items() for key in _OF_DERIVED}
    return finite(named)


def cost_metrics(job: JobCost | None, gram: JobCost | None) -> dict[str, float]:
    """Return what the job of a run took, and the Gram matrices that it stands on."""
    known = {name: cost for name, cost in (("job", job), ("gram", gram)) if cost is not None}
    return finite(
        {f"{name}_{k}": v for name, cost in known.items() for k, v in cost._asdict().items()}
    )


def curves(points: Sequence[Mapping[str, Any]]) -> dict[str, tuple[tuple[int, float], ...]]:
    """Return the columns of a curve; the step is the epoch, or the place on the weight grid."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for i, point in enumerate(points):
        step = int(point.get("epoch", i))
        for key, value in finite({k: v for k, v in point.items() if k != "epoch"}).items():
            found[f"curve_{key}"].append((step, value))
    return {key: tuple(steps) for key, steps in found.items()}


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a finite number, as float; None, text and NaN are left out."""
    return {k: float(v) for k, v in values.items() if isinstance(v, Real) and math.isfinite(v)}
