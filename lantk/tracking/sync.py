"""MLflow: makes a tracking store agree with a results folder, one run per (case, variant, seed).

The files are the truth and the store is a view of them. `read_runs` reads the files, `sync` makes
the store agree with them, however often it is called: a run that is there with the same content is
left alone; one whose content changed is logged anew and the old one marked superseded; one that an
interrupt left unfinished is removed and logged again. `verify` compares without writing, `rebuild`
begins anew. Runs are never resumed.
"""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lantk.experiment.passwords import find_passwords
from lantk.experiment.records import Listing
from lantk.tracking.check import find_drift
from lantk.tracking.dashboard import base_address, links
from lantk.tracking.logged import (
    LoggedRun,
    bring_up_to_date,
    find_runs,
    log_run,
    mark_superseded,
    results_id,
)
from lantk.tracking.reading import read_runs
from lantk.tracking.run import Run, TrackingError
from lantk.tracking.store import (
    Store,
    connect,
    find_damage,
    find_experiment,
    locate_store,
    make_experiment,
    put_aside,
    using,
)
from lantk.tracking.views import view_tags

# Bytes of table and configuration up to which every run has a copy; beyond, one run of each case.
_MOST_COPIED = 2**17


@dataclass(frozen=True)
class Target:
    """A results folder and the experiment that shows it."""

    results: Path
    listing: Listing
    config: Mapping[str, Any]
    """The configuration: its text ``results`` names the folder, so that runs are found again after
    the folder was moved."""
    uri: str | None = None
    """``http://...`` of a server, ``sqlite:////absolute/path`` of a file. If absent, the
    environment variable ``MLFLOW_TRACKING_URI``; if that is absent too, ``mlflow.db`` beside the
    results folder, with artifacts in ``mlflow-artifacts`` there."""
    experiment: str = "lantk"
    """Name of the MLflow experiment; made if it is not there."""

    @property
    def folder_name(self) -> str:
        """The results folder as runs name it."""
        return str(self.config.get("results") or Path(self.results).resolve())

    @property
    def store(self) -> Store:
        """Where the runs go."""
        return locate_store(Path(self.results).resolve(), self.uri)

    def check(self) -> None:
        """Raise `TrackingError` if the configuration holds a password."""
        uri = (self.config.get("tracking") or {}).get("uri")
        if find_passwords(uri or ""):
            raise TrackingError(
                "tracking.uri holds a password, which would stand in the runs: set"
                " MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD,"
                " in the environment instead"
            )

    def read(self) -> list[LoggedRun]:
        """Return what the store should hold."""
        self.check()
        config_text = json.dumps(self.config, indent=2, sort_keys=True, default=str)
        runs = read_runs(Path(self.results).resolve(), self.listing)
        keepers = _find_keepers(runs, len(config_text))
        found = []
        for run in runs:
            keeper = keepers.get(run.case, run.name)
            kept_with = None if keeper == run.name else keeper
            found.append(LoggedRun(run, self.folder_name, config_text, kept_with))
        return found


def _find_keepers(runs: Sequence[Run], n_bytes: int) -> dict[str, str]:
    """Return case -> the run that keeps table and configuration; nothing where all runs do.

    Both grow with the number of runs, so that copies in all would grow with its square.
    """
    keepers: dict[str, str] = {}
    for run in runs:
        table = run.artifacts.get("table.md")
        if table is not None and table.stat().st_size + n_bytes > _MOST_COPIED:
            keepers.setdefault(run.case, run.name)
    return keepers


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did and where the runs are."""

    created: int
    unchanged: int
    updated: int
    """Of the unchanged, those whose tags or files were brought up to date."""
    superseded: int
    interrupted: int
    """Unfinished runs of an earlier call that were removed."""
    failed: int
    """Of all current runs, those of results that are missing because a job failed."""
    experiment: str
    experiment_id: str
    uri: str
    """Without password."""
    run_ids: Mapping[str, tuple[str, ...]]
    """Case -> ids of its current runs that did not fail."""
    links: Mapping[str, str]
    """What is shown -> address in the dashboard."""

    @property
    def counts(self) -> dict[str, int]:
        """How many runs were treated how."""
        return {name: getattr(self, name) for name in _COUNTS}


_COUNTS = ("created", "unchanged", "updated", "superseded", "interrupted", "failed")


def sync(target: Target) -> SyncReport:
    """Make an MLflow store agree with a results folder, finished or not; the folder is only read.

    Raises
    ------
    TrackingError
        If the results are unreadable, or the store is out of reach, damaged, of another schema
        version, or full. Runs that were finished before the failure stay and are not repeated.

    Notes
    -----
    Calls that share an SQLite file wait for each other. With a server, do not sync the same
    results folder from two places at once: each would take the other's unfinished runs for
    interrupted ones.
    """
    wanted, store = target.read(), target.store
    with using(store):
        return _write(target, wanted, store)


def rebuild(target: Target) -> tuple[SyncReport, Path | None]:
    """Log the runs of a results folder anew, superseded ones left out.

    A missing or damaged SQLite store, or one of another schema version, is made anew; the old file
    is put aside and never deleted. In a usable store the runs of this folder are deleted first, as
    MLflow deletes: they stay in its bin.

    Returns
    -------
    report : SyncReport
        As of `sync`.
    aside : Path or None
        The file that could not be used, under its new name.
    """
    wanted, store = target.read(), target.store
    with using(store):
        aside = None
        if find_damage(store, target.experiment) is not None and store.database is not None:
            aside = put_aside(store.database)
        else:
            client = connect(store)
            experiment_id = find_experiment(client, target.experiment, store)
            if experiment_id is not None:
                for found in find_runs(client, experiment_id, target.folder_name, all_states=True):
                    client.delete_run(found.info.run_id)
        return _write(target, wanted, store), aside


def verify(target: Target) -> tuple[int, dict[str, str]]:
    """Compare a store with the results; nothing is written.

    Returns
    -------
    n_runs : int
        How many runs the results describe.
    drift : dict
        Name of a run -> what is wrong with it; empty where store and results agree.

    Raises
    ------
    TrackingError
        If the results or the store cannot be read, or there is no store.
    """
    wanted, store = target.read(), target.store
    if not store.exists():
        raise TrackingError(
            f"there is no MLflow store {store.shown}: `python -m lantk mlflow sync --results"
            f" {shlex.quote(str(target.results))}` makes it"
        )
    with using(store):
        client = connect(store)
        experiment_id = find_experiment(client, target.experiment, store)
        existing = []
        if experiment_id is not None:
            existing = find_runs(client, experiment_id, target.folder_name, all_states=False)
        return len(wanted), find_drift(client, existing, wanted)


def _write(target: Target, wanted: list[LoggedRun], store: Store) -> SyncReport:
    client = connect(store)
    experiment_id = make_experiment(client, target.experiment, store)
    counts = dict.fromkeys(_COUNTS, 0)
    existing: dict[str, list[Any]] = defaultdict(list)
    for found in find_runs(client, experiment_id, target.folder_name, all_states=False):
        if "fingerprint" in found.data.tags:
            existing[found.data.tags["identity"]].append(found)
        else:
            client.delete_run(found.info.run_id)
            counts["interrupted"] += 1

    run_ids: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for run in wanted:
        run_id = _write_run(client, experiment_id, run, existing.pop(run.identity, []), counts)
        if run.run.status == "FAILED":
            counts["failed"] += 1  # a comparison shows what all its runs have: not this one
        else:
            run_ids[run.run.case] += (run_id,)
    # What is left was logged for a case, variant or seed that the results no longer have.
    for old in (run for runs_left in existing.values() for run in runs_left):
        mark_superseded(client, old, None)
        counts["superseded"] += 1
    base, shared = base_address(store.uri), results_id(target.folder_name)
    for key, view in view_tags(shared).items():
        client.set_experiment_tag(experiment_id, key, view)
    return SyncReport(
        **counts,
        experiment=target.experiment,
        experiment_id=experiment_id,
        uri=store.shown,
        run_ids=dict(run_ids),
        links=links(base, experiment_id, shared, run_ids),
    )


def _write_run(
    client: Any, experiment_id: str, run: LoggedRun, earlier: list[Any], counts: dict[str, int]
) -> str:
    """Make sure that one run is there, and only once, and return its id."""
    fingerprint = run.run.fingerprint
    same = [found for found in earlier if found.data.tags["fingerprint"] == fingerprint]
    if same:
        run_id = str(same[0].info.run_id)
        counts["unchanged"] += 1
        counts["updated"] += bring_up_to_date(client, same[0], run)
    else:
        run_id = log_run(client, experiment_id, run)
        counts["created"] += 1
    # Only after the new run is whole: an interrupt in between is mended by the next call.
    for old in earlier:
        if old.info.run_id != run_id:
            mark_superseded(client, old, run_id)
            counts["superseded"] += 1
    return run_id
