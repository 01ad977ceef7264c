"""An MLflow store: where it is, who writes to it, and what is wrong when it cannot be used.

``mlflow`` takes seconds to import, so it is imported inside the functions that need it.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from lantk.experiment.passwords import (
    DATABASES,
    find_passwords,
    store_fault,
    without_password,
    without_passwords,
)
from lantk.files import expand_address, lock_within, writing
from lantk.tracking.run import TrackingError

# Module that a database needs -> the package that brings it, where that has another name.
_PACKAGES = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_LOCK_TIMEOUT_SECONDS = 600.0
# Files that SQLite keeps beside its own while it is at work.
_SIDECARS = ("-journal", "-wal", "-shm")


class MovedStoreError(TrackingError):
    """A store whose files lie elsewhere, because it was moved or copied."""


@dataclass(frozen=True)
class Store:
    """Where runs go."""

    uri: str
    """May hold a password: see `shown`."""
    database: Path | None = None
    """The file, if it is SQLite."""
    artifacts: Path | None = None
    """Where files of a new experiment go; a server decides for itself."""

    @property
    def shown(self) -> str:
        """The address without password, for messages and files."""
        return without_password(self.uri)

    def exists(self) -> bool:
        """Return whether there may be runs: a file of SQLite is there only after the first sync."""
        return self.database is None or (
            self.database.exists() and self.database.stat().st_size > 0
        )


def locate_store(results: Path, uri: str | None) -> Store:
    """Return the store for a results folder, an absolute path.

    Without `uri` it is ``MLFLOW_TRACKING_URI``; without that, ``mlflow.db`` beside the folder.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    fault = store_fault(uri) if uri else None
    if fault is not None:
        raise TrackingError(
            f"the address of the runs (tracking.uri or MLFLOW_TRACKING_URI) {fault}"
        )
    uri = expand_address(uri) if uri else None
    scheme = re.split("[:+]", uri)[0] if uri else "sqlite"
    if scheme != "sqlite":
        # Into a database the client itself says where artifacts go.
        beside = results.with_name("mlflow-artifacts") if scheme in DATABASES else None
        return Store(str(uri), artifacts=beside)
    if uri is None:
        database, query = results.with_name("mlflow.db"), ""
    else:
        text, _, query = uri.partition("://")[2].removeprefix("/").partition("?")
        is_quoted = "uri=true" in query
        database = Path(unquote(text.removeprefix("file:")) if is_quoted else text).absolute()
    location = str(uri) if query else _sqlite_uri(database)
    return Store(location, database, database.with_name("mlflow-artifacts"))


def _sqlite_uri(database: Path) -> str:
    if "?" not in str(database):
        return f"sqlite:///{database}"
    # A question mark starts the query. SQLite's own URI can quote it; the driver is named because
    # MLflow would otherwise make a folder called "file:" in the working directory.
    return f"sqlite+pysqlite:///file:{quote(str(database))}?uri=true"


@contextmanager
def using(store: Store) -> Iterator[None]:
    """Be the one who works with a store, quietly; what fails becomes one clear `TrackingError`."""
    _import_quiet_mlflow()
    with _reporting_failures(store), _locked(store.database):
        yield


def connect(store: Store) -> Any:
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
            if not store.exists():
                # Under another name first: the dozens of migrations happen wholly or not at all.
                with writing(store.database) as unfinished:
                    MlflowClient(_sqlite_uri(unfinished)).search_experiments(max_results=1)
            _check_opens(store.database)
        elif store.artifacts is not None:
            _check_answers(store.uri)
        client = MlflowClient(store.uri, registry_uri=store.uri)
        client.search_experiments(max_results=1)
    return client


def _check_opens(database: Path) -> None:
    """Open the file once: where that fails, MLflow would try for minutes before it says so."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


def _check_answers(uri: str) -> None:
    """Connect to a database once, for the same reason."""
    from sqlalchemy import NullPool, create_engine

    create_engine(uri, poolclass=NullPool).connect().close()


def find_experiment(client: Any, name: str, store: Store) -> str | None:
    """Return the id of an experiment, or None where there is none; its files have to be here."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the experiment {name!r} (id {found.experiment_id}) was deleted in the store. Restore"
            f" it with `mlflow experiments restore -x {found.experiment_id}`, or choose another"
            " name for `tracking.experiment`"
        )
    folder, wanted = Path(unquote(urlsplit(found.artifact_location).path)), store.artifacts
    if store.database and wanted and folder != wanted and folder.name == wanted.name:
        raise MovedStoreError(
            f"{store.database} was moved or copied: its experiment {name!r} keeps files in"
            f" {folder}, wanted {wanted}. Move it back, or log the runs anew:"
            " `python -m lantk mlflow rebuild --results ...` puts it aside"
        )
    return str(found.experiment_id)


def make_experiment(client: Any, name: str, store: Store) -> str:
    """Return the id of an experiment, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    found = find_experiment(client, name, store)
    if found is None:
        try:
            location = store.artifacts.as_uri() if store.artifacts else None
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = find_experiment(client, name, store)  # another process was faster
    return str(found)


def is_damaged(store: Store, experiment: str) -> bool:
    """Return whether an SQLite store cannot be used and never will be.

    A full disk, a missing permission or a server out of reach are no damage, and raise.
    """
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException

    if store.database is None or not store.exists():
        return False
    try:
        with closing(sqlite3.connect(store.database)) as connection:
            (first,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if first == "ok":
            find_experiment(connect(store), experiment, store)
    except sqlite3.OperationalError:
        raise  # locked, not readable, a folder
    except (sqlite3.DatabaseError, MovedStoreError, CommandError):
        return True
    except MlflowException as error:
        if "schema" not in str(error):
            raise
        return True
    return bool(first != "ok")


def put_aside(database: Path) -> Path:
    """Rename an SQLite file to a name that says when, and return that; nothing is deleted."""
    stamp = time.strftime("%Y-%m-%dT%H%M%S")
    aside = database.with_name(f"{database.name}.unusable-{stamp}")
    for ending in ("", *_SIDECARS):
        old = database.with_name(database.name + ending)
        if old.exists():
            old.rename(aside.with_name(aside.name + ending))
    return aside


@contextmanager
def _locked(database: Path | None) -> Iterator[None]:
    """Hold the lock beside an SQLite file; the system frees it when the process ends."""
    if database is None:
        yield
        return
    lock = database.with_name(f".{database.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        if not lock_within(file.fileno(), _LOCK_TIMEOUT_SECONDS):
            raise TrackingError(
                f"another process has held {lock} for {_LOCK_TIMEOUT_SECONDS:.0f} s. See whether a"
                " workflow hangs or is stopped there, end it, and sync again"
            )
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


def _import_quiet_mlflow() -> None:
    """Import MLflow without telemetry; keep its progress notes and links off the terminal."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow  # noqa: F401  sets up its loggers on import

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _reporting_failures(store: Store) -> Iterator[None]:
    """Turn what MLflow, SQLAlchemy, Alembic and the system raise into one clear `TrackingError`."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    expected = (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError, ImportError)
    try:
        yield
    except expected as error:
        # Hidden first: what is left of a password that was cut would not be found.
        text = f"{type(error).__name__}: {without_passwords(str(error), store.uri)}"
        message = (
            f"the MLflow store {store.shown} cannot be used: {' '.join(text.split())[:600]}. The"
            f" results are untouched. {_advice(store, error)}"
        )
        # The cause may hold a password, and a traceback would show it.
        cause = None if find_passwords(store.uri) else error
        raise TrackingError(message) from cause


def _advice(store: Store, error: BaseException) -> str:
    if store.database is not None:
        return (
            "Look for a full disk, missing permissions, or a store of another MLflow version"
            f" (`mlflow db upgrade {shlex.quote(store.uri)}`). If nothing helps, `python -m lantk"
            f" mlflow rebuild --results ...` puts {store.database.name} aside and logs the"
            " runs of this results folder again"
        )
    if isinstance(error, ImportError) and error.name:
        module = error.name.partition(".")[0]
        return (
            f"Install the driver of the database, `pip install {_PACKAGES.get(module, module)}`,"
            " and sync again"
        )
    said = f"{getattr(error, 'error_code', '')} {error}"
    if re.search("UNAUTHENTICATED|PERMISSION_DENIED|error code 40[13]", said):
        return (
            "The server does not let this user in: set MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) in the environment, and sync"
            " again"
        )
    return (
        "Start the server, or correct `tracking.uri` (or MLFLOW_TRACKING_URI), and sync again;"
        " without either, runs go to a file beside the results"
    )
