"""What one MLflow run holds, read from the files of a results folder.

The files are the truth, and a tracking store is a view of them (`tracking.sync`). What makes two
runs the same is a fingerprint of parameters, metrics, curves, predictions and the digests of data
and code, without times.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lantk.errors import LantkError
from lantk.variants import CASE_COLUMNS, DERIVED, case_key

# What only the table knows: it takes other variants or several seeds.
_OF_TABLE = ("p_value", "spread", "label_gain", "label_gain_half_width")
# Metrics that a clock or the machine's load decides: logged, but no part of the fingerprint.
_MEASURED_BY_CLOCK = ("seconds", "peak_memory_mb")


class TrackingError(LantkError):
    """The results could not be read or the store could not be written; results are untouched."""


@dataclass(frozen=True)
class Run:
    """What one MLflow run holds, read from the files of one (case, variant, seed)."""

    name: str
    case: str
    """Task, architecture and n, as far as the results hold several."""
    task: str
    variant: str
    seed: int | None
    params: Mapping[str, Any]
    """Few and typed; MLflow keeps their text."""
    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[tuple[int, float], ...]]
    """Metric name -> (step, value) pairs."""
    tags: Mapping[str, str]
    artifacts: Mapping[str, Path]
    """Name in the run -> file."""
    data: Mapping[str, str]
    """``source`` and ``digest`` of the images."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    ended: float = 0.0
    """When the result was written, in seconds since 1970."""
    seconds: float = 0.0

    @property
    def fingerprint(self) -> str:
        """Thirty-two hexadecimal digits that change when the content of the run does."""
        predictions = self.artifacts.get("predictions.csv")
        content = {
            "params": self.params,
            "metrics": {k: v for k, v in self.metrics.items() if not _is_timing(k)},
            "curves": self.curves,
            "predictions": predictions and hashlib.sha256(predictions.read_bytes()).hexdigest(),
            "data": self.data,
            "code": self.provenance.get("code"),
        }
        return text_digest(content, 32)


def read_runs(
    results: Path, *, seeds: Sequence[int] | None = None, permutations: int | None = None
) -> list[Run]:
    """Return the runs that the files under `results` describe, by case, variant and seed.

    Parameters
    ----------
    results : Path
        The folder with ``evaluations/CASE/*.json`` and, usually, ``table.csv``. An evaluation that
        the table does not list is left over from an earlier configuration and is not read.
    seeds : sequence of int, optional
        The networks that belong to the results; the table's p-value is about the lowest of them.
        If absent, all that are there, in ascending order.
    permutations : int, optional
        How many label permutations belong to the results, numbered from 0. If absent, all that
        are there.

    Raises
    ------
    TrackingError
        If there is no evaluation, or a file is not what it should be.
    """
    table = _read_table(results / "table.csv")
    evaluations = {path: _read_json(path) for path in _evaluation_files(results)}
    runs, keys = [], {}
    for path, evaluation in evaluations.items():
        try:
            key = _row_key(evaluation)
            wanted = _wanted_seeds(evaluation, evaluations.values(), seeds, permutations)
            if (table and key not in table) or evaluation["seed"] not in wanted:
                continue
            # What the table says of several seeds is logged with the first.
            rows = table.get(key, {}) if evaluation["seed"] == wanted[0] else {}
            runs.append(_run_from_evaluation(results, path, evaluation, rows))
            keys[runs[-1].case] = key[:-1]
        except (KeyError, TypeError, AttributeError) as error:
            raise TrackingError(
                f"{path} is not an evaluation: {error!r}. Delete it and run the workflow again"
            ) from error
    if not runs:
        raise TrackingError(
            f"no evaluation found in {results}: wanted evaluations/CASE/VARIANT.json"
            + (" that table.csv lists" if table else "")
            + ". Run the workflow first, or check `results` in the configuration"
        )
    for case, first in {run.case: run for run in reversed(runs)}.items():
        for variant in DERIVED:
            if (*keys[case], variant) in table:
                derived = table[(*keys[case], variant)]
                runs.append(_run_from_table(results, variant, derived, first))
    order = list(dict.fromkeys([*(key[:-1] for key in table), *keys.values()]))
    return sorted(runs, key=lambda r: (order.index(keys[r.case]), r.variant, r.seed or 0))


def _row_key(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what identifies the rows of an evaluation in the table."""
    task, architecture, n_train = case_key(evaluation)
    return task, architecture, str(n_train), evaluation["variant"]


def _wanted_seeds(
    evaluation: Mapping[str, Any],
    evaluations: Collection[Mapping[str, Any]],
    seeds: Sequence[int] | None,
    permutations: int | None,
) -> list[int | None]:
    """Return the seeds of a variant that belong to the results, the one that was tested first."""
    if evaluation["seed"] is None:
        return [None]
    is_network = evaluation["variant"] == "cnn"
    if is_network and seeds is not None:
        return [*sorted(seeds)]
    if not is_network and permutations is not None:
        return list(range(permutations))
    found = {e.get("seed") for e in evaluations if e.get("variant") == evaluation["variant"]}
    return sorted(seed for seed in found if seed is not None)


def _evaluation_files(results: Path) -> list[Path]:
    found = sorted(results.glob("evaluations/*/*.json"))
    # A name with a dot in front is a file that someone is still writing.
    return [path for path in found if not path.name.startswith(".")]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"{path} cannot be read: {error}. Delete it and run the workflow again"
        ) from error
    if not isinstance(content, dict):
        raise TrackingError(f"{path} holds {type(content).__name__}, wanted a mapping")
    return content


def _read_table(path: Path) -> dict[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Return (task, architecture, n, variant) -> protocol -> row; nothing if there is no table."""
    table: dict[tuple[str, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                key = tuple(row[name] for name in (*CASE_COLUMNS, "variant"))
                table[key][row["protocol"]] = row
    return dict(table)


def _run_from_evaluation(
    results: Path,
    path: Path,
    evaluation: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
) -> Run:
    case, task = evaluation["case"], evaluation["task"]
    variant, seed = evaluation["variant"], evaluation["seed"]
    metrics: dict[str, Any] = dict(evaluation.get("diagnostics") or {})
    for protocol, values in evaluation["protocols"].items():
        # What validation saw belongs to the honest choice; the oracle makes no use of it.
        metrics |= {f"{k}_{protocol}": v for k, v in values.items() if k != "validation_accuracy"}
        if protocol == "honest":
            metrics["validation_accuracy"] = values.get("validation_accuracy")
        row = rows.get(protocol, {})
        metrics |= {f"{key}_{protocol}": row.get(key) for key in _OF_TABLE}
    provenance = evaluation.get("provenance") or {}
    name = evaluation["architecture"].get("name")
    files = {
        "evaluation.json": path,
        "predictions.csv": path.with_suffix(".csv"),
        "figure.png": results / "figures" / f"{case}.png",
        "table.md": results / "table.md",
    }
    return Run(
        name=f"{case} {variant}" + ("" if seed is None else f" seed {seed}"),
        case=case,
        task=task,
        variant=variant,
        seed=seed,
        params={
            "task": task,
            "variant": variant,
            **{k: v for k, v in (evaluation.get("settings") or {}).items() if v is not None},
            "n_train": evaluation["n_train"],
            "n_test": evaluation["n_test"],
            "architecture": evaluation["architecture"]["digest"],
            **({"architecture_name": name} if name else {}),
        },
        metrics=_finite(metrics),
        curves=_curves(evaluation.get("curve") or []),
        tags={
            "case": case,
            "task": task,
            "variant": variant,
            **({} if seed is None else {"seed": str(seed)}),
            "source": evaluation["data"]["source"],
            "commit": str(provenance.get("commit") or "unknown"),
        },
        artifacts={name: file for name, file in files.items() if file.exists()},
        data={key: str(evaluation["data"][key]) for key in ("source", "digest")},
        provenance=provenance,
        ended=path.stat().st_mtime,
        seconds=_finite({"_": evaluation.get("seconds", metrics.get("seconds"))}).get("_", 0.0),
    )


def _run_from_table(
    results: Path, variant: str, rows: Mapping[str, Mapping[str, Any]], sibling: Run
) -> Run:
    """Return the run of a variant that only the table knows; data and code are its sibling's."""
    wanted = ("accuracy", "ci_low", "ci_high", "label_weight", *_OF_TABLE)
    metrics = {f"{key}_{protocol}": row[key] for protocol, row in rows.items() for key in wanted}
    own = ("n_train", "n_test", "architecture", "architecture_name")
    without = ("evaluation.json", "predictions.csv")
    return Run(
        name=f"{sibling.case} {variant}",
        case=sibling.case,
        task=sibling.task,
        variant=variant,
        seed=None,
        params={key: sibling.params[key] for key in own if key in sibling.params},
        metrics=_finite(metrics),
        curves={},
        tags={k: v for k, v in sibling.tags.items() if k != "seed"} | {"variant": variant},
        artifacts={k: v for k, v in sibling.artifacts.items() if k not in without},
        data=sibling.data,
        provenance={k: v for k, v in sibling.provenance.items() if k != "code"},
        ended=(results / "table.csv").stat().st_mtime,
    )


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a finite number, as float; None, empty text and NaN are left out."""
    numbers = {}
    for key, value in values.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            numbers[key] = number
    return numbers


def _curves(points: Sequence[Mapping[str, Any]]) -> dict[str, tuple[tuple[int, float], ...]]:
    """Return the columns of a curve; the step is the epoch, or the place on the weight grid."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for i, point in enumerate(points):
        step = int(point.get("epoch", i))
        for key, value in _finite({k: v for k, v in point.items() if k != "epoch"}).items():
            curves[f"curve_{key}"].append((step, value))
    return {key: tuple(steps) for key, steps in curves.items()}


def _is_timing(metric: str) -> bool:
    return metric.endswith(_MEASURED_BY_CLOCK)


def text_digest(content: Any, length: int) -> str:
    """Return the first hexadecimal digits of the SHA-256 of some content as JSON."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
