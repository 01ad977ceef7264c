"""A store for the tests of tracking, and an environment that names none."""

from __future__ import annotations

import os

import pytest
from records import make_record, write_record

from lantk.experiment.records import Listing
from lantk.tracking.sync import Target, sync


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """No setting of the user's shell decides where a test writes."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory):
    """Return a store for all tests: making one costs seconds."""
    results = tmp_path_factory.mktemp("store") / "results"
    write_record(results, make_record("cntk"))
    listing, config = Listing(("3-8",), ("cntk",), 1, (0,)), {"results": "results/first"}
    sync(Target(results, listing, config, experiment="first of all"))
    return results.with_name("mlflow.db")


@pytest.fixture
def to(shared_store, request):
    """Return the arguments that lead `sync` to an experiment of this test's own."""
    return {
        "uri": f"sqlite:///{shared_store}",
        "experiment": request.node.name,
    }
