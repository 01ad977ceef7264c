"""MLflow: writes a results folder into a tracking store, one run per (case, variant, seed).

The files are the truth and the store is a view of them. `read_runs` reads the files, `sync` makes
the store agree with them, however often it is called: a run that is there with the same content is
left alone; one whose content changed is logged anew and the old one marked superseded; one that an
interrupt left unfinished is removed and logged again. A deleted store is rebuilt by the next call.

What makes two runs the same is a fingerprint of parameters, metrics, curves, predictions and the
digests of data and code, without times. It is the last thing written to a run, so a run without a
fingerprint is an unfinished one. Runs are never resumed.

``mlflow`` takes seconds to import, so it is imported inside the functions that need it, and nowhere
else in the package.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from lantk.runs import Run, TrackingError, read_runs, text_digest
from lantk.storage import writing

# Schemes of stores that this process opens itself: here the client says where artifacts go.
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# Limits of MLflow: a batch holds 1,000 things, 100 of them parameters; lengths in characters.
_PARAMS_PER_BATCH, _METRICS_PER_BATCH, _RUNS_PER_PAGE = 100, 900, 1000
_PARAM_LENGTH, _DIGEST_LENGTH = 6000, 36
_LOCK_TIMEOUT_SECONDS = 600.0
_DASHBOARD = "http://127.0.0.1:5000"


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did and where the runs are."""

    created: int
    unchanged: int
    superseded: int
    interrupted: int
    """Unfinished runs of an earlier call that were removed."""
    experiment: str
    experiment_id: str
    uri: str
    run_ids: Mapping[str, tuple[str, ...]]
    """Case -> ids of its current runs."""
    links: Mapping[str, str]
    """What is shown -> address in the dashboard."""


def sync(
    results: Path,
    *,
    uri: str | None = None,
    experiment: str = "lantk",
    config: Mapping[str, Any],
) -> SyncReport:
    """Make an MLflow store agree with a results folder.

    Parameters
    ----------
    results : Path
        The results folder; it is only read.
    uri : str, optional
        Tracking store: ``http://...`` for a server, ``sqlite:////absolute/path`` for a file. If
        absent, the environment variable ``MLFLOW_TRACKING_URI``; if that is absent too, the file
        ``mlflow.db`` beside the results folder, with artifacts in ``mlflow-artifacts`` there.
    experiment : str
        Name of the MLflow experiment; made if it is not there.
    config : mapping
        The configuration. Its text ``results`` names the folder, so a run is found again after the
        folder was moved; ``cnn.seeds`` are the networks that belong to it, ``permutations`` the
        number of label permutations.

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
    results = Path(results).resolve()
    seeds, permutations = (config.get("cnn") or {}).get("seeds"), config.get("permutations")
    runs = read_runs(results, seeds=seeds, permutations=permutations)
    folder_name = str(config.get("results") or results)
    store = _locate_store(results, uri)
    # What is logged and reported names the store, but never its password.
    config_text = json.dumps(config, indent=2, sort_keys=True, default=str)
    config_text = _without_password(config_text, store.uri)
    with _quiet_mlflow(), _reporting_failures(store), _locked(store.database):
        client = _connect(store)
        experiment_id = _experiment_id(client, experiment, store)
        counts, run_ids = _sync_runs(client, experiment_id, runs, folder_name, config_text)
    return SyncReport(
        **counts,
        experiment=experiment,
        experiment_id=experiment_id,
        uri=_without_password(store.uri, store.uri),
        run_ids=run_ids,
        links=_links(store.uri, experiment_id, text_digest(folder_name, 16), run_ids),
    )


def _sync_runs(
    client: Any,
    experiment_id: str,
    runs: Sequence[Run],
    folder_name: str,
    config_text: str,
) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Return how many runs were treated how, and the current run ids of each case."""
    tags = {"results": folder_name, "results_id": text_digest(folder_name, 16)}
    tags["config"] = text_digest(config_text, 16)
    counts = dict.fromkeys(("created", "unchanged", "superseded", "interrupted"), 0)
    existing: dict[str, list[Any]] = defaultdict(list)
    for found in _find_runs(client, experiment_id, tags["results_id"]):
        if "fingerprint" in found.data.tags:
            existing[found.data.tags["identity"]].append(found)
        else:
            client.delete_run(found.info.run_id)
            counts["interrupted"] += 1

    run_ids: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for run in runs:
        identity = text_digest([folder_name, run.case, run.variant, run.seed], 16)
        earlier = existing.pop(identity, [])
        same = [r for r in earlier if r.data.tags["fingerprint"] == run.fingerprint]
        if same:
            run_id = same[0].info.run_id
            counts["unchanged"] += 1
        else:
            run_id = _log_run(
                client, experiment_id, run, tags | {"identity": identity}, config_text
            )
            counts["created"] += 1
        # Only after the new run is whole: an interrupt in between is mended by the next call.
        for old in earlier:
            if old.info.run_id != run_id:
                _mark_superseded(client, old, run_id)
                counts["superseded"] += 1
        run_ids[run.case] += (run_id,)
    # What is left was logged for a case, variant or seed that the results no longer have.
    for old in (run for runs_left in existing.values() for run in runs_left):
        _mark_superseded(client, old, None)
        counts["superseded"] += 1
    return counts, dict(run_ids)


def _find_runs(client: Any, experiment_id: str, results_id: str) -> list[Any]:
    """Return the runs of one results folder, unfinished ones included, superseded ones not."""
    wanted = f"tags.results_id = '{results_id}' and tags.state != 'superseded'"
    runs, token = [], None
    while True:
        page = client.search_runs(
            [experiment_id], wanted, max_results=_RUNS_PER_PAGE, page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _log_run(
    client: Any, experiment_id: str, run: Run, tags: Mapping[str, str], config_text: str
) -> str:
    from mlflow.entities import Metric, Param

    end = round(run.ended * 1000)
    created = client.create_run(
        experiment_id,
        start_time=end - round(run.seconds * 1000),
        run_name=run.name,
        tags={
            **run.tags,
            **tags,
            "state": "current",
            "mlflow.source.name": "lantk",
            "mlflow.source.git.commit": run.tags["commit"],
        },
    )
    run_id = str(created.info.run_id)
    params = [Param(k, _param_text(v)) for k, v in run.params.items()]
    metrics = [Metric(k, v, end, 0) for k, v in run.metrics.items()]
    metrics += [Metric(k, v, end, step) for k, curve in run.curves.items() for step, v in curve]
    for some_metrics, some_params in zip_longest(
        _batches(metrics, _METRICS_PER_BATCH), _batches(params, _PARAMS_PER_BATCH), fillvalue=()
    ):
        client.log_batch(run_id, some_metrics, some_params, synchronous=True)
    client.log_inputs(run_id, datasets=[_dataset_input(run)])
    _log_artifacts(client, run_id, run, config_text)
    client.set_terminated(run_id, "FINISHED", end_time=end)
    client.set_tag(run_id, "fingerprint", run.fingerprint)
    return run_id


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _param_text(value: Any) -> str:
    text = str(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)
    return text[:_PARAM_LENGTH]


def _dataset_input(run: Run) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=f"{run.data['source']} {run.task}",
        digest=run.data["digest"][:_DIGEST_LENGTH],
        source_type="lantk",
        source=json.dumps(dict(run.data)),
        profile=json.dumps({key: run.params[key] for key in ("n_train", "n_test")}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "train and test")])


def _log_artifacts(client: Any, run_id: str, run: Run, config_text: str) -> None:
    with tempfile.TemporaryDirectory(prefix="lantk-") as folder:
        for name, path in run.artifacts.items():
            shutil.copyfile(path, Path(folder, name))
        provenance = json.dumps(run.provenance, indent=2, sort_keys=True, default=str)
        for name, text in (("config.json", config_text), ("provenance.json", provenance)):
            Path(folder, name).write_text(text + "\n", encoding="utf-8")
        client.log_artifacts(run_id, folder)


def _mark_superseded(client: Any, old: Any, run_id: str | None) -> None:
    from mlflow.entities import RunTag

    old_id, mark = old.info.run_id, " (superseded)"
    client.update_run(old_id, name=old.info.run_name.removesuffix(mark) + mark)
    note = "No longer part of the results on disk."
    if run_id is not None:
        note = f"Superseded by run {run_id}: the results on disk changed."
    tags = {"superseded_by": run_id or "", "mlflow.note.content": note, "state": "superseded"}
    client.log_batch(old_id, tags=[RunTag(k, v) for k, v in tags.items()], synchronous=True)


@dataclass(frozen=True)
class _Store:
    uri: str
    database: Path | None = None
    """The file, if it is SQLite."""
    artifacts: Path | None = None
    """Where files of a new experiment go; a server decides for itself."""


def _locate_store(results: Path, uri: str | None) -> _Store:
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    scheme = urlsplit(uri).scheme.split("+")[0] if uri else "sqlite"
    if scheme != "sqlite":
        beside = results.with_name("mlflow-artifacts") if scheme in _DATABASES else None
        return _Store(str(uri), artifacts=beside)
    if uri is None:
        database, query = results.with_name("mlflow.db"), ""
    else:
        text, _, query = uri.partition("://")[2].removeprefix("/").partition("?")
        if text in ("", ":memory:"):
            raise TrackingError(
                f"{uri} keeps the runs in memory, where they end with this process: wanted"
                " sqlite:////absolute/path/mlflow.db"
            )
        is_quoted = "uri=true" in query
        database = Path(unquote(text.removeprefix("file:")) if is_quoted else text).absolute()
    location = str(uri) if query else _sqlite_uri(database)
    return _Store(location, database, database.with_name("mlflow-artifacts"))


def _sqlite_uri(database: Path) -> str:
    if "?" not in str(database):
        return f"sqlite:///{database}"
    # A question mark starts the query. SQLite's own URI can quote it; the driver is named because
    # MLflow would otherwise make a folder called "file:" in the working directory.
    return f"sqlite+pysqlite:///file:{quote(str(database))}?uri=true"


def _connect(store: _Store) -> Any:
    """Return a client of a store that answers; a missing SQLite file is made first."""
    from mlflow.tracking import MlflowClient

    if store.database is None:
        # One short try to see whether anyone is there; logging itself is as patient as MLflow is.
        settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    else:
        # Without a pool no handle outlives a call, so a file that was replaced is noticed.
        settings = {"MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool"}
    with _environment(settings):
        if store.database is not None:
            if not store.database.exists() or store.database.stat().st_size == 0:
                # Under another name first: the dozens of migrations happen wholly or not at all.
                with writing(store.database) as unfinished:
                    MlflowClient(_sqlite_uri(unfinished)).search_experiments(max_results=1)
            _check_opens(store.database)
        client = MlflowClient(store.uri, registry_uri=store.uri)
        client.search_experiments(max_results=1)
    return client


def _check_opens(database: Path) -> None:
    """Open the file once: where that fails, MLflow would try for minutes before it says so."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


def _experiment_id(client: Any, name: str, store: _Store) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        from mlflow.exceptions import MlflowException

        try:
            location = store.artifacts.as_uri() if store.artifacts else None
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the experiment {name!r} (id {found.experiment_id}) was deleted in the store. Restore"
            f" it with `mlflow experiments restore -x {found.experiment_id}`, or choose another"
            " name for `tracking.experiment`"
        )
    folder, wanted = Path(unquote(urlsplit(found.artifact_location).path)), store.artifacts
    if store.database and wanted and folder != wanted and folder.name == wanted.name:
        raise TrackingError(
            f"{store.database} was moved or copied: its experiment {name!r} keeps files in"
            f" {folder}, wanted {wanted}. Move it back, or move {store.database.name} away: the"
            " next sync logs the runs of this results folder again"
        )
    return str(found.experiment_id)


@contextmanager
def _locked(database: Path | None) -> Iterator[None]:
    """Hold the lock beside an SQLite file; the system frees it when the process ends."""
    if database is None:
        yield
        return
    lock = database.with_name(f".{database.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrackingError(
                        f"another process has held {lock} for {_LOCK_TIMEOUT_SECONDS:.0f} s. See"
                        " whether a workflow hangs or is stopped there, end it, and sync again"
                    ) from None
                time.sleep(0.1)
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set what the user has not set, for the length of a block."""
    added = [key for key in values if key not in os.environ]
    os.environ.update({key: values[key] for key in added})
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Import MLflow without telemetry; keep its progress notes and links off the terminal."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # noqa: F401  sets up its loggers on import

    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with _environment({"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _reporting_failures(store: _Store) -> Iterator[None]:
    """Turn what MLflow, SQLAlchemy, Alembic and the system raise into one clear `TrackingError`."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    expected = (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError, ImportError)
    try:
        yield
    except expected as error:
        if store.database is not None:
            advice = (
                "Look for a full disk, missing permissions, or a store of another MLflow version"
                f" (`mlflow db upgrade {shlex.quote(store.uri)}`). If nothing helps, move"
                f" {store.database.name} away: the next sync logs the runs of this results folder"
                " again"
            )
        else:
            advice = (
                "Start the server, or correct `tracking.uri` (or MLFLOW_TRACKING_URI), and sync"
                " again; without either, runs go to a file beside the results"
            )
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        message = (
            f"the MLflow store {store.uri} cannot be used: {cause}. The results are untouched."
        )
        raise TrackingError(_without_password(f"{message} {advice}", store.uri)) from error


def _without_password(text: str, uri: str) -> str:
    return text.replace(f":{urlsplit(uri).password}@", ":***@")


def _links(
    uri: str, experiment_id: str, results_id: str, run_ids: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    is_server = uri.startswith(("http://", "https://"))
    base = uri.rstrip("/") if is_server else _DASHBOARD
    if is_server and "@" in base:
        scheme, _, rest = base.partition("://")
        base = f"{scheme}://{rest.rpartition('@')[2]}"
    # Without this a fresh browser opens its view for language models, which shows no runs.
    view = {"workflowType": "machine_learning"}
    mine = f'tags.state = "current" and tags.results_id = "{results_id}"'
    charts = {"searchFilter": mine, **view, "compareRunsMode": "CHART"}
    address = f"{base}/#/experiments/{experiment_id}/runs?{urlencode(charts, quote_via=quote)}"
    links = {"all runs": address}
    for case, ids in run_ids.items():
        chosen = {"runs": json.dumps(list(ids)), "experiments": json.dumps([experiment_id]), **view}
        links[case] = f"{base}/#/compare-runs?{urlencode(chosen, quote_via=quote)}"
    return links


def dashboard_hint(report: SyncReport) -> str:
    """Return the text that says how to see the runs: the server's command and two links."""
    lines = [
        f"Runs in the MLflow experiment {report.experiment!r}: {report.created} logged,"
        f" {report.unchanged} unchanged, {report.superseded} superseded."
    ]
    if urlsplit(report.uri).scheme.split("+")[0] in _DATABASES:
        lines += [
            "To see them, start the dashboard (Ctrl-C ends it):",
            f"  {_server_command(report.uri)}",
        ]
    lines += ["and open" if len(lines) > 1 else "To see them, open"]
    lines += [f"  all runs as charts: {report.links['all runs']}"]
    case = next(iter(report.run_ids), None)
    if case is not None:
        lines += [f"  {case}, variants compared: {report.links[case]}"]
        others = ", ".join(list(report.run_ids)[1:])
        lines += [f"  the same for {others}: in tracking.json"] if others else []
    return "\n".join(lines)


def _server_command(uri: str) -> str:
    """Return the shell command of a small server: no job processes, one worker, this machine."""
    host, port = _DASHBOARD.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", port, "--workers", "1"]
    settings = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"{settings} {shlex.join(command)}"
