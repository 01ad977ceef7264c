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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lantk.experiment.passwords import find_passwords
from lantk.experiment.records import Listing
from lantk.experiment.settings import EXPERIMENT_NAME_LENGTH
from lantk.tracking.check import find_drift
from lantk.tracking.dashboard import base_address, links
from lantk.tracking.logged import (
    LoggedRun,
    bring_up_to_date,
    find_runs,
    log_run,
    mark_superseded,
    match_runs,
    results_id,
)
from lantk.tracking.reading import read_runs
from lantk.tracking.run import TrackingError
from lantk.tracking.store import (
    Store,
    connect,
    find_experiment,
    is_damaged,
    locate_store,
    make_experiment,
    put_aside,
    using,
)
from lantk.tracking.views import view_tags

# Bytes of table and configuration up to which every run has a copy; beyond, one run of each case.
_MOST_COPIED = 2**17
_NOT_IN_RESULTS = "No longer part of the results on disk."
_NOT_FAILED = "The job is no longer one that failed."


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
    experiment: str | None = None
    """Name of the MLflow experiment, which is made if it is not there; if absent, that of the
    results folder."""

    @property
    def folder_name(self) -> str:
        """The results folder as runs name it."""
        return str(self.config.get("results") or self.results.resolve())

    @property
    def store(self) -> Store:
        """Where the runs go."""
        return locate_store(self.results.resolve(), self.uri)

    @property
    def experiment_name(self) -> str:
        """Name of the MLflow experiment: where none is given, no two folders of a store share it.

        Beside the store it is that of the folder; elsewhere the path, without ``results/``.
        """
        if self.experiment:
            return self.experiment
        path = Path(self.folder_name)
        if self.store.database == self.results.resolve().with_name("mlflow.db"):
            path = Path(path.name)
        elif path.parts[:1] == ("results",) and len(path.parts) > 1:
            path = path.relative_to("results")
        return str(path)[-EXPERIMENT_NAME_LENGTH:]

    @property
    def sync_command(self) -> str:
        """What logs these results again, in a shell."""
        return f"python -m lantk mlflow sync --results {shlex.quote(str(self.results))}"

    def existing_store(self) -> Store:
        """Return where the runs are; raise where nothing was logged yet."""
        if not self.store.exists():
            raise TrackingError(
                f"there is no MLflow store {self.store.shown}: `{self.sync_command}` makes it"
            )
        return self.store

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
        results = self.results.resolve()
        config_text = json.dumps(self.config, indent=2, sort_keys=True, default=str)
        runs = read_runs(results, self.listing)
        # Both grow with the number of runs, so that copies in all would grow with its square.
        table = results / "table.md"
        is_large = table.exists() and table.stat().st_size + len(config_text) > _MOST_COPIED
        keepers = {
            run.case: run.name for run in reversed(runs) if is_large and "table.md" in run.artifacts
        }
        return [
            LoggedRun(run, self.folder_name, config_text, keepers.get(run.case)) for run in runs
        ]


@dataclass
class SyncReport:
    """What `sync` did and where the runs are."""

    experiment_id: str
    uri: str
    """Without password."""
    run_ids: dict[str, list[str]]
    """Case -> ids of its current runs that did not fail."""
    links: Mapping[str, str] = field(default_factory=dict)
    """What is shown -> address in the dashboard."""
    created: int = 0
    unchanged: int = 0
    updated: int = 0
    """Of the unchanged, those whose tags or files were brought up to date."""
    superseded: int = 0
    interrupted: int = 0
    """Unfinished runs of an earlier call that were removed."""
    failed: int = 0
    """Of all current runs, those of results that are missing because a job failed."""

    @property
    def counts(self) -> dict[str, int]:
        """How many runs were treated how."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


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

    Returns what `sync` does, and the file that could not be used under its new name, if any.
    """
    wanted, store = target.read(), target.store
    with using(store):
        aside = None
        if store.database is not None and is_damaged(store, target.experiment_name):
            aside = put_aside(store.database)
        else:
            client = connect(store)
            for found in _find_runs(client, target, all_states=True):
                client.delete_run(found.info.run_id)
        return _write(target, wanted, store), aside


def verify(target: Target) -> tuple[int, dict[str, str]]:
    """Compare a store with the results; nothing is written.

    Returns how many runs the results describe, and name of a run -> what is wrong with it.
    """
    wanted, store = target.read(), target.existing_store()
    with using(store):
        client = connect(store)
        existing = _find_runs(client, target, all_states=False)
        return len(wanted), find_drift(client, existing, wanted)


def _find_runs(client: Any, target: Target, *, all_states: bool) -> list[Any]:
    experiment_id = find_experiment(client, target.experiment_name, target.store)
    if experiment_id is None:
        return []
    return find_runs(client, experiment_id, target.folder_name, all_states=all_states)


def _write(target: Target, wanted: list[LoggedRun], store: Store) -> SyncReport:
    client = connect(store)
    experiment_id = make_experiment(client, target.experiment_name, store)
    existing = find_runs(client, experiment_id, target.folder_name, all_states=False)
    pairs, unfinished, others = match_runs(existing, wanted)
    report = SyncReport(experiment_id, store.shown, defaultdict(list))
    for found in unfinished:
        client.delete_run(found.info.run_id)
        report.interrupted += 1
    for run, earlier in pairs:
        run_id = _write_run(client, run, earlier, report)
        if run.run.status == "FAILED":
            report.failed += 1  # a comparison shows what all its runs have: not this one
        else:
            report.run_ids[run.run.case].append(run_id)
    for old in others:
        is_failure = old.info.status == "FAILED"
        mark_superseded(client, old, _NOT_FAILED if is_failure else _NOT_IN_RESULTS)
        report.superseded += 1
    base, shared = base_address(store.uri), results_id(target.folder_name)
    for key, view in view_tags(shared).items():
        client.set_experiment_tag(experiment_id, key, view)
    report.links = links(base, experiment_id, shared, report.run_ids)
    return report


def _write_run(client: Any, run: LoggedRun, earlier: list[Any], report: SyncReport) -> str:
    """Make sure that one run is there, and only once, and return its id."""
    if earlier and earlier[0].data.tags["fingerprint"] == run.run.fingerprint:
        same, *earlier = earlier
        run_id = str(same.info.run_id)
        report.unchanged += 1
        report.updated += bring_up_to_date(client, same, run)
    else:
        run_id = log_run(client, report.experiment_id, run)
        report.created += 1
    # Only after the new run is whole: an interrupt in between is mended by the next call.
    for old in earlier:
        note = f"Superseded by run {run_id}: the results on disk changed."
        mark_superseded(client, old, note, run_id)
        report.superseded += 1
    return run_id
