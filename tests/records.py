"""Fabricated results of evaluations, for the tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lantk.variant import NETWORKS, PLAIN_KERNELS

WEIGHTS = [0.0, 0.001, 0.01, 0.1]


def make_record(
    variant: str,
    accuracy: float = 0.8,
    *,
    task: str = "3-8",
    seed: int | None = None,
    n_train: int = 40,
    n_test: int = 400,
    architecture: str | None = "chen2020",
    case: str | None = None,
    validation: float | None = 0.78,
    protocols: tuple[str, ...] = ("honest", "oracle"),
    curve: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the record of one evaluation, as far as tables, figures and runs read it."""
    is_network, is_ridge = variant in NETWORKS, variant == "cntk-ridge"
    weighted = not is_network and not is_ridge and variant not in PLAIN_KERNELS
    choice = {
        "accuracy": accuracy,
        "ci_low": accuracy - 0.05,
        "ci_high": min(1.0, accuracy + 0.05),
        "label_weight": 0.01 if weighted else None if is_ridge or is_network else 0.0,
        "ridge": 0.01 if is_ridge else None,
        "epoch": 2 if is_network else None,
        "validation_accuracy": None if is_network else validation,
    }
    if curve is None and is_network:
        curve = [{"epoch": e, "train_loss": 1 / e, "test_accuracy": 0.5 + e / 10} for e in (1, 2)]
    if curve is None:
        weights = WEIGHTS if weighted or is_ridge else [0.0]
        key, other = ("ridge", "label_weight") if is_ridge else ("label_weight", "ridge")
        curve = [
            {
                key: weight,
                other: None,
                "label_factor": 2 * weight,
                "validation_accuracy": 0.78 + weight / 10 if weight < 0.1 else None,
                "test_accuracy": accuracy - abs(weight - 0.01) / 5,
                "relative_residual": 1e-12,
                "smallest_eigenvalue": None,
            }
            for weight in weights
        ]
    return {
        "case": case or task,
        "task": task,
        "classes": [str(i) for i in range(10)] if task == "all" else task.split("-"),
        "variant": variant,
        "seed": seed,
        "n_train": n_train,
        "n_test": n_test,
        "data": {"source": "digits", "digest": "d" * 64, "scaling": "range"},
        "architecture": {"name": architecture, "digest": "a" * 16, "layers": ["flatten", "dense"]},
        "settings": {"epochs": 2} if is_network else {"folds": 5, "channels": None},
        "protocols": dict.fromkeys(protocols, choice),
        "curve": curve,
        "diagnostics": {"smallest_eigenvalue": float("nan"), "solves": 11, "solver": "lu"},
        "provenance": {
            "commit": "abc123",
            "code": "c" * 16,
            "versions": {"numpy": "2.4"},
            "hardware": {"processor": "A CPU", "cores": 2, "memory_gib": 23.5},
        },
    }


def make_predictions(record: dict[str, Any], right: Any = None) -> pd.DataFrame:
    """Return the predictions of a record: right on the given images, else on the first ones."""
    n, k = record["n_test"], len(record["classes"])
    label = np.arange(n) % k if k > 2 else np.where(np.arange(n) % 2, 1, -1)
    wrong = (label + 1) % k if k > 2 else -label
    frame = pd.DataFrame({"index": np.arange(n), "label": label})
    for protocol, choice in record["protocols"].items():
        hits = np.arange(round(choice["accuracy"] * n)) if right is None else right
        found = np.where(np.isin(np.arange(n), hits), label, wrong)
        frame[protocol] = found if k > 2 else 0.5 * found
    return frame


def write_record(results: Path, record: dict[str, Any]) -> Path:
    """Write the two files of an evaluation as the workflow does; return the JSON file."""
    seed = record["seed"]
    name = record["variant"] if seed is None else f"{record['variant']}-seed{seed}"
    path = results / "evaluations" / record["case"] / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    make_predictions(record).to_csv(path.with_suffix(".csv"), index=False)
    return path
