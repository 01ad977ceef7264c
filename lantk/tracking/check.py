"""What an MLflow store holds of a results folder, compared with what it should."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lantk.tracking.logged import LoggedRun, damaged_files, match_runs
from lantk.tracking.values import is_measured_by_clock

_MOST_LINES = 20


def find_drift(client: Any, existing: Sequence[Any], wanted: Sequence[LoggedRun]) -> dict[str, str]:
    """Return name of a run -> what is wrong with it, in the order of the results.

    Everything of the runs that exist, superseded ones left out, is read back: parameters, metrics
    (but those that a clock decides), the last values of curves, tags, status, and names and sizes
    of files.
    """
    pairs, unfinished, others = match_runs(existing, wanted)
    drift = {_describe(found): "unfinished" for found in unfinished}
    for run, of_run in pairs:
        drift |= {_describe(more): "extra: the run is there twice" for more in of_run[1:]}
        differences = _differences(client, of_run[0], run) if of_run else []
        if not of_run:
            drift[run.run.name] = "missing"
        elif differences:
            more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
            drift[run.run.name] = f"changed: {differences[0]}{more}"
    return drift | {_describe(found): "extra: the results do not have it" for found in others}


def drift_text(drift: Mapping[str, str]) -> str:
    """Return a line for each run that differs, the first few of them."""
    lines = [f"  {name}: {what}" for name, what in drift.items()]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"  and {len(lines) - _MOST_LINES} more"]
    return "\n".join(lines)


def _describe(found: Any) -> str:
    return f"{found.info.run_name} (run {found.info.run_id})"


def _differences(client: Any, found: Any, wanted: LoggedRun) -> list[str]:
    run = wanted.run
    metrics = {key: curve[-1][1] for key, curve in run.curves.items()} | dict(run.metrics)
    differences = [
        *_compare("tag", found.data.tags, wanted.tags | {"fingerprint": run.fingerprint}),
        *_compare("parameter", found.data.params, wanted.params),
        *_compare("metric", _without_clock(found.data.metrics), _without_clock(metrics)),
    ]
    if found.info.status != run.status:
        differences.append(f"status is {found.info.status}, wanted {run.status}")
    if found.info.run_name != run.name:
        differences.append(f"name is {found.info.run_name!r}")
    damaged = damaged_files(client, found.info.run_id, wanted)
    return differences + [f"file {name} {what}" for name, what in damaged.items()]


def _without_clock(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not is_measured_by_clock(key)}


def _compare(kind: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the differences between two mappings; tags may hold more than is wanted."""
    differences = []
    for key, value in wanted.items():
        if key not in found:
            differences.append(f"{kind} {key} is not there")
        elif not _is_same(found[key], value):
            differences.append(f"{kind} {key} is {found[key]!r:.60}, wanted {value!r:.60}")
    if kind != "tag":  # MLflow and people add tags of their own
        differences += [f"{kind} {key} is too many" for key in found if key not in wanted]
    return differences


def _is_same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        # Some databases keep fewer digits than the result has.
        return math.isclose(found, wanted, rel_tol=1e-12)
    return bool(found == wanted)
