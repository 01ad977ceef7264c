"""The MLflow store: it agrees with the results folder, whatever happened before."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import pytest
import yaml
from records import make_record, write_record

import lantk.tracking.sync as tracking
from lantk.cli.main import main
from lantk.experiment.checks import ConfigError, check_settings, fill_in
from lantk.experiment.config import resolve_experiment
from lantk.experiment.passwords import (
    find_passwords,
    without_password,
    without_passwords,
    without_user,
)
from lantk.experiment.records import Listing
from lantk.tracking import logged
from lantk.tracking.dashboard import dashboard_hint, links_at, links_text
from lantk.tracking.reading import read_runs
from lantk.tracking.run import TrackingError
from lantk.tracking.store import locate_store
from lantk.tracking.sync import Target, rebuild, verify

ROOT = Path(__file__).parents[2]
CONFIG = {"results": "results/digits", "cnn": {"seeds": [0, 1]}}
LISTING = Listing(("3-8",), ("cntk", "lantk-kr-v1", "cnn"), 1, (0, 1))
NAMES = {"3-8 cntk", "3-8 lantk-kr-v1", "3-8 cnn seed 0", "3-8 cnn seed 1"}
N = len(NAMES)


def write_evaluation(results: Path, variant: str, accuracy=0.75, **changes) -> Path:
    """Write the files of one evaluation as the workflow does; return the JSON file."""
    record = make_record(variant, accuracy, n_test=300, validation=0.72, **changes)
    record["protocols"]["oracle"] = record["protocols"]["oracle"] | {"accuracy": accuracy + 0.1}
    return write_record(results, record)


def write_results(results: Path) -> Path:
    """Write a results folder with two kernel variants and two networks."""
    for variant in ("cntk", "lantk-kr-v1"):
        write_evaluation(results, variant)
    for seed in (0, 1):
        write_evaluation(results, "cnn", seed=seed)
    figure = results / "figures" / "3-8.png"
    figure.parent.mkdir(exist_ok=True)
    figure.write_bytes(b"\x89PNG")
    (results / "table.md").write_text("| | 3-8 |\n")
    return results


def target(results: Path, *, listing=LISTING, config=CONFIG, **where) -> Target:
    return Target(results, listing, config, **where)


def sync(results: Path, **options) -> tracking.SyncReport:
    return tracking.sync(target(results, **options))


def fail_job(results: Path, name: str = "evaluate/3-8/lantk-kr-v1") -> None:
    """Leave a folder as a failed evaluation leaves it."""
    (results / "evaluations" / "3-8" / "lantk-kr-v1.json").unlink(missing_ok=True)
    log = results / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("Traceback\nlantk evaluate: it broke\n")


@pytest.fixture
def own_store(tmp_path, shared_store):
    """Return a function that copies the shared store, still without "digits", to a place."""

    def copy(database: Path) -> Path:
        database.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(shared_store, database)

    return copy


@pytest.fixture
def results(tmp_path):
    """Return a results folder."""
    return write_results(tmp_path / "all" / "digits")


def client_of(report):
    """Return an MLflow client for the store of a report."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(report.uri)


def runs_of(report, state: str = "") -> dict:
    """Return name -> run, of all active runs in the experiment or of those in one state."""
    wanted = f"tags.state = '{state}'" if state else ""
    found = client_of(report).search_runs([report.experiment_id], wanted)
    return {run.info.run_name: run for run in found}


def counts(report) -> tuple[int, int, int, int]:
    return report.created, report.unchanged, report.superseded, report.interrupted


def test_what_is_no_longer_listed_is_superseded(results, to):
    """A variant and a seed that were taken out of the configuration are no longer current."""
    sync(results, **to)
    report = sync(results, **to, listing=Listing(("3-8",), ("cntk", "cnn"), 1, (0,)))
    # The first network's spread over seeds is gone, so it is another result.
    assert counts(report) == (1, 1, 3, 0)
    assert set(runs_of(report, "current")) == {"3-8 cntk", "3-8 cnn seed 0"}
    assert counts(sync(results, **to)) == (3, 1, 1, 0)


def test_first_sync_logs_every_run_and_second_nothing(results, to):
    """The first sync logs each task, variant and seed once; the second changes nothing."""
    first = sync(results, **to)
    assert counts(first) == (N, 0, 0, 0)
    before = runs_of(first)
    assert set(before) == NAMES
    second = sync(results, **to)
    assert counts(second) == (0, N, 0, 0)
    assert {name: run.to_dictionary() for name, run in runs_of(second).items()} == {
        name: run.to_dictionary() for name, run in before.items()
    }
    assert first.run_ids == second.run_ids
    assert set(first.run_ids["3-8"]) == {run.info.run_id for run in before.values()}


def test_content_is_read_back(results, to, shared_store):
    """Parameters, metrics, curves, times, data set and files of a run come back as they went in."""
    path = results / "evaluations" / "3-8" / "lantk-kr-v1.json"
    os.utime(path, (1000, 1000))
    points = json.loads(path.read_text())["curve"]
    curve = enumerate(point["test_accuracy"] for point in points)
    report = sync(results, **to)
    client, run = client_of(report), runs_of(report)["3-8 lantk-kr-v1"]
    assert run.data.params["setting_folds"] == "5"
    assert run.data.metrics["accuracy_oracle"] == 0.85
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1_000_000)
    history = client.get_metric_history(run.info.run_id, "curve_test_accuracy")
    assert [(m.step, m.value) for m in history] == list(curve)
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits 3-8", "d" * 36)
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    assert folder.parents[1] == shared_store.with_name("mlflow-artifacts")
    assert (folder / "evaluation.json").read_bytes() == path.read_bytes()
    assert (folder / "predictions.csv").read_bytes() == path.with_suffix(".csv").read_bytes()
    assert (folder / "figure.png").read_bytes() == b"\x89PNG"
    assert (folder / "table.md").exists()
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert json.loads((folder / "provenance.json").read_text())["commit"] == "abc123"


def test_more_entries_than_a_batch_holds(results, to):
    """A curve of 1,500 epochs is longer than a batch and is logged whole."""
    path = results / "evaluations" / "3-8" / "cnn-seed0.json"
    curve = [{"epoch": e, "train_loss": 1 / e} for e in range(1, 1501)]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"curve": curve}))
    report = sync(results, **to)
    run_id = runs_of(report)["3-8 cnn seed 0"].info.run_id
    history = client_of(report).get_metric_history(run_id, "curve_train_loss")
    assert [m.step for m in history] == list(range(1, 1501))


def test_changed_result_supersedes_its_run_only(results, to):
    """One changed accuracy gives one run more, and its predecessor is marked and pointed on."""
    first = sync(results, **to)
    old_id = runs_of(first)["3-8 lantk-kr-v1"].info.run_id
    write_evaluation(results, "lantk-kr-v1", accuracy=0.8)
    second = sync(results, **to)
    assert counts(second) == (1, N - 1, 1, 0)
    current, (old,) = runs_of(second, "current"), runs_of(second, "superseded").values()
    assert set(current) == NAMES
    assert current["3-8 lantk-kr-v1"].data.metrics["accuracy_honest"] == 0.8
    assert (old.info.run_id, old.info.run_name) == (old_id, "3-8 lantk-kr-v1 (superseded)")
    assert old.data.tags["superseded_by"] == current["3-8 lantk-kr-v1"].info.run_id
    assert counts(sync(results, **to)) == (0, N, 0, 0)


def test_old_result_that_comes_back_is_logged_again(results, to):
    """A result that returns to an earlier value is current again, with its history kept."""
    for accuracy in (0.75, 0.8, 0.75):
        write_evaluation(results, "lantk-kr-v1", accuracy=accuracy)
        report = sync(results, **to)
    current = runs_of(report, "current")["3-8 lantk-kr-v1"]
    assert current.data.metrics["accuracy_honest"] == 0.75
    found = client_of(report).search_runs([report.experiment_id], "tags.variant = 'lantk-kr-v1'")
    assert len(found) == 3


def test_interrupted_run_is_replaced(results, to, monkeypatch):
    """A run that was cut off before its fingerprint is removed and logged again, once."""
    from mlflow.tracking import MlflowClient

    original, calls = MlflowClient.set_terminated, []

    def fail_at_the_third_run(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", fail_at_the_third_run)
        with pytest.raises(KeyboardInterrupt):
            sync(results, **to)
    report = sync(results, **to)
    assert counts(report) == (2, 2, 0, 1)
    found = client_of(report).search_runs([report.experiment_id])
    assert sorted(run.info.run_name for run in found) == sorted(NAMES)
    assert all(run.info.status == "FINISHED" and "fingerprint" in run.data.tags for run in found)


def test_interrupt_before_marking_is_mended(results, to, monkeypatch):
    """When the new run is whole but the old one is not marked yet, the next sync marks it."""
    sync(results, **to)
    write_evaluation(results, "lantk-kr-v1", accuracy=0.8)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "mark_superseded", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sync(results, **to)
    assert counts(sync(results, **to)) == (0, N, 1, 0)


def test_runs_beyond_one_page_are_found(results, to, monkeypatch):
    """Runs that the store returns on later pages are recognised too."""
    monkeypatch.setattr(logged, "_RUNS_PER_PAGE", 2)
    sync(results, **to)
    assert counts(sync(results, **to)) == (0, N, 0, 0)


def test_results_folders_do_not_touch_each_other(results, to):
    """Two results folders in one experiment keep their runs, whichever is synced last."""
    other = write_results(results.with_name("other"))
    sync(results, **to)
    report = sync(other, **to | {"config": CONFIG | {"results": "results/other"}})
    assert counts(report) == (N, 0, 0, 0)
    assert counts(sync(results, **to)) == (0, N, 0, 0)


@pytest.mark.parametrize(
    ("folder", "beside", "shared"),
    [
        ("results/digits", "digits", "digits"),
        ("./results//digits/", "digits", "digits"),
        ("results/mine/digits", "digits", "mine/digits"),
        ("out/digits", "digits", "out/digits"),
        ("/data/me/digits", "digits", "/data/me/digits"),
        ("results", "results", "results"),
        (f"/data/{'a' * 250}/b", "b", f"{'a' * 248}/b"),
    ],
)
def test_experiment_is_named_after_the_results_folder(tmp_path, to, folder, beside, shared):
    """By its name beside it, where each has another; in other stores by its path."""
    config = {"results": folder}
    assert target(tmp_path / "any", config=config).experiment_name == beside
    assert target(tmp_path / "any", config=config, uri=to["uri"]).experiment_name == shared
    assert target(tmp_path / "any", config=config, experiment="own").experiment_name == "own"


def test_results_folders_have_experiments_of_their_own(results, to):
    """Two folders of one store do not share an experiment, even where they have the same name."""
    other, reports = write_results(results.with_name("other")), []
    for folder, text in ((results, "results/own/digits"), (other, "results/other/digits")):
        reports.append(sync(folder, uri=to["uri"], config=CONFIG | {"results": text}))
    names = []
    for report in reports:
        assert set(runs_of(report)) == NAMES
        names.append(client_of(report).get_experiment(report.experiment_id).name)
    assert names == ["own/digits", "other/digits"]


def test_deleted_store_is_rebuilt(tmp_path, own_store, monkeypatch):
    """Without its database the next sync makes one and logs every run again, whatever the path."""
    monkeypatch.chdir(tmp_path)
    results = write_results(tmp_path / "why?" / "digits")
    database = own_store(results.with_name("mlflow.db"))
    first = sync(results)
    database.unlink()
    second = sync(results)
    assert counts(second) == (N, 0, 0, 0)
    assert set(runs_of(second)) == NAMES
    assert set(first.run_ids["3-8"]).isdisjoint(second.run_ids["3-8"])
    assert database.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["why?"]


SYNC_SCRIPT = """
import pathlib, sys, time
import mlflow
from lantk.experiment.records import Listing
from lantk.tracking.sync import Target, sync
results, ready, go = map(pathlib.Path, sys.argv[1:4])
listing = Listing(("3-8",), ("cntk", "lantk-kr-v1", "cnn"), 1, (0, 1))
ready.touch()
while not go.exists():
    time.sleep(0.001)
print(sync(Target(results, listing, {"results": results.name}, experiment="both")).created)
"""


def test_two_processes_share_a_fresh_store(tmp_path):
    """Two processes that find no store make one together, and both keep all their runs."""
    go, processes = tmp_path / "go", []
    for name in ("one", "two"):
        folder = write_results(tmp_path / "all" / name)
        command = [sys.executable, "-c", SYNC_SCRIPT, folder, tmp_path / name, go]
        processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    while not (tmp_path / "one").exists() or not (tmp_path / "two").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    go.touch()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == [b"4\n", b"4\n"]
    report = sync(tmp_path / "all" / "one", config={"results": "one"}, experiment="both")
    assert counts(report) == (0, N, 0, 0)
    assert len(client_of(report).search_runs([report.experiment_id])) == 2 * N
    assert len(client_of(report).search_experiments()) == 2  # ours and MLflow's "Default"


@pytest.mark.parametrize("name", ["a b'\"$ ü 漢", "100%25 no#1", "why?x=1&y"])
def test_odd_folder_names(tmp_path, own_store, name, monkeypatch):
    """Spaces, quotes, signs that mean something in an address, and any script work in paths."""
    monkeypatch.chdir(tmp_path)
    results = write_results(tmp_path / name / "digits")
    own_store(results.with_name("mlflow.db"))
    config = CONFIG | {"results": f"{name}/digits"}
    report = sync(results, config=config)
    assert counts(sync(results, config=config)) == (0, N, 0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {name}
    run_id = report.run_ids["3-8"][0]
    folder = Path(client_of(report).download_artifacts(run_id, ""))
    assert folder.is_relative_to(tmp_path / name / "mlflow-artifacts")


def test_store_named_by_the_environment(results, to, monkeypatch):
    """MLFLOW_TRACKING_URI is used when the configuration names no store, and only then."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", to["uri"])
    assert counts(sync(results, experiment=to["experiment"])) == (N, 0, 0, 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert counts(sync(results, **to)) == (0, N, 0, 0)
    assert not results.with_name("mlflow.db").exists()


def test_addresses_of_the_environment_read_as_those_of_the_configuration(tmp_path, monkeypatch):
    """~ is the home folder there too, and HTTP is http."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~/runs/m.db")
    assert locate_store(tmp_path / "results", None).database == tmp_path / "runs" / "m.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "HTTP://Host:5000/A")
    assert locate_store(tmp_path / "results", None).uri == "http://Host:5000/A"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///$NOWHERE/m.db")
    with pytest.raises(TrackingError, match="the variable NOWHERE is not set"):
        locate_store(tmp_path / "results", None)


def test_unreachable_server(results, monkeypatch):
    """A server that does not answer is named, without its password, and the results stay."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: every connection is refused
        uri = f"http://me:sec%2Fret@127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(
            TrackingError, match=r"//\*\*\*@127.*untouched.*tracking\.uri"
        ) as failure:
            sync(results)
    for form in ("sec%2Fret", "sec/ret", "sec%2fret"):
        assert form not in str(failure.value)
    assert failure.value.__cause__ is None  # a traceback would show it
    assert "refused" in str(failure.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "postgresql+nodriver://me:Hush%2FHush@127.0.0.1/runs?sslpassword=Quiet",
            "postgresql+nodriver://me:***@127.0.0.1/runs?sslpassword=*** cannot be used",
        ),
        ("postgresql://me:p[Hush]@127.0.0.1:1/db", "percent-encoded"),
        ("postgresql://me:p[Hush@127.0.0.1:1/db", "percent-encoded"),
        ("postgresql://me:pa@Hush@127.0.0.1:1/db", "percent-encoded"),
        ("postgresql://127.0.0.1:1/db?password=Quiet@Hush", "percent-encoded"),
        ("postgresql://me:Hush", "a number as port"),
        ("http://Hush@Quiet@127.0.0.1:1", "percent-encoded"),
        (
            "postgresql://postgres:postgres@127.0.0.1:1/mlflow",
            "the MLflow store postgresql://postgres:***@127.0.0.1:1/mlflow cannot be used",
        ),
        ("mysql://me:Hush@127.0.0.1:1/tracking", "pip install mysqlclient"),
    ],
)
def test_password_of_a_database_is_not_shown(results, monkeypatch, uri, said):
    """A database that cannot be opened is named without the password, and nothing is garbled."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as failure:
        sync(results)
    assert said in str(failure.value)
    assert "Hush" not in str(failure.value)
    assert "Quiet" not in str(failure.value)


@pytest.mark.parametrize(
    ("uri", "passwords"),
    [
        ("http://me:secret@host:5000", ["me", "secret"]),
        ("http://host:5000", []),
        ("https://ghp_token@host", ["ghp_token"]),
        ("https://token:@host", ["token"]),
        ("postgresql://me@host/runs?sslkey=/a&ssl_key=b&sslcert=c&passfile=d", []),
        ("postgresql://host/runs?api_key=abc&auth=d%5Befg]", ["abc", "d%5Befg]"]),
        ("postgresql://me:p[secret]@host/runs", ["p[secret]"]),
        ("postgresql://host/runs?password=one@two", ["one@two"]),
        ("postgresql://postgres:postgres@host/runs", ["postgres"]),
        ("postgresql://me:a/b@c@host/runs", ["a/b@c"]),
        ("postgresql://host/runs?user=me&password=secret", ["secret"]),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Da%20b%3B", ["a b"]),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D%7Ba%26%3Bb%7D", ["a&;b"]),
        ("sqlite:////a:b/c@d.db", []),
    ],
)
def test_passwords_are_found(uri, passwords):
    """A password between user and host or in the query is found, however odd; a path is none."""
    assert find_passwords(uri) == passwords
    for password in filter(lambda one: len(one) > 2, passwords):
        text = f"{password} {password.replace(' ', '%20')} u%3A{quote(password, safe='')}"
        shown = without_passwords(text, uri)
        assert shown == "*** *** u%3A***"
        for word in re.findall(r"\w{3,}", unquote(password)):
            assert word not in without_passwords(f"{text} '{word}'", uri)


def test_address_is_hidden_by_position():
    """Only the place of a password is hidden, whatever its text; the rest of a text stays."""
    uri = "postgresql://sql:sql@sql/sql?user=sql&token=sql"
    shown = without_password(uri)
    assert shown == "postgresql://sql:***@sql/sql?user=sql&token=***"
    assert without_passwords(f"mysql, sql: {uri}", uri) == f"mysql, ***: {shown}"
    assert without_user("https://token:@host/a?auth=b") == "https://host/a?auth=***"


def test_password_in_the_configuration_is_refused(results, to):
    """A configuration with a password is not logged; the message says what to set instead."""
    uri = "http://me:Hush@127.0.0.1:9"
    config = CONFIG | {"tracking": {"uri": uri, "unknown": 1}}
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_PASSWORD") as failure:
        sync(results, **to, config=config)
    assert "Hush" not in str(failure.value)
    # The workflow refuses it before any job, whatever else is wrong with the configuration.
    for given in (config, CONFIG | {"tracking": uri}):
        with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refusal:
            check_settings(given)
        assert "Hush" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"URI": "./mlruns"}, "MLFLOW_TRACKING_URI in the environment is no address of a store"),
        ({"URI": "file:///mlruns"}, "environment is no address .* given up plain folders, file:"),
        (
            {"URI": "sqlite:///$NOWHERE/m.db"},
            "environment is '.NOWHERE/m.db': the variable NOWHERE",
        ),
        ({"URI": "http://me:Hush@host:x"}, "MLFLOW_TRACKING_URI in the environment is no address"),
        ({"URI": "sqlite://"}, "MLFLOW_TRACKING_URI in the environment .* in memory"),
        ({"URI": "http://h", "USERNAME": "me"}, "_USERNAME is set .* MLFLOW_TRACKING_PASSWORD is"),
        ({"URI": "HTTP://h", "PASSWORD": "Hush"}, "_PASSWORD is set .* MLFLOW_TRACKING_USERNAME"),
        ({"URI": "https://h", "SERVER_CERT_PATH": "/no/file"}, "_SERVER_CERT_PATH .* no such file"),
        ({"URI": ""}, None),
        ({"URI": "databricks"}, None),
        ({"URI": "postgresql://me:Hush@host/runs", "USERNAME": "me"}, None),
        ({"URI": "http://host:5000", "USERNAME": "me", "PASSWORD": "Hush"}, None),
        ({"URI": "http://host:5000", "USERNAME": "me", "TOKEN": "Hush"}, None),
    ],
)
def test_store_of_the_environment_is_checked_before_any_job(tmp_path, monkeypatch, variables, said):
    """What the environment says of a store is refused like tracking.uri, which goes before it."""
    monkeypatch.setenv("HOME", str(tmp_path))  # MLflow looks for a password there too
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    config = {"variants": ["cntk"]}
    fill_in(config)
    if said is None:
        resolve_experiment(config)
        return
    with pytest.raises(ConfigError, match=said) as refusal:
        resolve_experiment(config)
    assert "Hush" not in str(refusal.value)
    config["tracking"]["uri"] = "sqlite:///runs.db"
    resolve_experiment(config)


class _Refusal(BaseHTTPRequestHandler):
    """A server that lets nobody in."""

    status = 401

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def refusing_server():
    """Return the address of a server that answers 401."""
    with HTTPServer(("127.0.0.1", 0), _Refusal) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def sync_command(results: Path) -> list[str]:
    """Return the words of the command line, as the rule calls it."""
    listed = ["--cases", "3-8", "--variants", *LISTING.variants, "--permutations", "1"]
    listed += ["--seeds", "0", "1", "--config", json.dumps(CONFIG)]
    return ["mlflow", "sync", "--results", str(results), *listed]


@pytest.mark.parametrize("status", [401, 403])
def test_server_that_lets_nobody_in(
    results, refusing_server, status, monkeypatch, capfd, own_store
):
    """A refusal ends the verb with status 1 and one message; the next sync catches up."""
    monkeypatch.setattr(_Refusal, "status", status)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:Hush%2FHush@{refusing_server}")
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert main(sync_command(results)) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert f"{status}" in printed.err
    assert "MLFLOW_TRACKING_USERNAME" in printed.err
    assert "Hush" not in printed.err
    kept = results / "listing.json"
    files = [path for path in results.rglob("*") if path.is_file() and path != kept]
    assert before == {path: path.read_bytes() for path in files}
    assert "Hush" not in kept.read_text()
    own_store(results.with_name("mlflow.db"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(sync_command(results)) == 0
    assert json.loads((results / "tracking.json").read_text())["counts"]["created"] == N


def test_unusable_stores(results, own_store, monkeypatch):
    """A damaged file, another schema version, a folder and a store in memory are refused."""
    database = results.with_name("damaged.db")
    database.write_bytes(b"no database " * 100)
    with pytest.raises(TrackingError, match=r"not a database.*mlflow rebuild"):
        sync(results, uri=f"sqlite:///{database}")
    assert database.read_bytes() == b"no database " * 100

    database = own_store(results.with_name("other-version.db"))
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00'")
    with pytest.raises(TrackingError, match=r"version f00.*mlflow db upgrade"):
        sync(results, uri=f"sqlite:///{database}")

    # Opening fails at once: trying again, as MLflow does for minutes, would sleep.
    monkeypatch.setattr(
        time, "sleep", lambda _: pytest.fail("waited for a folder to become a file")
    )
    with pytest.raises(TrackingError, match="unable to open database file"):
        sync(results, uri=f"sqlite:///{results}")
    with pytest.raises(TrackingError, match="in memory"):
        sync(results, uri="sqlite://")


def test_moved_store_is_refused(results, tmp_path, own_store):
    """A store that was copied to another place is not written, since its files lie elsewhere."""
    own_store(results.with_name("mlflow.db"))
    sync(results)
    copied = tmp_path / "copy" / "digits"
    shutil.copytree(results.parent, copied.parent)
    with pytest.raises(TrackingError, match=r"moved or copied.*wanted .*copy"):
        sync(copied)


def test_deleted_experiment_is_refused(results, to):
    """An experiment in the store's bin is not written to; the message says how to restore it."""
    report = sync(results, **to)
    client_of(report).delete_experiment(report.experiment_id)
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        sync(results, **to)


def test_links_name_the_current_runs(results, to):
    """The links lead to exactly the current runs, and a failed one is not compared."""
    fail_job(results)
    report = sync(results, **to)
    assert set(report.links) == {"all runs as charts", "list of runs", "3-8"}
    query = parse_qs(report.links["3-8"].partition("?")[2])
    names = {run.info.run_id: name for name, run in runs_of(report).items()}
    compared = [names[run_id] for run_id in json.loads(query["runs"][0])]
    assert compared == ["3-8 cntk", "3-8 cnn seed 0", "3-8 cnn seed 1"]
    assert json.loads(query["experiments"][0]) == [report.experiment_id]
    for label, mode in (("all runs as charts", "CHART"), ("list of runs", "TABLE")):
        query = parse_qs(report.links[label].partition("?")[2])
        assert query["workflowType"] == ["machine_learning"]
        assert query["compareRunsMode"] == [mode]
        tags = client_of(report).get_experiment(report.experiment_id).tags
        view = json.loads(tags[f"mlflow.sharedViewState.{query['viewStateShareKey'][0]}"])
        found = client_of(report).search_runs([report.experiment_id], view["searchFilter"])
        assert {run.info.run_name for run in found} == NAMES


def test_searches_of_the_documents_find_runs(tmp_path, to):
    """What a page says to type into the search box finds runs of the default experiment."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    code = re.compile(r"^```\w*\n(.*?)^```|(?<!`)(`+)(?!`)([^\n]*?[^`])\2(?!`)", re.M | re.S)
    condition = re.compile(
        r"\b(tags|params|metrics|attributes)\.`?[\w.]+`? *(!?=|[<>]|I?LIKE\b|IN\b)"
    )
    texts = [(page, m[1] or m[3]) for page in pages for m in code.finditer(page.read_text())]
    searches = [(page.name, text.strip()) for page, text in texts if condition.search(text)]
    assert len([page for page, _ in searches if page == "dashboard.md"]) >= 2
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    cases = resolve_experiment(config).cases
    for name, case in cases.items():
        sizes = {"n_train": case.n_train, "architecture": case.architecture}
        write_evaluation(tmp_path, "cntk", task=case.task, case=name, **sizes)
    report = sync(tmp_path, **to, listing=Listing(tuple(cases), ("cntk",), 1, ()), config=config)
    for page, text in searches:
        assert client_of(report).search_runs([report.experiment_id], text), f"{page}: {text}"


def test_sync_by_hand_catches_up_with_one_that_failed(results, own_store, monkeypatch, capsys):
    """A failed sync leaves what it was told, since Snakemake deletes tracking.json."""
    own_store(results.with_name("mlflow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(sync_command(results)) == 1
    by_hand = ["mlflow", "sync", "--results", str(results)]
    assert f"`python -m lantk {' '.join(by_hand)}`" in capsys.readouterr().err
    assert not (results / "tracking.json").exists()
    # An empty value is none.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert main(by_hand) == 0
    record = json.loads((results / "tracking.json").read_text())
    assert record["counts"]["created"] == N
    hidden = record | {"uri": "postgresql://me:***@host/runs", "is_default_store": False}
    (results / "tracking.json").write_text(json.dumps(hidden))
    capsys.readouterr()
    assert main(by_hand) == 1
    assert "set MLFLOW_TRACKING_URI" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"listing": []}', '{"listing": {"cases": 3}}', "missing"]
)
def test_what_an_earlier_sync_left_is_broken(results, text, capsys):
    """Of a missing or broken listing.json one sentence says what to do."""
    if text != "missing":
        (results / "listing.json").write_text(text)
    assert main(["mlflow", "sync", "--results", str(results)]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "listing.json" in said
    assert "run the workflow" in said
    assert not (results / "tracking.json").exists()


def test_hint_and_links_are_printed(results, own_store, capsys):
    """The hint is a few short lines; every link is printed by a verb of its own."""
    own_store(results.with_name("mlflow.db"))
    assert main(sync_command(results)) == 0
    hint = capsys.readouterr().out
    assert len(hint.splitlines()) == 3
    assert hint.startswith(f"{N} runs in the MLflow experiment 'digits'")
    assert f"python -m lantk mlflow dashboard --results {results}" in hint
    assert "://" not in hint
    assert main(["mlflow", "links", "--short", "--results", str(results)]) == 0
    assert capsys.readouterr().out == hint
    assert main(["mlflow", "links", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    record = json.loads((results / "tracking.json").read_text())
    assert all(f"{address}\n" in printed for address in record["links"].values())
    elsewhere = links_text(record, results, "http://127.0.0.1:7000")
    assert "127.0.0.1:5000" not in elsewhere
    assert links_at(record, "http://127.0.0.1:7000")["3-8"] in elsewhere


def test_hint_of_a_server_names_its_address():
    """Where a server holds the runs, the hint says its address, without user, and failures."""
    hint = dashboard_hint(Path("a b"), 5, 2, "lantk", "http://me:***@host:80/")
    assert hint.splitlines() == [
        "5 runs (2 of them failed) in the MLflow experiment 'lantk'. To see them:",
        "  open http://host:80",
        "  python -m lantk mlflow links --results 'a b'   (prints the addresses)",
    ]
    alone = dashboard_hint(Path("a b"), 1, 1, "lantk", "http://host")
    assert alone.startswith("1 run (failed) in the MLflow experiment 'lantk'. To see")


def test_record_lets_the_verbs_find_everything_again(results, own_store, capsys):
    """What sync was told is kept, for later calls by hand."""
    own_store(results.with_name("mlflow.db"))
    assert main(["mlflow", "sync", "--results", str(results)]) == 1
    assert "run the workflow" in capsys.readouterr().err
    assert main(sync_command(results)) == 0
    record = json.loads((results / "tracking.json").read_text())
    assert record["config"] == CONFIG
    assert record["listing"] == {
        "cases": ["3-8"],
        "variants": list(LISTING.variants),
        "permutations": 1,
        "seeds": [0, 1],
        "protocols": ["honest", "oracle"],
    }
    assert record["counts"]["created"] == N
    assert main(["mlflow", "sync", "--results", str(results)]) == 0
    assert json.loads((results / "tracking.json").read_text())["counts"]["unchanged"] == N
    capsys.readouterr()
    assert main(["mlflow", "verify", "--results", str(results)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_store_of_the_environment_is_remembered(results, tmp_path, own_store, monkeypatch, capsys):
    """A store that the environment named is found again by later calls without it."""
    database = own_store(tmp_path / "elsewhere" / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    assert main(sync_command(results)) == 0
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(["mlflow", "verify", "--results", str(results)]) == 0
    assert "runs.db" in capsys.readouterr().out
    record = json.loads((results / "tracking.json").read_text())
    hidden = record | {"uri": "postgresql://me:***@host/runs"}
    (results / "tracking.json").write_text(json.dumps(hidden))
    assert main(["mlflow", "verify", "--results", str(results)]) == 1
    assert "set MLFLOW_TRACKING_URI" in capsys.readouterr().err


def test_verify_finds_every_kind_of_drift(results, to):
    """Missing, extra, unfinished and changed runs are each found by reading the store back."""
    report = sync(results, **to)
    where = target(results, **to)
    assert verify(where) == (N, {})
    client, runs = client_of(report), runs_of(report)
    ids = {name: run.info.run_id for name, run in runs.items()}
    client.delete_run(ids["3-8 cntk"])
    client.log_metric(ids["3-8 lantk-kr-v1"], "accuracy_honest", 0.5)
    client.set_tag(ids["3-8 cnn seed 0"], "seed", "7")
    folder = Path(client.download_artifacts(ids["3-8 cnn seed 1"], ""))
    (folder / "predictions.csv").unlink()
    shared = {key: runs["3-8 cntk"].data.tags[key] for key in ("results_id", "state")}
    client.create_run(report.experiment_id, run_name="half", tags=shared)
    finished = shared | {"fingerprint": "f" * 32, "identity": "nobody"}
    client.create_run(report.experiment_id, run_name="stray", tags=finished)
    n_runs, drift = verify(where)
    assert n_runs == N
    assert {name.partition(" (run")[0]: what for name, what in drift.items()} == {
        "half": "unfinished",
        "3-8 cntk": "missing",
        "3-8 lantk-kr-v1": "changed: metric accuracy_honest is 0.5, wanted 0.75",
        "3-8 cnn seed 0": "changed: tag seed is '7', wanted '0'",
        "3-8 cnn seed 1": "changed: file predictions.csv is not there",
        "stray": "extra: the results do not have it",
    }
    # A sync mends what it sees, and rebuilding the rest.
    assert sync(results, **to).updated == 2
    assert set(verify(where)[1]) == {"3-8 lantk-kr-v1"}
    rebuild(where)
    assert verify(where) == (N, {})


def test_a_file_that_changed_in_the_store_is_mended(results, to):
    """Verify sees a file of another size, and a sync logs it again."""
    report, where = sync(results, **to), target(results, **to)
    run = runs_of(report)["3-8 cntk"]
    table = Path(client_of(report).download_artifacts(run.info.run_id, "")) / "table.md"
    table.write_text("gone")
    n = (results / "table.md").stat().st_size
    changed = f"changed: file table.md has 4 bytes, wanted {n}"
    assert verify(where)[1] == {"3-8 cntk": changed}
    report = sync(results, **to)
    assert (report.updated, report.unchanged) == (1, N)
    assert table.read_bytes() == (results / "table.md").read_bytes()
    assert verify(where) == (N, {})


def test_a_large_table_is_kept_once_a_case(results, to):
    """A table too large for copies is in the first run of its case, which the others name."""
    sync(results, **to)
    (results / "table.md").write_text("| | 3-8 |\n" * 20_000)
    report, where = sync(results, **to), target(results, **to)
    assert report.updated == N
    client, contents = client_of(report), {}
    for name, run in runs_of(report).items():
        folder = Path(client.download_artifacts(run.info.run_id, ""))
        contents[name] = [(folder / file).read_text() for file in ("table.md", "config.json")]
    table, config = contents.pop("3-8 cntk")
    assert table == (results / "table.md").read_text()
    assert json.loads(config) == CONFIG
    for pointers in contents.values():
        assert all("3-8 cntk" in text and len(text) < 100 for text in pointers)
    assert verify(where) == (N, {})
    assert sync(results, **to).updated == 0


def test_verify_reads_parameters_curves_and_status_back(results, to, shared_store):
    """A parameter, a curve or a status that was changed in the database is found."""
    report = sync(results, **to)
    ids = {name: run.info.run_id for name, run in runs_of(report).items()}
    curve = "UPDATE latest_metrics SET value = 9 WHERE key = 'curve_train_loss'"
    with contextlib.closing(sqlite3.connect(shared_store)) as connection, connection:
        for statement, name in (
            ("UPDATE params SET value = '9' WHERE key = 'n_train'", "3-8 cntk"),
            ("DELETE FROM params WHERE key = 'kind'", "3-8 lantk-kr-v1"),
            (curve, "3-8 cnn seed 0"),
            ("UPDATE runs SET status = 'KILLED' WHERE name <> ''", "3-8 cnn seed 1"),
        ):
            changed = connection.execute(f"{statement} AND run_uuid = ?", [ids[name]])
            assert changed.rowcount == 1
    assert verify(target(results, **to))[1] == {
        "3-8 cntk": "changed: parameter n_train is '9', wanted '40'",
        "3-8 lantk-kr-v1": "changed: parameter kind is not there",
        "3-8 cnn seed 0": "changed: metric curve_train_loss is 9.0, wanted 0.5",
        "3-8 cnn seed 1": "changed: status is KILLED, wanted FINISHED",
    }


def test_verify_ends_with_status_1_and_a_remedy(results, own_store, capsys):
    """On drift the verb prints a short list and what to do; without a store it says so."""
    own_store(results.with_name("mlflow.db"))
    main(sync_command(results))
    write_evaluation(results, "cntk", accuracy=0.8)
    capsys.readouterr()
    assert main(["mlflow", "verify", "--results", str(results)]) == 1
    printed = capsys.readouterr().out
    assert "3-8 cntk: changed: " in printed
    assert f"python -m lantk mlflow sync --results {results}" in printed
    results.with_name("mlflow.db").unlink()
    assert main(["mlflow", "verify", "--results", str(results)]) == 1
    assert f"mlflow sync --results {results}` makes it" in capsys.readouterr().err
    assert not results.with_name("mlflow.db").exists()


def test_failed_jobs_are_failed_runs_until_the_result_arrives(results, to):
    """A failed evaluation is a run with the end of its log, which the result supersedes."""
    path = results / "evaluations" / "3-8" / "lantk-kr-v1.json"
    record = path.read_bytes()
    fail_job(results)
    report = sync(results, **to)
    assert counts(report) == (N, 0, 0, 0)
    assert report.failed == 1
    run = runs_of(report)["3-8 lantk-kr-v1"]
    assert run.info.status == "FAILED"
    assert run.data.tags["failed_job"] == "evaluate lantk-kr-v1 of 3-8"
    assert "it broke" in run.data.tags["mlflow.note.content"]
    assert run.data.params["n_train"] == "40"
    assert run.data.metrics == {}
    folder = Path(client_of(report).download_artifacts(run.info.run_id, ""))
    assert "it broke" in (folder / "failure.log").read_text()
    assert counts(sync(results, **to)) == (0, N, 0, 0)
    assert verify(target(results, **to)) == (N, {})
    path.write_bytes(record)
    report = sync(results, **to)
    assert counts(report) == (1, N - 1, 1, 0)
    assert report.failed == 0
    assert runs_of(report, "current")["3-8 lantk-kr-v1"].info.status == "FINISHED"
    assert runs_of(report, "superseded")["3-8 lantk-kr-v1 (superseded)"].info.status == "FAILED"


def test_a_failed_job_of_several_results_is_one_run_until_it_goes_well(tmp_path, to):
    """It is one run beside what is there; its log follows; what it writes supersedes it."""
    results = tmp_path / "digits"
    write_evaluation(results, "cntk")
    for name, text in (("fetch", ""), ("split/3-8", "lantk split: it broke\n")):
        (results / "logs" / name).parent.mkdir(parents=True, exist_ok=True)
        (results / "logs" / f"{name}.log").write_text(text)
    (results / "data.json").touch()
    for text in ("lantk split: it broke\n", "lantk split: it broke again\n"):
        (results / "logs/split/3-8.log").write_text(text)
        report = sync(results, **to)
    current = runs_of(report, "current")
    assert {name: run.info.status for name, run in current.items()} == {
        "3-8 cntk": "FINISHED",
        "split 3-8": "FAILED",
    }
    assert "again" in current["split 3-8"].data.tags["mlflow.note.content"]
    assert (report.failed, len(runs_of(report))) == (1, 3)
    assert verify(target(results, **to)) == (2, {})
    write_results(results)
    report = sync(results, **to)
    assert counts(report) == (N - 1, 1, 1, 0)
    assert set(runs_of(report, "current")) == NAMES
    notes = [
        run.data.tags["mlflow.note.content"]
        for run in client_of(report).search_runs(
            [report.experiment_id], "attributes.status = 'FAILED'"
        )
    ]
    assert any("no longer one that failed" in note for note in notes)


def test_files_and_tags_follow_in_place(results, to):
    """A table, a figure or a benchmark that comes later reaches the runs that are there."""
    later = (results / "table.md").rename(results / "later.md")
    first = sync(results, **to)
    later.rename(results / "table.md")
    benchmark = results / "benchmarks" / "evaluate" / "3-8" / "cntk.jsonl"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text('{"s": 3.0, "max_rss": 100.0}\n')
    changed = CONFIG | {"permutations": 1}
    report = sync(results, **to, config=changed)
    assert counts(report) == (0, N, 0, 0)
    assert report.updated == N
    assert report.run_ids == first.run_ids
    run = runs_of(report)["3-8 cntk"]
    assert run.data.metrics["job_seconds"] == 3.0
    folder = Path(client_of(report).download_artifacts(run.info.run_id, ""))
    assert (folder / "table.md").read_text() == "| | 3-8 |\n"
    assert json.loads((folder / "config.json").read_text()) == changed
    again = sync(results, **to, config=changed)
    assert (again.updated, again.unchanged) == (0, N)


# Where a sync is killed: a method of the client, and at which call of it.
KILLS = [
    ("create_experiment", 1),
    ("create_run", 2),
    ("log_batch", 3),
    ("log_inputs", 1),
    ("log_artifacts", 4),
    ("set_terminated", 2),
    ("set_tag", 3),
    ("update_run", 1),
]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_sync_is_completed_by_the_next(results, to, when):
    """Killed at any point, a sync is completed by the next: each run once, whole and current."""
    from mlflow.tracking import MlflowClient

    for i, (name, number) in enumerate(KILLS):
        process = os.fork()
        if process == 0:
            with contextlib.suppress(BaseException):
                _kill_at(MlflowClient, name, number, when)
                sync(results, **to)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status), name
        assert os.WTERMSIG(status) == signal.SIGKILL, name
        if name == "create_experiment":
            continue  # the next kill meets an experiment without runs, or none
        report = sync(results, **to)
        assert report.created + report.unchanged == N
        assert set(runs_of(report, "current")) == NAMES
        assert verify(target(results, **to)) == (N, {})
        # The next one has something to log and something to mark.
        for variant, seed in LISTING.stems.values():
            write_evaluation(results, variant, accuracy=0.5 + i / 50, seed=seed)


def _kill_at(client: type, name: str, number: int, when: str) -> None:
    """End this process at some call of a method."""
    original, calls = getattr(client, name), []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) < number:
            return original(*args, **kwargs)
        if when == "after":
            original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(client, name, call)


def test_rebuild_in_a_usable_store(results, to):
    """Rebuilding deletes the runs of this folder, superseded ones too, and of no other."""
    other = write_results(results.with_name("other"))
    sync(other, **to, config=CONFIG | {"results": "results/other"})
    sync(results, **to)
    write_evaluation(results, "cntk", accuracy=0.8)
    before = sync(results, **to)
    report, aside = rebuild(target(results, **to))
    assert aside is None
    assert counts(report) == (N, 0, 0, 0)
    assert set(before.run_ids["3-8"]).isdisjoint(report.run_ids["3-8"])
    found = client_of(report).search_runs([report.experiment_id])
    assert len(found) == 2 * N
    assert {run.data.tags["state"] for run in found} == {"current"}


def _damage_text(database: Path) -> None:
    database.write_bytes(b"no database " * 100)


def _damage_pages(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[4096:40960] = b"\xff" * (40960 - 4096)
    database.write_bytes(content)


@pytest.mark.parametrize("damage", [_damage_text, _damage_pages])
def test_rebuild_puts_a_damaged_store_aside(results, own_store, damage, capsys):
    """A damaged file keeps its bytes under another name, and a new store is made."""
    database = own_store(results.with_name("mlflow.db"))
    main(sync_command(results))
    damage(database)
    content = database.read_bytes()
    capsys.readouterr()
    assert main(["mlflow", "verify", "--results", str(results)]) == 1
    assert "mlflow rebuild" in capsys.readouterr().err
    assert main(["mlflow", "rebuild", "--results", str(results)]) == 0
    (aside,) = results.parent.glob("mlflow.db.unusable-*")
    assert aside.read_bytes() == content
    printed = capsys.readouterr().out
    assert str(aside) in printed
    assert "other results folders" in printed
    assert main(["mlflow", "verify", "--results", str(results)]) == 0


def test_rebuild_puts_a_store_of_another_version_aside(results, own_store):
    """A store whose schema this MLflow does not know is put aside, and a new one is made."""
    database = own_store(results.with_name("mlflow.db"))
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00'")
    report, aside = rebuild(target(results))
    assert aside is not None
    assert aside.exists()
    assert counts(report) == (N, 0, 0, 0)
    assert verify(target(results)) == (N, {})


def test_rebuild_of_a_deleted_or_copied_store(results, tmp_path, own_store):
    """Without a file a new store is made; one that was copied with the results is put aside."""
    database = own_store(results.with_name("mlflow.db"))
    sync(results)
    copied = tmp_path / "copy" / "digits"
    shutil.copytree(results.parent, copied.parent)
    report, aside = rebuild(target(copied))
    assert aside.parent == copied.parent
    assert counts(report) == (N, 0, 0, 0)
    assert verify(target(copied)) == (N, {})
    database.unlink()
    report, aside = rebuild(target(results))
    assert aside is None
    assert counts(report) == (N, 0, 0, 0)


def test_rebuild_does_not_put_aside_what_may_be_whole(results):
    """A store that cannot be opened at all is not taken for damaged, and stays where it is."""
    with pytest.raises(TrackingError, match="unable to open database file"):
        rebuild(target(results, uri=f"sqlite:///{results}"))
    assert results.is_dir()


def test_a_window_chosen_among_cases_is_a_run_of_the_smallest(tmp_path):
    """The row that stands on several cases has its run in one of them, as a kernel of no term."""
    names = {1: "chen2020", 3: "chen2020-lap-3"}
    for window, name in names.items():
        pool = [{"average_pool": {"size": window, "stride": 1}}] * (window > 1)
        validation = 0.7 + window / 100
        case = {"case": f"3-8.{name}", "architecture": name, "validation": validation}
        record = make_record("cntk", 0.7 + window / 20, **case)
        record["architecture"]["layers"] = ["relu", *pool, "flatten", "dense"]
        write_record(tmp_path, record)
    cases = tuple(f"3-8.{name}" for name in reversed(names.values()))
    runs = read_runs(tmp_path, Listing(cases, ("cntk",)))
    assert [(run.case, run.variant) for run in runs] == [
        ("3-8.chen2020-lap-3", "cntk"),
        ("3-8.chen2020", "cntk"),
        ("3-8.chen2020", "cntk-lap"),
    ]
    lap = runs[-1]
    assert lap.metrics["window_honest"] == lap.metrics["window_oracle"] == 3
    assert lap.metrics["accuracy_honest"] == 0.85
    assert lap.params["kind"] == "kernel"
    assert lap.params["architecture"] == "chen2020"
