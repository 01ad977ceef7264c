"""A real PostgreSQL and a real MLflow server: runs arrive there, and no password anywhere else."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from records import make_record, write_record

CASES, VARIANTS = ("3-8",), ("cntk", "lantk-kr-v1", "lantk-kr-v1-shuffled", "cnn")
pytestmark = pytest.mark.rest
NAMES = {
    "3-8 cntk",
    "3-8 lantk-kr-v1",
    "3-8 lantk-kr-v1-shuffled seed 0",
    "3-8 cnn seed 0",
}
# What only an address may hold, and only in its quoted form.
PASSWORD, QUOTED = "sec/ret %@postgres", "sec%2Fret%20%25%40postgres"
ADMIN_PASSWORD = "secret-of-the-admin"


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs; Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else found[-1].parent if found else None


@contextmanager
def process(command: list, **options):
    """Run a program in a group of its own, which is gone afterwards, whatever happened."""
    running = subprocess.Popen(list(map(str, command)), start_new_session=True, **options)
    try:
        yield running
    finally:
        # PostgreSQL and uvicorn both take this as: end now, in order.
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            running.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true"} | variables


@pytest.fixture(scope="module")
def database():
    """Start PostgreSQL for this machine and return the address of an empty database."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: looked for initdb")
    # Not as root, which it refuses, and in a folder that its user may enter.
    options: dict = {}
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
        options = {"user": "postgres", "group": "postgres", "extra_groups": []}
    folder, port = Path(tempfile.mkdtemp(prefix="pg-")), free_port()
    try:
        if options:
            shutil.chown(folder, "postgres", "postgres")
        key = folder / "key"
        key.write_text(PASSWORD)
        key.chmod(0o644)
        making = [programs / "initdb", "-D", folder / "data", "-U", "lantk", "--no-sync"]
        making += ["--auth=scram-sha-256", f"--pwfile={key}"]
        subprocess.run(making, cwd=folder, check=True, capture_output=True, timeout=120, **options)
        serving = [programs / "postgres", "-D", folder / "data", "-k", folder, "-p", port]
        serving += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (
            (folder / "log").open("w") as log,
            process(serving, cwd=folder, stdout=log, stderr=log, **options) as running,
        ):
            wait_for_postgres(port, running, folder / "log")
            yield f"postgresql://lantk:{QUOTED}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_postgres(port: int, running: subprocess.Popen, log: Path) -> None:
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(
                host="127.0.0.1", port=port, user="lantk", password=PASSWORD, dbname="postgres"
            ).close()
            return
        except psycopg2.OperationalError:
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


@contextmanager
def mlflow_server(uri: str, folder: Path, *options: str, **variables: str):
    """Run ``mlflow server`` on this machine, files under a folder, and yield its address."""
    port = free_port()
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    command += ["--workers", 1, "--artifacts-destination", folder / "files", *options]
    variables |= {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (
        (folder / "log").open("w") as log,
        process(
            command, cwd=folder, env=environment(**variables), stdout=log, stderr=log
        ) as running,
    ):
        address, opener = f"http://127.0.0.1:{port}", build_opener(ProxyHandler({}))
        deadline = time.monotonic() + 180
        while True:
            with suppress(URLError, ConnectionError, TimeoutError):
                opener.open(f"{address}/health", timeout=10).close()
                break
            assert running.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield address


@dataclass
class Results:
    """A results folder, and what the verbs said about it."""

    folder: Path
    said: str = ""

    def run(self, verb: str, **variables: str) -> int:
        """Run a verb in an environment that names the store; keep its output."""
        command = [sys.executable, "-m", "lantk", "mlflow", verb, "--results", str(self.folder)]
        if verb == "sync":
            command += ["--cases", *CASES, "--variants", *VARIANTS, "--permutations", "1"]
            command += ["--seeds", "0", "--config", json.dumps({"results": "results/digits"})]
        done = subprocess.run(
            command,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        self.said += done.stdout
        return done.returncode

    @property
    def record(self) -> dict:
        return json.loads((self.folder / "tracking.json").read_text())

    def everything(self) -> str:
        """Return all that was said and all that was written."""
        return self.said + "".join(
            path.read_text(errors="replace") for path in self.folder.rglob("*") if path.is_file()
        )


@pytest.fixture
def results(tmp_path) -> Results:
    """Return the results of four variants."""
    folder = tmp_path / "all" / "digits"
    for i, variant in enumerate(VARIANTS):
        seed = 0 if variant == "cnn" or variant.endswith("shuffled") else None
        write_record(folder, make_record(variant, 0.7 + i / 50, seed=seed))
    return Results(folder)


def read_back(uri: str, results: Results, monkeypatch, **variables: str) -> dict:
    """Return name -> run, and the files of one of them, as MLflow's client reads them."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    client = MlflowClient(uri)
    runs = client.search_runs([results.record["experiment_id"]])
    named = {run.info.run_name: run for run in runs}
    assert set(named) == NAMES
    assert all(run.info.status == "FINISHED" for run in runs)
    run = named["3-8 lantk-kr-v1"]
    assert run.data.params["variant"] == "lantk-kr-v1"
    assert run.data.params["n_train"] == "40"
    assert run.data.metrics["accuracy_honest"] == pytest.approx(0.72)
    assert len(client.get_metric_history(run.info.run_id, "curve_test_accuracy")) == 4
    written = (results.folder / "evaluations/3-8/lantk-kr-v1.csv").read_text()
    path = client.download_artifacts(run.info.run_id, "predictions.csv")
    assert Path(path).read_text() == written
    return named


def counts(results: Results) -> tuple[int, int]:
    return results.record["counts"]["created"], results.record["counts"]["unchanged"]


def test_server_with_accounts(database, results, tmp_path, monkeypatch):
    """A server on PostgreSQL that asks who one is: a wrong password is turned away.

    What it did not take is logged by the next sync; another one after that has nothing to log.
    """
    pytest.importorskip("flask_wtf", reason="flask-wtf is not installed: no accounts in MLflow")
    config = tmp_path / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with mlflow_server(
        database,
        tmp_path / "server",
        "--app-name",
        "basic-auth",
        MLFLOW_AUTH_CONFIG_PATH=str(config),
        MLFLOW_AUTH_ADMIN_PASSWORD=ADMIN_PASSWORD,
        MLFLOW_FLASK_SERVER_SECRET_KEY="of this test",
    ) as address:
        to = {"MLFLOW_TRACKING_URI": address}
        wrong = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "wrong-secret"}
        assert results.run("sync", **to, **wrong) == 1
        assert "The server does not let this user in" in results.said
        assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in results.said
        assert "Traceback" not in results.said
        assert not (results.folder / "tracking.json").exists()

        right = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": ADMIN_PASSWORD}
        assert results.run("sync", **to, **right) == 0, results.said
        assert counts(results) == (len(NAMES), 0)
        runs = read_back(address, results, monkeypatch, **right)
        assert results.run("sync", **to, **right) == 0, results.said
        assert counts(results) == (0, len(NAMES))
        # The dashboard of a server is its own: nothing is started, and the links lead there.
        assert results.run("dashboard", **to, **right) == 0
        links = results.record["links"]
        assert all(link.startswith(f"{address}/#/") for link in links.values())
    logged = str([run.to_dictionary() for run in runs.values()])
    for secret in (PASSWORD, QUOTED, ADMIN_PASSWORD, "wrong-secret"):
        assert secret not in results.everything() + logged


def test_database_itself(database, results, monkeypatch):
    """Without a server between, runs go into PostgreSQL; its password goes nowhere."""
    empty = database.rpartition("/")[0] + "/other"
    make_database(database, "other")
    to = {"MLFLOW_TRACKING_URI": empty}
    assert results.run("sync", **to) == 0, results.said
    assert counts(results) == (len(NAMES), 0)
    assert results.run("sync", **to) == 0, results.said
    assert counts(results) == (0, len(NAMES))
    runs = read_back(empty, results, monkeypatch)
    assert results.run("sync", MLFLOW_TRACKING_URI=empty.replace("postgres@", "wrong@")) == 1
    assert "Traceback" not in results.said
    # The store is known from tracking.json, its password is not.
    assert results.run("dashboard") == 1
    assert "MLFLOW_TRACKING_URI" in results.said.splitlines()[-1]
    logged = str([run.to_dictionary() for run in runs.values()])
    everything = results.everything() + logged
    for secret in (PASSWORD, QUOTED, QUOTED.replace("postgres", "wrong"), "sec/ret", "sec%2Fret"):
        assert secret not in everything
    assert "127.0.0.1" in results.record["uri"]


def make_database(uri: str, name: str) -> None:
    psycopg2 = pytest.importorskip("psycopg2")
    connection = psycopg2.connect(uri)
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()
