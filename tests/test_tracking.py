"""The MLflow store: it agrees with the results folder, whatever happened before."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs

import pandas as pd
import pytest
from records import make_record, write_record

from lantk import tracking
from lantk.leaderboard import TABLE_COLUMNS
from lantk.tracking import TrackingError, dashboard_hint, read_runs, sync

CONFIG = {"results": "results/digits", "cnn": {"seeds": [0, 1]}}


def write_evaluation(results: Path, variant: str, accuracy=0.75, **changes) -> Path:
    """Write the files of one evaluation as the workflow does; return the JSON file."""
    record = make_record(variant, accuracy, n_test=300, validation=0.72, **changes)
    record["protocols"]["oracle"] = record["protocols"]["oracle"] | {"accuracy": accuracy + 0.1}
    path = write_record(results, record)
    path.with_suffix(".csv").write_text("index,label,honest,oracle\n0,1,0.5,0.25\n")
    return path


TABLE_VALUES = {
    "n_train": 40,
    "n_test": 300,
    "accuracy": 0.75,
    "spread": None,
    "ci_low": 0.7,
    "ci_high": 0.8,
    "p_value": 0.125,
    "label_gain": None,
    "label_gain_half_width": None,
    "label_weight": 0.01,
    "ridge": None,
}


def write_results(results: Path, tasks: tuple[str, ...] = ("3-8",)) -> Path:
    """Write a results folder with two kernel variants, two networks, LANTK-best, for each task."""
    rows = []
    for task in tasks:
        for variant in ("cntk", "lantk-kr-v1"):
            write_evaluation(results, variant, task=task)
        for seed in (0, 1):
            write_evaluation(results, "cnn", task=task, seed=seed)
        for variant in ("cntk", "lantk-best", "lantk-kr-v1", "cnn"):
            row = TABLE_VALUES | {"task": task, "architecture": "chen2020", "variant": variant}
            row["p_value"] = None if variant == "cntk" else 0.125
            row["spread"] = 0.02 if variant == "cnn" else None
            row["label_gain"] = 0.01 if variant.startswith("lantk") else None
            rows += [row | {"protocol": protocol} for protocol in ("honest", "oracle")]
        figure = results / "figures" / f"{task}.png"
        figure.parent.mkdir(exist_ok=True)
        figure.write_bytes(b"\x89PNG")
    pd.DataFrame(rows)[TABLE_COLUMNS].to_csv(results / "table.csv", index=False)
    (results / "table.md").write_text("| | 3-8 |\n")
    return results


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """No setting of the user's shell decides where a test writes."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory):
    """Return a store for all tests: making one costs seconds."""
    results = write_results(tmp_path_factory.mktemp("store") / "results")
    sync(results, config=CONFIG, experiment="first of all")
    return results.with_name("mlflow.db")


@pytest.fixture
def own_store(tmp_path, shared_store):
    """Return a function that copies the shared store, still without "lantk", to a place."""

    def copy(database: Path) -> Path:
        database.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(shared_store, database)

    return copy


@pytest.fixture
def results(tmp_path):
    """Return a results folder."""
    return write_results(tmp_path / "all" / "digits")


@pytest.fixture
def to(shared_store, request):
    """Return the arguments that lead `sync` to an experiment of this test's own."""
    return {
        "config": CONFIG,
        "uri": f"sqlite:///{shared_store}",
        "experiment": request.node.name,
    }


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


NAMES = {"3-8 cntk", "3-8 lantk-kr-v1", "3-8 lantk-best", "3-8 cnn seed 0", "3-8 cnn seed 1"}


def test_names_and_types_agree_between_runs(tmp_path):
    """Runs of every kind share the names of their metrics, and a name has one type everywhere."""
    runs = {run.name: run for run in read_runs(write_results(tmp_path))}
    assert set(runs) == NAMES
    shared = {"accuracy_honest", "ci_low_honest", "ci_high_honest", "accuracy_oracle"}
    for run in runs.values():
        assert shared <= set(run.metrics)
        assert all(type(value) is float for value in run.metrics.values())
        assert {
            "n_train": 40,
            "n_test": 300,
            "architecture": "a" * 16,
            "architecture_name": "chen2020",
        }.items() <= run.params.items()
        assert {
            "task": "3-8",
            "case": "3-8",
            "source": "digits",
            "commit": "abc123",
        }.items() <= run.tags.items()
    assert runs["3-8 cnn seed 1"].tags["seed"] == "1"
    assert runs["3-8 lantk-kr-v1"].metrics["validation_accuracy"] == 0.72
    assert runs["3-8 lantk-kr-v1"].metrics["label_weight_honest"] == 0.01


def test_missing_values_are_left_out(tmp_path):
    """NaN, null and text are no metrics, and a null setting is no parameter."""
    run = next(r for r in read_runs(write_results(tmp_path)) if r.variant == "lantk-kr-v1")
    assert run.metrics["solves"] == 11
    assert not {"smallest_eigenvalue", "solver", "epoch_honest"} & set(run.metrics)
    assert "channels" not in run.params
    steps = [step for step, _ in run.curves["curve_validation_accuracy"]]
    assert steps == [0, 1, 2]  # the fourth weight was not validated
    weights = ((0, 0.0), (1, 0.001), (2, 0.01), (3, 0.1))
    assert run.curves["curve_label_weight"] == weights


@pytest.mark.parametrize(
    ("seeds", "name"), [(None, "seed 0"), ([0, 1], "seed 0"), ([10, 1, 0], "seed 0")]
)
def test_p_value_belongs_to_the_lowest_seed(tmp_path, seeds, name):
    """Only the network of the lowest seed, which was tested, carries the table's p-value."""
    runs = read_runs(write_results(tmp_path), seeds=seeds)
    tested = [run.name for run in runs if run.variant == "cnn" and "p_value_honest" in run.metrics]
    assert tested == [f"3-8 cnn {name}"]


def test_what_only_the_table_knows_is_logged(tmp_path):
    """Label gain and spread over seeds are read from the table, the spread with the first seed."""
    runs = {run.name: run.metrics for run in read_runs(write_results(tmp_path))}
    assert runs["3-8 lantk-kr-v1"]["label_gain_honest"] == 0.01
    assert runs["3-8 lantk-best"]["label_gain_oracle"] == 0.01
    assert runs["3-8 cnn seed 0"]["spread_honest"] == 0.02
    assert "spread_honest" not in runs["3-8 cnn seed 1"]
    assert "label_gain_honest" not in runs["3-8 cntk"]


def test_ridge_is_a_metric_and_its_grid_a_curve(tmp_path):
    """The chosen ridge is logged for each protocol, and the ridges tried are a curve."""
    write_evaluation(tmp_path, "cntk-ridge")
    (run,) = read_runs(tmp_path)
    assert run.metrics["ridge_honest"] == 0.01
    assert [value for _, value in run.curves["curve_ridge"]] == [0.0, 0.001, 0.01, 0.1]
    assert "label_weight_honest" not in run.metrics


def test_shuffled_seeds_follow_the_number_of_permutations(tmp_path):
    """Shuffled twins are runs of their own, as many as the configuration asks for."""
    for seed in (0, 1, 5):
        write_evaluation(tmp_path, "lantk-kr-v1-shuffled", seed=seed)
        write_evaluation(tmp_path, "cnn", seed=seed)
    names = [run.name for run in read_runs(tmp_path, seeds=[5], permutations=2)]
    shuffled = [f"3-8 lantk-kr-v1-shuffled seed {seed}" for seed in (0, 1)]
    assert names == ["3-8 cnn seed 5", *shuffled]
    assert len(read_runs(tmp_path)) == 6


def test_cases_of_one_task_are_kept_apart(tmp_path):
    """Several n of one task are cases of their own: each with its name, rows and derived run."""
    rows = []
    for n in (40, 80):
        write_evaluation(tmp_path, "lantk-kr-v1", n_train=n, case=f"3-8.n{n}")
        row = TABLE_VALUES | {"task": "3-8", "architecture": "chen2020", "protocol": "honest"}
        for variant in ("lantk-kr-v1", "lantk-best"):
            rows.append(row | {"variant": variant, "n_train": n, "p_value": n / 1000})
    pd.DataFrame(rows)[TABLE_COLUMNS].to_csv(tmp_path / "table.csv", index=False)
    found = {run.name: run.metrics["p_value_honest"] for run in read_runs(tmp_path)}
    assert found == {
        "3-8.n40 lantk-best": 0.04,
        "3-8.n40 lantk-kr-v1": 0.04,
        "3-8.n80 lantk-best": 0.08,
        "3-8.n80 lantk-kr-v1": 0.08,
    }


def test_leftover_evaluations_are_not_read(tmp_path):
    """An evaluation that the table does not list, and a file still being written, are no runs."""
    results = write_results(tmp_path)
    write_evaluation(results, "lantk-kr-v2")
    results.joinpath("evaluations", "3-8", ".tmp-1-cntk.json").write_text("{")
    assert {run.name for run in read_runs(results)} == NAMES


def test_what_the_results_no_longer_have_is_superseded(results, to):
    """A variant and a seed that were taken out of the configuration are no longer current."""
    sync(results, **to)
    table = (results / "table.csv").read_text().splitlines()
    kept = [row for row in table if "lantk-kr-v1" not in row]
    (results / "table.csv").write_text("\n".join(kept) + "\n")
    report = sync(results, **to | {"config": CONFIG | {"cnn": {"seeds": [0]}}})
    assert counts(report) == (0, 3, 2, 0)
    assert set(runs_of(report, "current")) == {"3-8 cntk", "3-8 lantk-best", "3-8 cnn seed 0"}
    assert counts(sync(results, **to)) == (1, 3, 0, 0)


def test_fingerprint_follows_content_but_not_time(tmp_path):
    """A fingerprint changes with metric, curve, prediction, data and code, not with time."""
    results = write_results(tmp_path)
    path = results / "evaluations" / "3-8" / "cntk.json"

    def fingerprint(**changes) -> str:
        path.write_text(json.dumps(json.loads(original) | changes))
        (run,) = [run for run in read_runs(results) if run.variant == "cntk"]
        return run.fingerprint

    original = path.read_text()
    first = fingerprint()
    os.utime(path, (1, 1))
    assert fingerprint(seconds=5.0, diagnostics={"solves": 11, "solve_seconds": 3.0}) == first
    different = [
        fingerprint(diagnostics={"solves": 12}),
        fingerprint(curve=[]),
        fingerprint(data={"source": "digits", "digest": "e" * 64}),
        fingerprint(provenance={"code": "another"}),
        fingerprint(settings={"folds": 4}),
    ]
    path.with_suffix(".csv").write_text("index,label,honest,oracle\n0,1,0.5,0.5\n")
    different.append(fingerprint())
    assert len({first, *different}) == 7


def test_first_sync_logs_every_run_and_second_nothing(results, to):
    """The first sync logs each task, variant and seed once; the second changes nothing."""
    first = sync(results, **to)
    assert counts(first) == (5, 0, 0, 0)
    before = runs_of(first)
    assert set(before) == NAMES
    second = sync(results, **to)
    assert counts(second) == (0, 5, 0, 0)
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
    assert run.data.params["folds"] == "5"
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
    assert counts(second) == (1, 4, 1, 0)
    current, (old,) = runs_of(second, "current"), runs_of(second, "superseded").values()
    assert set(current) == NAMES
    assert current["3-8 lantk-kr-v1"].data.metrics["accuracy_honest"] == 0.8
    assert (old.info.run_id, old.info.run_name) == (old_id, "3-8 lantk-kr-v1 (superseded)")
    assert old.data.tags["superseded_by"] == current["3-8 lantk-kr-v1"].info.run_id
    assert counts(sync(results, **to)) == (0, 5, 0, 0)


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
    assert counts(report) == (3, 2, 0, 1)
    found = client_of(report).search_runs([report.experiment_id])
    assert sorted(run.info.run_name for run in found) == sorted(NAMES)
    assert all(run.info.status == "FINISHED" and "fingerprint" in run.data.tags for run in found)


def test_interrupt_before_marking_is_mended(results, to, monkeypatch):
    """When the new run is whole but the old one is not marked yet, the next sync marks it."""
    sync(results, **to)
    write_evaluation(results, "cntk", accuracy=0.8)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_mark_superseded", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sync(results, **to)
    assert counts(sync(results, **to)) == (0, 5, 1, 0)


def test_runs_beyond_one_page_are_found(results, to, monkeypatch):
    """Runs that the store returns on later pages are recognised too."""
    monkeypatch.setattr(tracking, "_RUNS_PER_PAGE", 2)
    sync(results, **to)
    assert counts(sync(results, **to)) == (0, 5, 0, 0)


def test_results_folders_do_not_touch_each_other(results, to):
    """Two results folders in one experiment keep their runs, whichever is synced last."""
    other = write_results(results.with_name("other"))
    sync(results, **to)
    report = sync(other, **to | {"config": CONFIG | {"results": "results/other"}})
    assert counts(report) == (5, 0, 0, 0)
    assert counts(sync(results, **to)) == (0, 5, 0, 0)


def test_deleted_store_is_rebuilt(tmp_path, own_store, monkeypatch):
    """Without its database the next sync makes one and logs every run again, whatever the path."""
    monkeypatch.chdir(tmp_path)
    results = write_results(tmp_path / "why?" / "digits")
    database = own_store(results.with_name("mlflow.db"))
    first = sync(results, config=CONFIG)
    database.unlink()
    second = sync(results, config=CONFIG)
    assert counts(second) == (5, 0, 0, 0)
    assert set(runs_of(second)) == NAMES
    assert set(first.run_ids["3-8"]).isdisjoint(second.run_ids["3-8"])
    assert database.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["why?"]


SYNC_SCRIPT = """
import json, pathlib, sys, time
import mlflow
from lantk.tracking import sync
results, ready, go, config = map(pathlib.Path, sys.argv[1:5])
ready.touch()
while not go.exists():
    time.sleep(0.001)
print(sync(results, config=json.loads(config.read_text())).created)
"""


def test_two_processes_share_a_fresh_store(tmp_path):
    """Two processes that find no store make one together, and both keep all their runs."""
    go, processes = tmp_path / "go", []
    for name in ("one", "two"):
        folder = write_results(tmp_path / "all" / name)
        config = tmp_path / f"{name}.json"
        config.write_text(json.dumps(CONFIG | {"results": name}))
        command = [sys.executable, "-c", SYNC_SCRIPT, folder, tmp_path / name, go, config]
        processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    while not (tmp_path / "one").exists() or not (tmp_path / "two").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    go.touch()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == [b"5\n", b"5\n"]
    report = sync(tmp_path / "all" / "one", config=CONFIG | {"results": "one"})
    assert counts(report) == (0, 5, 0, 0)
    assert len(client_of(report).search_runs([report.experiment_id])) == 10
    assert len(client_of(report).search_experiments()) == 2  # ours and MLflow's "Default"


@pytest.mark.parametrize("name", ["a b'\"$ ü 漢", "100%25 no#1", "why?x=1&y"])
def test_odd_folder_names(tmp_path, own_store, name, monkeypatch):
    """Spaces, quotes, signs that mean something in an address, and any script work in paths."""
    monkeypatch.chdir(tmp_path)
    results = write_results(tmp_path / name / "digits")
    own_store(results.with_name("mlflow.db"))
    config = CONFIG | {"results": f"{name}/digits"}
    report = sync(results, config=config)
    assert counts(sync(results, config=config)) == (0, 5, 0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {name}
    run_id = report.run_ids["3-8"][0]
    folder = Path(client_of(report).download_artifacts(run_id, ""))
    assert folder.is_relative_to(tmp_path / name / "mlflow-artifacts")
    words = shlex.split(dashboard_hint(report).splitlines()[2])
    assert words[words.index("--backend-store-uri") + 1] == report.uri


def test_store_named_by_the_environment(results, to, monkeypatch):
    """MLFLOW_TRACKING_URI is used when the configuration names no store, and only then."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", to["uri"])
    assert counts(sync(results, **to | {"uri": None})) == (5, 0, 0, 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert counts(sync(results, **to)) == (0, 5, 0, 0)
    assert not results.with_name("mlflow.db").exists()


def test_unreachable_server(results):
    """A server that does not answer is named, without its password, and the results stay."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: every connection is refused
        uri = f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            TrackingError, match=r"me:\*\*\*@127.*untouched.*tracking\.uri"
        ) as failure:
            sync(results, config=CONFIG, uri=uri)
    assert "secret" not in str(failure.value)
    assert "refused" in str(failure.value)


def test_password_is_not_passed_on(results, to, tmp_path, monkeypatch):
    """The password in a store's address is neither logged nor reported nor printed."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(to["uri"])
    client.create_experiment(to["experiment"], artifact_location=(tmp_path / "files").as_uri())
    monkeypatch.setattr(tracking, "_connect", lambda _: client)
    uri = "http://me:secret@127.0.0.1:9"
    report = sync(results, **to | {"uri": uri, "config": CONFIG | {"tracking": {"uri": uri}}})
    folder = Path(client.download_artifacts(report.run_ids["3-8"][0], ""))
    logged = "".join(path.read_text(errors="ignore") for path in folder.iterdir())
    assert "http://me:***@127.0.0.1:9" in logged
    assert "secret" not in logged + str(report) + dashboard_hint(report)


def test_unusable_stores(results, own_store, monkeypatch):
    """A damaged file, another schema version, a folder and a store in memory are refused."""
    database = results.with_name("damaged.db")
    database.write_bytes(b"no database " * 100)
    with pytest.raises(TrackingError, match=r"not a database.*move damaged\.db away"):
        sync(results, config=CONFIG, uri=f"sqlite:///{database}")
    assert database.read_bytes() == b"no database " * 100

    database = own_store(results.with_name("other-version.db"))
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00'")
    with pytest.raises(TrackingError, match=r"version f00.*mlflow db upgrade"):
        sync(results, config=CONFIG, uri=f"sqlite:///{database}")

    # Opening fails at once: trying again, as MLflow does for minutes, would sleep.
    monkeypatch.setattr(
        time, "sleep", lambda _: pytest.fail("waited for a folder to become a file")
    )
    with pytest.raises(TrackingError, match="unable to open database file"):
        sync(results, config=CONFIG, uri=f"sqlite:///{results}")
    with pytest.raises(TrackingError, match="in memory"):
        sync(results, config=CONFIG, uri="sqlite://")


def test_moved_store_is_refused(results, tmp_path, own_store):
    """A store that was copied to another place is not written, since its files lie elsewhere."""
    own_store(results.with_name("mlflow.db"))
    sync(results, config=CONFIG)
    copied = tmp_path / "copy" / "digits"
    shutil.copytree(results.parent, copied.parent)
    with pytest.raises(TrackingError, match=r"moved or copied.*wanted .*copy"):
        sync(copied, config=CONFIG)


def test_deleted_experiment_is_refused(results, to):
    """An experiment in the store's bin is not written to; the message says how to restore it."""
    report = sync(results, **to)
    client_of(report).delete_experiment(report.experiment_id)
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        sync(results, **to)


def test_unreadable_results(tmp_path):
    """No evaluation, half a file and a file with keys missing each get a message with a path."""
    with pytest.raises(TrackingError, match="no evaluation found"):
        read_runs(tmp_path)
    path = write_evaluation(tmp_path, "cntk")
    path.write_text(path.read_text()[:100])
    with pytest.raises(TrackingError, match=r"cntk\.json cannot be read"):
        read_runs(tmp_path)
    path.write_text('{"task": "3-8"}')
    with pytest.raises(TrackingError, match=r"cntk\.json is not an evaluation.*'architecture'"):
        read_runs(tmp_path)


def test_dashboard_hint(results, to):
    """The hint holds the server's command and links that name exactly the current runs."""
    report = sync(results, **to)
    hint = dashboard_hint(report)
    assert f"mlflow server --backend-store-uri {report.uri} --host 127.0.0.1" in hint
    assert report.links["all runs"] in hint
    assert report.links["3-8"] in hint
    query = parse_qs(report.links["3-8"].partition("?")[2])
    assert json.loads(query["runs"][0]) == list(report.run_ids["3-8"])
    assert json.loads(query["experiments"][0]) == [report.experiment_id]
    query = parse_qs(report.links["all runs"].partition("?")[2])
    assert query["workflowType"] == ["machine_learning"]
    found = client_of(report).search_runs([report.experiment_id], query["searchFilter"][0])
    assert {run.info.run_name for run in found} == NAMES
