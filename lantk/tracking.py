"""MLflow: writes a results folder into a tracking store, one run per (pair, variant, seed).

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

import csv
import fcntl
import hashlib
import json
import logging
import math
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
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from lantk.storage import writing

# The variant that has rows in table.csv but no evaluation file of its own.
_DERIVED_VARIANT = "lantk-best"
# Metrics that a clock or the machine's load decides: logged, but no part of the fingerprint.
_MEASURED_BY_CLOCK = ("seconds", "peak_memory_mb")
# Schemes of stores that this process opens itself: here the client says where artifacts go.
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# Limits of MLflow: a batch holds 1,000 things, 100 of them parameters; lengths in characters.
_PARAMS_PER_BATCH, _METRICS_PER_BATCH, _RUNS_PER_PAGE = 100, 900, 1000
_PARAM_LENGTH, _DIGEST_LENGTH = 6000, 36
_LOCK_TIMEOUT_SECONDS = 600.0
_DASHBOARD = "http://127.0.0.1:5000"


class TrackingError(RuntimeError):
    """The results could not be read or the store could not be written; results are untouched."""


@dataclass(frozen=True)
class Run:
    """What one MLflow run holds, read from the files of one (pair, variant, seed)."""

    name: str
    pair: str
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
        return _digest(content, 32)


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
    """Pair -> ids of its current runs."""
    links: Mapping[str, str]
    """What is shown -> address in the dashboard."""


def read_runs(results: Path, *, first_seed: int | None = None) -> list[Run]:
    """Return the runs that the files under `results` describe, by pair, variant and seed.

    Parameters
    ----------
    results : Path
        The folder with ``evaluations/PAIR/*.json`` and, usually, ``table.csv``. An evaluation that
        the table does not list is left over from an earlier configuration and is not read.
    first_seed : int, optional
        The network whose predictions the table's p-value belongs to; the smallest seed if absent.

    Raises
    ------
    TrackingError
        If there is no evaluation, or a file is not what it should be.
    """
    table = _read_table(results / "table.csv")
    evaluations = {path: _read_json(path) for path in _evaluation_files(results)}
    if first_seed is None:
        seeds = (evaluation.get("seed") for evaluation in evaluations.values())
        first_seed = min((seed for seed in seeds if seed is not None), default=None)
    runs = []
    for path, evaluation in evaluations.items():
        try:
            key = (evaluation["pair"], evaluation["variant"])
            if table and key not in table:
                continue
            is_tested = evaluation["seed"] in (None, first_seed)
            rows = table.get(key, {}) if is_tested else {}
            runs.append(_run_from_evaluation(results, path, evaluation, rows))
        except (KeyError, TypeError, AttributeError) as error:
            raise TrackingError(
                f"{path} is not an evaluation: {error!r}. Delete it and run the workflow again"
            ) from error
    if not runs:
        raise TrackingError(
            f"no evaluation found in {results}: wanted evaluations/PAIR/VARIANT.json"
            + (" that table.csv lists" if table else "")
            + ". Run the workflow first, or check `results` in the configuration"
        )
    first = {run.pair: run for run in reversed(runs)}
    for (pair, variant), rows in table.items():
        if variant == _DERIVED_VARIANT and pair in first:
            runs.append(_run_from_table(results, variant, rows, first[pair]))
    return sorted(runs, key=lambda run: (run.pair, run.variant, run.seed or 0))


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


def _read_table(path: Path) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Return (pair, variant) -> protocol -> row; nothing if there is no table."""
    table: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                table[row["pair"], row["variant"]][row["protocol"]] = row
    return dict(table)


def _run_from_evaluation(
    results: Path,
    path: Path,
    evaluation: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
) -> Run:
    pair, variant, seed = evaluation["pair"], evaluation["variant"], evaluation["seed"]
    metrics: dict[str, Any] = dict(evaluation.get("diagnostics") or {})
    for protocol, values in evaluation["protocols"].items():
        # What validation saw belongs to the honest choice; the oracle makes no use of it.
        metrics |= {f"{k}_{protocol}": v for k, v in values.items() if k != "validation_accuracy"}
        if protocol == "honest":
            metrics["validation_accuracy"] = values.get("validation_accuracy")
        metrics[f"p_value_{protocol}"] = rows.get(protocol, {}).get("p_value")
    provenance = evaluation.get("provenance") or {}
    files = {
        "evaluation.json": path,
        "predictions.csv": path.with_suffix(".csv"),
        "figure.png": results / "figures" / f"{pair}.png",
        "table.md": results / "table.md",
    }
    return Run(
        name=f"{pair} {variant}" + ("" if seed is None else f" seed {seed}"),
        pair=pair,
        variant=variant,
        seed=seed,
        params={
            **{k: v for k, v in (evaluation.get("settings") or {}).items() if v is not None},
            "n_train": evaluation["n_train"],
            "n_test": evaluation["n_test"],
            "architecture": evaluation["architecture"]["digest"],
        },
        metrics=_finite(metrics),
        curves=_curves(evaluation.get("curve") or []),
        tags={
            "pair": pair,
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
    wanted = ("accuracy", "ci_low", "ci_high", "p_value", "label_weight")
    metrics = {f"{key}_{protocol}": row[key] for protocol, row in rows.items() for key in wanted}
    shared = ("n_train", "n_test", "architecture")
    without = ("evaluation.json", "predictions.csv")
    return Run(
        name=f"{sibling.pair} {variant}",
        pair=sibling.pair,
        variant=variant,
        seed=None,
        params={key: sibling.params[key] for key in shared},
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


def _digest(content: Any, length: int) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


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
        folder was moved; ``cnn.seeds[0]`` is the network that the table's p-values are about.

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
    seeds = (config.get("cnn") or {}).get("seeds") or [None]
    runs = read_runs(results, first_seed=seeds[0])
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
        links=_links(store.uri, experiment_id, run_ids),
    )


def _sync_runs(
    client: Any,
    experiment_id: str,
    runs: Sequence[Run],
    folder_name: str,
    config_text: str,
) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Return how many runs were treated how, and the current run ids of each pair."""
    tags = {"results": folder_name, "results_id": _digest(folder_name, 16)}
    tags["config"] = _digest(config_text, 16)
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
        identity = _digest([folder_name, run.pair, run.variant, run.seed], 16)
        same = [r for r in existing[identity] if r.data.tags["fingerprint"] == run.fingerprint]
        if same:
            run_id = same[0].info.run_id
            counts["unchanged"] += 1
        else:
            run_id = _log_run(
                client, experiment_id, run, tags | {"identity": identity}, config_text
            )
            counts["created"] += 1
        # Only after the new run is whole: an interrupt in between is mended by the next call.
        for old in existing[identity]:
            if old.info.run_id != run_id:
                _mark_superseded(client, old, run_id)
                counts["superseded"] += 1
        run_ids[run.pair] += (run_id,)
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
        name=f"{run.data['source']} {run.pair}",
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


def _mark_superseded(client: Any, old: Any, run_id: str) -> None:
    from mlflow.entities import RunTag

    old_id, mark = old.info.run_id, " (superseded)"
    client.update_run(old_id, name=old.info.run_name.removesuffix(mark) + mark)
    tags = {
        "superseded_by": run_id,
        "mlflow.note.content": f"Superseded by run {run_id}: the results on disk changed.",
        "state": "superseded",
    }
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


def _links(uri: str, experiment_id: str, run_ids: Mapping[str, Sequence[str]]) -> dict[str, str]:
    is_server = uri.startswith(("http://", "https://"))
    base = uri.rstrip("/") if is_server else _DASHBOARD
    if is_server and "@" in base:
        scheme, _, rest = base.partition("://")
        base = f"{scheme}://{rest.rpartition('@')[2]}"
    # Without this a fresh browser opens its view for language models, which shows no runs.
    view = {"workflowType": "machine_learning"}
    charts = {"searchFilter": 'tags.state = "current"', **view, "compareRunsMode": "CHART"}
    address = f"{base}/#/experiments/{experiment_id}/runs?{urlencode(charts, quote_via=quote)}"
    links = {"all runs": address}
    for pair, ids in run_ids.items():
        chosen = {"runs": json.dumps(list(ids)), "experiments": json.dumps([experiment_id]), **view}
        links[pair] = f"{base}/#/compare-runs?{urlencode(chosen, quote_via=quote)}"
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
    pair = next(iter(report.run_ids), None)
    if pair is not None:
        lines += [f"  {pair}, variants compared: {report.links[pair]}"]
    return "\n".join(lines)


def _server_command(uri: str) -> str:
    """Return the shell command of a small server: no job processes, one worker, this machine."""
    host, port = _DASHBOARD.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", port, "--workers", "1"]
    settings = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"{settings} {shlex.join(command)}"
